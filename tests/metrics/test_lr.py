"""metrics.lr against NumPy; the resizing itself is tested in tests/ops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.metrics.lr import lr_consistency, lr_psnr
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


@pytest.mark.parametrize("shape", [(1, 8, 9, 3), (1, 8, 16, 3), (2, 8, 8, 3), (1, 3, 3, 3)])
def test_sizes_must_be_one_multiple(shape):
    with pytest.raises(ValueError, match="B,sH,sW,3"):
        lr_psnr(jnp.zeros(shape), jnp.zeros((1, 4, 4, 3)))
