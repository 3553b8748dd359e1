"""metrics.pixel against NumPy and scikit-image; official scores are in test_calibration.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from skimage.color import rgb2ycbcr
from skimage.metrics import structural_similarity

from maskgit_sr.metrics.pixel import ms_ssim, psnr, rgb_to_y, ssim


def pair(height=24, width=31, batch=2, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 1, (batch, height // 6 + 1, width // 6 + 1, 3))
    x = coarse.repeat(6, 1).repeat(6, 2)[:, :height, :width].astype(np.float32)
    y = np.clip(x + noise * rng.normal(size=x.shape), 0, 1).astype(np.float32)
    return x, y


def luma(x):
    """rgb2gray as MATLAB defines it: the first row of the inverse of YIQ to RGB."""
    rgb = np.linalg.inv([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.106, 1.703]])[0]
    return np.round(255 * (x @ rgb)) / 255


def plane(x, color):
    """x in `color` as float64 [B,H,W,C]."""
    x = x.astype(np.float64)
    if color == "rgb":
        return x
    return (rgb2ycbcr(x)[..., :1] / 255) if color == "y" else luma(x)[..., None]


def test_rgb_to_y():
    x = pair()[0]
    np.testing.assert_allclose(rgb_to_y(jnp.asarray(x)), plane(x, "y"), atol=1e-6)
    ends = jnp.array([[0.0, 0, 0], [1, 1, 1]])
    np.testing.assert_allclose(255 * rgb_to_y(ends)[:, 0], [16, 235], rtol=1e-6)


@given(
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    border=st.integers(0, 2),
    color=st.sampled_from(["rgb", "y"]),
)
@settings(max_examples=8, deadline=None)
def test_psnr_is_numpys(height, width, border, color):
    x, y = pair(height, width)
    cut = slice(border, -border or None)
    error = (plane(x, color) - plane(y, color))[:, cut, cut]
    expected = -10 * np.log10((error**2).mean((1, 2, 3)))
    np.testing.assert_allclose(psnr(x, y, color=color, border=border), expected, atol=1e-3)


def test_psnr_of_equal_images_is_capped():
    x, _ = pair()
    np.testing.assert_allclose(psnr(x, x), 100)
    np.testing.assert_allclose(psnr(x, x + 1e-6, color="y"), 100)
    assert jnp.isfinite(jax.grad(lambda z: psnr(z, x).sum())(jnp.asarray(x))).all()


@pytest.mark.parametrize(
    ("height", "width", "border", "color", "tolerance"),
    [
        (11, 11, 0, "y", 2e-5),
        (17, 30, 3, "y", 2e-5),
        (20, 11, 0, "rgb", 2e-5),
        (24, 31, 0, "luma", 2e-4),
    ],
)
def test_ssim_is_scikit_images(height, width, border, color, tolerance):
    x, y = pair(height, width)
    cut = slice(border, -border or None)
    a, b = (plane(z, color)[:, cut, cut] for z in (x, y))
    expected = [skimage_ssim(a[i], b[i]) for i in range(len(a))]
    np.testing.assert_allclose(ssim(x, y, color=color, border=border), expected, atol=tolerance)


def skimage_ssim(a, b):
    """Mean over the positions where the whole 11x11 window fits."""
    window = dict(gaussian_weights=True, sigma=1.5, truncate=3.5, use_sample_covariance=False)
    _, full = structural_similarity(a, b, data_range=1, channel_axis=-1, full=True, **window)
    return full[5:-5, 5:-5].mean()


@pytest.mark.parametrize("score", [ssim, ms_ssim])
def test_ssim_identity_and_gradient(score):
    x, y = (jnp.asarray(z) for z in pair(161, 166, batch=1))
    value_and_grad = jax.value_and_grad(lambda z: score(z, x)[0])
    same, at_same = value_and_grad(x)
    other, at_other = value_and_grad(y)
    np.testing.assert_allclose(same, 1, atol=1e-5)
    assert 0 < other < 1
    assert jnp.isfinite(at_same).all() and jnp.isfinite(at_other).all()


def test_constant_images():
    """No variance anywhere: only luminance counts, and little is lost to cancellation."""
    x, y = (np.full((1, 16, 16, 3), value, np.float32) for value in (0.9, 0.6))
    expected = (2 * 0.9 * 0.6 + 1e-4) / (0.9**2 + 0.6**2 + 1e-4)
    np.testing.assert_allclose(ssim(x, y, color="rgb"), expected, atol=2e-4)


def test_ms_ssim_is_numpys():
    """Five scales of scikit-image's maps; the last row or column of an odd side twice."""
    x, y = pair(161, 176, batch=1, noise=0.2)
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    a, b = (plane(z, "rgb")[0] for z in (x, y))
    factors = np.array([_factors(a[..., c], b[..., c]) for c in range(3)])
    found = ms_ssim(x, y, color="rgb")[0]
    np.testing.assert_allclose(found, (factors**weights).prod(1).mean(), atol=1e-4)
    found = ms_ssim(x, y, color="rgb", method="sum")[0]
    expected = (factors * weights).sum(1).mean() / weights.sum()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def _factors(a, b):
    factors = []
    for scale in range(5):
        factors.append(_cs(a, b) if scale < 4 else skimage_ssim(a[..., None], b[..., None]))
        a, b = (np.pad(z, [(0, side % 2) for side in z.shape], mode="edge") for z in (a, b))
        a, b = ((z[::2, ::2] + z[1::2, ::2] + z[::2, 1::2] + z[1::2, 1::2]) / 4 for z in (a, b))
    return factors


def test_ms_ssim_of_opposites():
    """Negative structure: the product stops at 0, the mean does not."""
    x, _ = pair(161, 176, batch=1)
    assert ms_ssim(x, 1 - x, color="rgb")[0] == 0
    assert ms_ssim(x, 1 - x, color="rgb", method="sum")[0] < -0.5


def _cs(a, b):
    t = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)

    def blur(z):
        for axis in (0, 1):
            z = correlate1d(z, t / t.sum(), axis=axis)
        return z[5:-5, 5:-5]

    va, vb = blur(a * a) - blur(a) ** 2, blur(b * b) - blur(b) ** 2
    return ((2 * (blur(a * b) - blur(a) * blur(b)) + 9e-4) / (va + vb + 9e-4)).mean()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: psnr(x, x[:, 1:]), "one shape"),
        (lambda x: psnr(x[..., :1], x[..., :1]), "B,H,W,3"),
        (lambda x: psnr(x, x, color="lab"), "lab"),
        (lambda x: psnr(x, x, border=12), "border 12"),
        (lambda x: ssim(x, x, border=7), "at least 11"),
        (lambda x: ms_ssim(x, x), "at least 161"),
        (lambda x: ms_ssim(*[jnp.zeros((1, 161, 161, 3))] * 2, method="max"), "max"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.asarray(pair()[0]))
