"""models.layers against NumPy and against XLA's own gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskgit_sr.models.layers import (
    AttentionBlock,
    Downsample,
    GroupNorm,
    ResidualBlock,
    Upsample,
    conv,
    conv3x3,
)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def rngs():
    return nnx.Rngs(0)


def convolve(x, kernel, stride, pad):
    """Cross-correlation by loops; ``pad``: zeros before and after each side."""
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    size = kernel.shape[0]
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
    for i, j in np.ndindex(height, width):
        patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
        out[:, i, j] = np.einsum("bklc,klcd->bd", patch, kernel)
    return out


@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [
        (2, 5, 7),
        (1, 1, 1),
        (3, 7, 1),
        (1, 10, 2000),  # bands of two rows
        (2, 3, 2000),  # 3 is prime: bands of one row
        (1, 2, 5001),  # a row alone is longer than a band
    ],
)
def test_conv3x3_gradient_is_xlas(batch, height, width):
    x, kernel = normal(0, batch, height, width, 4), normal(1, 3, 3, 4, 6)
    target = normal(2, batch, height, width, 6)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    @jax.jit
    def both(x, kernel):
        (a, pull), (b, pull_plain) = jax.vjp(conv3x3, x, kernel), jax.vjp(plain, x, kernel)
        return (a, *pull(target)), (b, *pull_plain(target))

    for found, expected in zip(*both(x, kernel), strict=True):
        # A sum over many positions is rounded in another order.
        atol = 1e-4 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("size", "stride", "padding", "pad"),
    [
        (3, 1, "SAME", (1, 1)),
        (3, 2, [(0, 1)] * 2, (0, 1)),
        (1, 1, "SAME", (0, 0)),
        (4, 2, 1, (1, 1)),
    ],
)
def test_conv(size, stride, padding, pad):
    layer = conv(2, 3, size, strides=stride, padding=padding, dtype=jnp.float32, rngs=rngs())
    layer.bias[...] = jnp.array([1.0, -2.0, 0.5])
    x = normal(3, 2, 6, 8, 2)
    expected = convolve(np.asarray(x), np.asarray(layer.kernel[...]), stride, pad)
    np.testing.assert_allclose(layer(x), expected + np.array([1.0, -2.0, 0.5]), atol=1e-5)


def test_group_norm():
    norm = GroupNorm(12, groups=4)
    norm.scale[...], norm.bias[...] = normal(0, 12), normal(1, 12)
    x = 3 + 2 * normal(2, 2, 5, 3, 12)
    groups = np.asarray(x, np.float64).reshape(2, 15, 4, 3)
    mean = groups.mean((1, 3), keepdims=True)
    unit = (groups - mean) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    expected = unit.reshape(x.shape) * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(x), expected, atol=2e-5)


def test_group_norm_of_a_flat_image_is_its_bias():
    norm = GroupNorm(32)
    norm.bias[...] = jnp.full(32, 0.25)
    np.testing.assert_allclose(norm(jnp.full((1, 4, 4, 32), 100.0)), 0.25, atol=1e-3)


def test_attention_block_is_softmax_attention():
    block = AttentionBlock(32, dtype=jnp.float32, rngs=rngs())
    x = normal(0, 2, 3, 4, 32)
    y = np.asarray(block.norm(x)).reshape(2, 12, 32)
    q, k, v, out = (
        (lambda z, c=c: z @ np.asarray(c.kernel[...])[0, 0] + np.asarray(c.bias[...]))
        for c in (block.query, block.key, block.value, block.out)
    )
    logits = np.einsum("bqc,bkc->bqk", q(y), k(y)) / np.sqrt(32)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.asarray(x) + out(weights @ v(y)).reshape(x.shape)
    np.testing.assert_allclose(block(x), expected, atol=1e-5)


def test_shapes_and_compute_dtype():
    x = jnp.ones((1, 8, 6, 32), jnp.bfloat16)
    down = Downsample(32, dtype=jnp.bfloat16, rngs=rngs())
    up = Upsample(32, 64, dtype=jnp.bfloat16, rngs=rngs())
    wide = ResidualBlock(32, 64, dtype=jnp.bfloat16, rngs=rngs())
    shapes = [jax.eval_shape(layer, x) for layer in (down, up, wide)]
    assert [s.shape for s in shapes] == [(1, 4, 3, 32), (1, 16, 12, 64), (1, 8, 6, 64)]
    assert all(s.dtype == jnp.bfloat16 for s in shapes)
    leaves = jax.tree.leaves(nnx.state((down, up, wide)))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
