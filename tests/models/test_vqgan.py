"""models.vqgan: shapes, the two-step decoder and its configurations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.models.functional import Network, flatten
from maskgit_sr.models.vqgan import VQGAN, VQGANConfig


def build(config, dtype=jnp.float32, remat=False):
    return Network(lambda rngs: VQGAN(config, dtype=dtype, rngs=rngs, remat=remat))


def test_encode_and_decode(method, params):
    image = jax.random.uniform(jax.random.key(0), (2, 64, 64, 3))

    @jax.jit
    def both(params, image):
        module = method.tokenizer.bind(params)
        vectors = module.encode(image)
        split = module.decoder.head(module.decoder.body(module.latent(vectors)))
        return vectors, module.decode(vectors), split

    vectors, output, split = both(params["tokenizer"], image)
    assert vectors.shape == (2, 8, 8, 16) and vectors.dtype == jnp.float32
    assert output.shape == image.shape and output.dtype == jnp.float32
    np.testing.assert_allclose(output, split, atol=1e-6)
    assert np.std(output) > 0


def test_remat_leaves_the_function_and_keeps_less(tiny, params):
    """Same loss and gradients; what the backward pass is handed is smaller."""
    image = jax.random.uniform(jax.random.key(0), (2, 64, 64, 3))

    def differentiated(remat):
        network = build(tiny.tokenizer, remat=remat)

        def loss(own):
            module = network.bind(own)
            return jnp.mean((module.decode(module.encode(image)) - image) ** 2)

        kept = jax.eval_shape(lambda own: jax.vjp(loss, own)[1], params["tokenizer"])
        bytes_kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
        return *jax.jit(jax.value_and_grad(loss))(params["tokenizer"]), bytes_kept

    value, grads, whole = differentiated(False)
    again, same, less = differentiated(True)
    np.testing.assert_allclose(value, again, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert less < whole / 2


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 8),
        ({"patch": 4, "channels": (32, 64)}, 8),
        ({"patch": 2, "channels": (32, 64, 64), "narrow_up": True}, 8),
        ({"channels": (32,)}, 1),
    ],
)
def test_factor_sets_the_grid(changes, factor):
    config = dataclasses.replace(VQGANConfig(), **changes)
    assert config.factor == factor
    network = build(config, jnp.bfloat16)
    image = jax.ShapeDtypeStruct((1, 16, 32, 3), jnp.float32)

    def both(params, image):
        module = network.bind(params)
        vectors = module.encode(image)
        return vectors, module.decode(vectors)

    vectors, output = jax.eval_shape(both, network.shapes, image)
    assert vectors.shape == (1, 16 // factor, 32 // factor, 256)
    assert vectors.dtype == output.dtype == jnp.float32  # whatever the compute dtype
    assert output.shape == image.shape
    assert {leaf.dtype for leaf in flatten(network.shapes).values()} == {jnp.dtype("float32")}


def test_narrow_up_makes_the_decoder_smaller():
    def size(**changes):
        config = dataclasses.replace(VQGANConfig(channels=(32, 128)), **changes)
        return sum(x.size for x in jax.tree.leaves(build(config).shapes["decoder"]))

    assert size(narrow_up=True) < size()
