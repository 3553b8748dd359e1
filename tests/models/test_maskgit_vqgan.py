"""models.maskgit_vqgan: the public code's numbers, sizes, and the quirk of its shortcut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.convert.maskgit import from_official
from maskgit_sr.models.functional import Network, count
from maskgit_sr.models.maskgit_vqgan import (
    MaskGITVQGAN,
    MaskGITVQGANConfig,
    OutputShortcutBlock,
    mean_pool,
)
from tests.models.maskgit_oracle import TINY, agree, golden, inputs

SMALL = MaskGITVQGANConfig(width=8, multipliers=(1, 2), blocks=1, code_width=8, codes=16, groups=4)


def build(config, dtype=jnp.float32, remat=False):
    return Network(lambda rngs: MaskGITVQGAN(config, dtype=dtype, rngs=rngs, remat=remat))


def test_published_counts():
    shapes = build(MaskGITVQGANConfig()).shapes
    counts = {"encoder": 23_775_104, "decoder": 30_478_339, "codebook": 262_144}
    assert {part: count(tree) for part, tree in shapes.items()} == counts
    assert count(shapes) == 54_515_587
    assert MaskGITVQGANConfig().factor == 16


def test_public_numbers():
    """Vectors, tokens and image of the public code, at a grid whose sides are rounded up."""
    stored, states = golden()
    network, image = build(TINY.tokenizer), inputs()[0]
    params = from_official(states[0], TINY.tokenizer)

    @jax.jit
    def run(params, image):
        module = network.bind(params)
        vectors = module.encode(image)
        tokens = module.quantize(vectors)
        return vectors, tokens, module.decode(module.embed(tokens))

    vectors, tokens, output = run(params, image)
    assert vectors.shape == (1, 3, 5, 16)
    agree(vectors, stored["vectors"])
    np.testing.assert_array_equal(tokens, stored["tokens"])
    assert len(np.unique(tokens)) > 3
    agree(output, stored["image"])


def test_mean_pool_counts_valid_cells_only():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    expected = [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]
    np.testing.assert_array_equal(mean_pool(x)[0, ..., 0], expected)


def test_shortcut_takes_the_output():
    """With a silent last convolution nothing of the input is left where the widths differ."""
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    for outputs, expected in ((16, jnp.zeros((1, 4, 4, 16))), (8, x)):
        net = Network(
            lambda rngs, outputs=outputs: OutputShortcutBlock(
                8, outputs, groups=4, dtype=jnp.float32, rngs=rngs
            )
        )
        params = net.init(jax.random.key(1))
        params["conv2"]["kernel"] = jnp.zeros_like(params["conv2"]["kernel"])
        np.testing.assert_array_equal(net.apply(params, lambda m: m(x)), expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_leaves_is_float32(dtype):
    network = build(MaskGITVQGANConfig(), dtype)
    image = jax.ShapeDtypeStruct((1, 48, 80, 3), jnp.float32)

    def both(params, image):
        module = network.bind(params)
        vectors = module.encode(image)
        return vectors, module.decode(vectors)

    vectors, output = jax.eval_shape(both, network.shapes, image)
    assert vectors.shape == (1, 3, 5, 256) and output.shape == image.shape
    assert vectors.dtype == output.dtype == jnp.float32


def test_remat_and_bfloat16_leave_the_function():
    image = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    params = build(SMALL).init(jax.random.key(1))

    def evaluate(dtype, transform, remat=False):
        network = build(SMALL, dtype, remat)

        def loss(own):
            module = network.bind(own)
            return jnp.mean((module.decode(module.encode(image)) - image) ** 2)

        return jax.jit(transform(loss))(params)

    value, grads = evaluate(jnp.float32, jax.value_and_grad)
    again, same = evaluate(jnp.float32, jax.value_and_grad, remat=True)
    np.testing.assert_allclose(value, again, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(value, evaluate(jnp.bfloat16, lambda loss: loss), rtol=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(width=24), r"tokenizer.groups: expected a divisor of \(24, 24, 48, 48, 96\)"),
        (dict(multipliers=()), "expected 1 to 11 levels, found 0"),
        (dict(multipliers=(1,) * 12), "expected 1 to 11 levels, found 12"),
    ],
)
def test_sizes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        MaskGITVQGANConfig(**changes)
