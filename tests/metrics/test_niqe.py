"""metrics.niqe against its definition in NumPy; official scores are in test_calibration.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.io import savemat
from scipy.ndimage import correlate
from scipy.special import gamma

from maskgit_sr.errors import UserError
from maskgit_sr.metrics import niqe, pixel
from maskgit_sr.ops.resize import downsample_bicubic

SHAPE_FEATURES = [scale + i for scale in (0, 18) for i in (0, 2, 6, 10, 14)]
SHAPES = np.arange(0.2, 10.001, 0.001)
RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))


def photo(height=110, width=195):
    """[1,H,W,3] in 8-bit levels: smooth noise, nowhere flat."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(height + 8, width + 8, 3))
    for axis in (0, 1):
        x = sum(np.roll(x, i, axis) for i in range(3))
    x = 0.5 + 0.15 * x[4:-4, 4:-4] / x.std()
    return np.round(255 * np.clip(x, 0, 1))[None].astype(np.float32) / 255


def fit(values):
    """Lasmar's moment estimate, as the authors' script writes it."""
    left = np.sqrt((values[values < 0] ** 2).mean())
    right = np.sqrt((values[values > 0] ** 2).mean())
    ratio = left / right
    spread = np.abs(values).mean() ** 2 / (values**2).mean()
    wanted = spread * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = SHAPES[np.argmin((RATIOS - wanted) ** 2)]
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * width, right * width


def expected_features(levels):
    """Float64 features [n,36] of grey levels [H,W] by loops over blocks."""
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    scales = []
    for side in (96, 48):
        mean = correlate(levels, window, mode="nearest")
        variance = correlate(levels**2, window, mode="nearest") - mean**2
        normal = (levels - mean) / (np.sqrt(np.abs(variance)) + 1)
        rows = []
        for i, j in np.ndindex(levels.shape[0] // side, levels.shape[1] // side):
            block = normal[i * side : (i + 1) * side, j * side : (j + 1) * side]
            shape, left, right = fit(block)
            row = [shape, (left + right) / 2]
            for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                shape, left, right = fit(block * np.roll(block, shift, (0, 1)))
                mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
                row += [shape, mean, left, right]
            rows.append(row)
        scales.append(rows)
        levels = np.asarray(downsample_bicubic(jnp.asarray(levels)[None, ..., None], 2))[0, ..., 0]
        levels = levels.astype(np.float64)
    return np.concatenate(scales, axis=1)


@pytest.mark.parametrize(("color", "border"), [("luma", 0), ("y", 4)])
def test_features_are_the_definition(color, border):
    x = photo(96 + 2 * border, 192 + 2 * border + 3)  # the last columns are dropped
    inner = x[:, border : border + 96, border : border + 192].astype(np.float32)
    levels = pixel.rgb_to_luma(inner) if color == "luma" else np.round(255 * pixel.rgb_to_y(inner))
    found = niqe.features(x, color=color, border=border)
    assert found.shape == (1, 2, 36)
    # A shape is a multiple of 0.001: float32 may take the neighbour.
    expected = expected_features(np.asarray(levels, np.float64)[0, ..., 0])
    np.testing.assert_allclose(found[0], expected, atol=2e-3)


def test_distance():
    rng = np.random.default_rng(0)
    blocks, mean = rng.normal(size=(3, 9, 36)), rng.normal(size=36)
    cov = np.diag(rng.uniform(1, 2, 36))
    blocks[1, 2, 5] = np.nan  # the block is left out of the covariance, the number of the mean
    blocks[2, :8, 0] = np.nan
    for i, found in enumerate(niqe.distance(blocks[:2], mean, cov)):
        whole = blocks[i][~np.isnan(blocks[i]).any(1)]
        apart = mean - np.nanmean(blocks[i], 0)
        pooled = (cov + np.cov(whole.T)) / 2
        np.testing.assert_allclose(
            found, np.sqrt(apart @ np.linalg.solve(pooled, apart)), rtol=1e-5
        )
    assert np.isnan(niqe.distance(blocks, mean, cov)[2])


def test_flat_parts():
    """A flat block has no fit; flat parts of others count as neither side."""
    x = photo(96, 288)
    x[:, :, 170:] = 0.5
    found = np.asarray(niqe.features(x))[0]
    flat = found[2]
    np.testing.assert_allclose(flat[SHAPE_FEATURES], 0.2)
    assert np.isnan(np.delete(flat, SHAPE_FEATURES)).all()
    assert np.isfinite(found[:2]).all()
    x[:, :, 150:] = 0.5
    again = np.asarray(niqe.features(x))[0, 1]
    assert np.isfinite(again).all() and not np.allclose(again, found[1])


def test_statistics_from_both_formats(tmp_path):
    mean, cov = np.arange(36.0), np.eye(36) + 0.1
    np.savez(tmp_path / "a.npz", mu_pris_param=mean[None], cov_pris_param=cov)
    savemat(tmp_path / "b.mat", {"mu_prisparam": mean[None], "cov_prisparam": cov})
    x = photo()
    ours, matlab = (niqe.load(tmp_path / name)(x) for name in ("a.npz", "b.mat"))
    np.testing.assert_array_equal(ours, matlab)
    assert ours.shape == (1,) and ours.dtype == jnp.float32 and ours[0] > 0
    np.savez(tmp_path / "c.npz", mu_pris_param=mean[1:], cov_pris_param=cov)
    for name in ("c.npz", "absent.npz"):
        with pytest.raises(UserError, match=f"{name}: not NIQE's statistics"):
            niqe.load(tmp_path / name)


@pytest.mark.parametrize("shape", [(96, 191), (191, 96), (95, 400), (1, 1)])
def test_too_small(shape):
    with pytest.raises(ValueError, match="such as 96x192"):
        niqe.features(jnp.zeros((1, *shape, 3)))
