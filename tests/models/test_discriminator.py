"""models.discriminator: patch grid, layer widths and batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskgit_sr.models.discriminator import DiscriminatorConfig, PatchDiscriminator, batch_norm
from maskgit_sr.models.functional import Network, count


def build(dtype=jnp.float32, **sizes):
    config = DiscriminatorConfig(**sizes)
    return Network(lambda rngs: PatchDiscriminator(config, dtype=dtype, rngs=rngs))


@pytest.mark.parametrize(("layers", "side", "patches"), [(3, 256, 30), (3, 128, 14), (1, 64, 30)])
def test_patch_grid(layers, side, patches):
    network = build(jnp.bfloat16, layers=layers)
    image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    found = jax.eval_shape(lambda p, x: network.bind(p)(x), network.shapes, image)
    assert found.shape == (2, patches, patches, 1) and found.dtype == jnp.float32


def test_published_size():
    # convolutions 3→64→128→256→512→1 of 4×4; norms after the middle three
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert count(build().shapes) == kernels + 64 + 1 + 2 * (128 + 256 + 512)


def test_without_norms_images_are_judged_alone():
    network = build(filters=8, layers=2, norms=False)
    params = network.init(jax.random.key(0))
    assert count(params) == 16 * (3 * 8 + 8 * 16 + 16 * 32 + 32) + 8 + 16 + 32 + 1
    images = jax.random.uniform(jax.random.key(1), (3, 32, 32, 3))
    whole = network.apply(params, lambda m: m(images))
    alone = network.apply(params, lambda m: m(images[:1]))
    np.testing.assert_allclose(alone[0], whole[0], atol=1e-5)


def test_batch_norm_uses_the_batch():
    norm = batch_norm(3, rngs=nnx.Rngs(0))
    norm.bias[...] = jnp.array([1.0, 2.0, 3.0])
    x = 5 + 2 * np.asarray(jax.random.normal(jax.random.key(0), (4, 6, 6, 3)))
    unit = (x - x.mean((0, 1, 2))) / np.sqrt(np.var(x, (0, 1, 2)) + 1e-5)
    expected = unit * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(x), expected, atol=1e-5)
