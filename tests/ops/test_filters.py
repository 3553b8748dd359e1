"""ops.filters: the unsharp mask against OpenCV; the grid goes, the rest stays."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_sr.ops.filters import gaussian_blur, unsharp_mask, without_grid

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("amount", "sigma"), [(2.0, 1.5), (0.5, 0.8)])
def test_blur_and_unsharp_mask(amount, sigma):
    image = RNG.random((1, 24, 19, 3)).astype(np.float32)
    side = 2 * int(np.ceil(3 * sigma)) + 1
    blurred = cv2.GaussianBlur(image[0], (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(gaussian_blur(jnp.asarray(image), sigma)[0], blurred, atol=1e-6)
    expected = image[0] + amount * (image[0] - blurred)
    found = unsharp_mask(jnp.asarray(image), amount, sigma)[0]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    flat = jnp.full((1, 8, 8, 3), 0.3)
    np.testing.assert_allclose(unsharp_mask(flat, amount, sigma), flat, atol=1e-6)


def oracle(image, period, cells):
    """The definition, place by place."""
    _, height, width, _ = image.shape
    rows, columns = height // period, width // period
    found = image.astype(np.float64).copy()
    reach = range(-(cells // 2), cells // 2 + 1)

    def block(array, row, column):
        y = min(max(row, 0), rows - 1) * period
        x = min(max(column, 0), columns - 1) * period
        return array[:, y : y + period, x : x + period]

    for row, column in np.ndindex(rows, columns):
        near = [block(image, row + i, column + j) for i in reach for j in reach]
        mean = np.mean(near, axis=0)
        mean -= mean.mean((1, 2), keepdims=True)
        block(found, row, column)[...] -= mean
    return found


@settings(max_examples=8)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3, 5]))
def test_the_definition(period, rows, columns, cells):
    image = RNG.random((2, rows * period, columns * period, 3)).astype(np.float32)
    found = without_grid(jnp.asarray(image), period, cells)
    np.testing.assert_allclose(found, oracle(image, period, cells), atol=2e-6)


def test_a_grid_goes_and_a_photograph_under_it_stays():
    ramp = np.linspace(0.2, 0.8, 64, dtype=np.float32)
    smooth = np.repeat(np.repeat(ramp[None, :, None, None], 64, 2), 3, 3)
    smooth = smooth.reshape(1, 16, 4, 64, 3).mean(2, keepdims=True).repeat(4, 2)
    smooth = smooth.reshape(1, 64, 64, 3)  # no slope within a block, which would count as grid
    tile = RNG.normal(0, 0.1, (4, 4, 3)).astype(np.float32)
    tile -= tile.mean((0, 1))
    grid = np.tile(tile, (16, 16, 1))[None]
    np.testing.assert_allclose(without_grid(jnp.asarray(smooth + grid), 4), smooth, atol=1e-6)


def test_other_periods_stay():
    """A texture of five pixels keeps nine tenths of its power, one of four nothing."""
    x = np.arange(80)
    waves = {p: np.sin(2 * np.pi * x / p)[None, None, :, None].repeat(80, 1) for p in (4, 5)}
    kept = {}
    for period, wave in waves.items():
        found = without_grid(jnp.asarray(wave, jnp.float32), 4)[:, 20:60, 20:60]
        kept[period] = float(np.square(found).mean() / np.square(wave).mean())
    assert kept[4] < 1e-8 and kept[5] > 0.9, kept


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="30x32 is no multiple of the period 4"):
        without_grid(jnp.zeros((1, 30, 32, 3)), 4)
    with pytest.raises(ValueError, match="cells: expected an odd number, found 4"):
        without_grid(jnp.zeros((1, 32, 32, 3)), 4, 4)
