"""metrics.lr against NumPy; the resizing itself is tested in tests/ops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.metrics.lr import lr_consistency, lr_psnr, lr_psnr_ntire
from maskgit_sr.ops.resize import downsample_bicubic
from tests.perceptual.published import image


@pytest.mark.parametrize(("scale", "height", "width"), [(4, 5, 3), (3, 1, 2), (1, 4, 4)])
def test_both_are_the_shrunk_error(scale, height, width):
    x = image(scale * height, scale * width)
    lr = np.random.default_rng(1).random((2, height, width, 3), np.float32)
    shrunk = jax.jit(downsample_bicubic, static_argnums=1)(x, scale)
    mse = ((np.asarray(shrunk, np.float64) - lr) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(lr_consistency(x, lr), mse * 1e5, rtol=1e-4)
    np.testing.assert_allclose(lr_psnr(x, lr), -10 * np.log10(mse), atol=1e-3)


def test_an_output_that_explains_its_input():
    x = jnp.asarray(image(24, 32))
    lr = jax.jit(downsample_bicubic, static_argnums=1)(x, 4)
    np.testing.assert_allclose(lr_consistency(x, lr), 0, atol=1e-6)
    np.testing.assert_allclose(lr_psnr(x, lr), 100)
    # 8-bit LR images: the limit that rounding sets is 58.9 dB
    rounded = jnp.round(255 * lr) / 255
    assert ((lr_psnr(x, rounded) > 57) & (lr_psnr(x, rounded) < 61)).all()


def levels(height, width, seed):
    """[1,H,W,3] of bytes: noise over a gradient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = 60 + 2 * y[..., None] + x[..., None] * [1, 1.5, 0.5]
    noisy = smooth + rng.integers(-40, 41, (height, width, 3))
    return noisy.clip(0, 255).round().astype(np.uint8)[None]


def near(y, seed):
    noise = np.random.default_rng(seed).integers(-6, 7, y.shape)
    return (y.astype(int) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("scale", "height", "width", "expected"),
    [
        (2, 24, 40, 43.93032882631924),
        (4, 48, 56, 49.134509059854736),
        (4, 44, 52, 49.2847377956998),  # of which 40x48 are compared
        (8, 64, 72, 51.83746284673286),
    ],
)
def test_ntire_equals_its_tool(scale, height, width, expected):
    """What imresize and psnr of the challenge's measure.py give for these bytes."""
    y = levels(height, width, scale)
    x = near(y, scale)
    lr = np.zeros((1, height // scale, width // scale, 3), np.float32)
    found = lr_psnr_ntire(x.astype(np.float32) / 255, y.astype(np.float32) / 255, lr)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_ntire_rounds_what_it_compares():
    """What 8 bits cannot tell apart is equal; the LR image's values do not matter."""
    y = levels(32, 40, 0).astype(np.float32) / 255
    lr = np.full((1, 8, 10, 3), 0.5, np.float32)
    np.testing.assert_array_equal(lr_psnr_ntire(y + 0.4 / 255, y, lr), 100)
    assert lr_psnr_ntire(y + 0.6 / 255, y, lr) < 49
    np.testing.assert_array_equal(lr_psnr_ntire(y, y, 0 * lr), 100)
    # rows and columns beyond the last multiple of 8 are cut
    wide, other = (np.concatenate([y, edge], axis=2) for edge in (y[:, :, :4], 1 - y[:, :, :4]))
    np.testing.assert_array_equal(lr_psnr_ntire(wide, other, np.zeros((1, 8, 11, 3))), 100)


def test_ntire_takes_scales_that_divide_8():
    x = np.zeros((1, 24, 24, 3), np.float32)
    with pytest.raises(ValueError, match="scale 3: lr_psnr_ntire takes 1, 2, 4 or 8"):
        lr_psnr_ntire(x, x, x[:, ::3, ::3])


@pytest.mark.parametrize("shape", [(1, 8, 9, 3), (1, 8, 16, 3), (2, 8, 8, 3), (1, 3, 3, 3)])
def test_sizes_must_be_one_multiple(shape):
    with pytest.raises(ValueError, match="B,sH,sW,3"):
        lr_psnr(jnp.zeros(shape), jnp.zeros((1, 4, 4, 3)))
