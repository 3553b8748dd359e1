"""ops.resize and ops.positions against NumPy written tap by tap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.ops.positions import sincos_2d
from maskgit_sr.ops.resize import (
    depth_to_space,
    downsample_bicubic,
    resize_weights,
    space_to_depth,
    upsample_bicubic,
    upsample_nearest,
)


def cubic(distance, a):
    distance = abs(distance)
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return 0.0


def resampled(image, places, wide, a, border):
    """[H,W,C] at the places (y, x) by a kernel `wide` times as wide, tap by tap."""
    expected = []
    for y, x in places:
        total, weights = 0.0, 0.0
        for i in range(int(y) - 2 * wide - 1, int(y) + 2 * wide + 3):
            for j in range(int(x) - 2 * wide - 1, int(x) + 2 * wide + 3):
                weight = cubic((i - y) / wide, a) * cubic((j - x) / wide, a)
                pixel = image[border(i, image.shape[0]), border(j, image.shape[1])]
                total, weights = total + weight * pixel.astype(np.float64), weights + weight
        expected.append(total / weights)
    return np.array(expected)


def clamped(index, size):
    return min(max(index, 0), size - 1)


def mirrored(index, size):
    index %= 2 * size
    return min(index, 2 * size - 1 - index)


def centres(rows, columns, step):
    """Places of the output's pixels in the input, whose pixels are `step` of them apart."""
    return [((y + 0.5) * step - 0.5, (x + 0.5) * step - 0.5) for y, x in np.ndindex(rows, columns)]


@pytest.mark.parametrize("a", [-0.75, -0.5])
def test_bicubic_tap_by_tap(a):
    image = np.random.default_rng(0).random((5, 3, 2), np.float32)
    found = np.asarray(upsample_bicubic(image[None], 4, a))[0]
    expected = resampled(image, centres(20, 12, 1 / 4), 1, a, clamped)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.reshape(20, 12, 2), atol=1e-6)


def test_bicubic_keeps_a_flat_image_and_a_single_pixel():
    np.testing.assert_allclose(upsample_bicubic(jnp.full((1, 6, 7, 3), 0.3), 4), 0.3, atol=1e-6)
    np.testing.assert_allclose(upsample_bicubic(jnp.full((1, 1, 1, 3), 0.3), 4), 0.3, atol=1e-6)


def test_default_is_the_reference_kernel_and_not_clipped():
    step = np.zeros((1, 8, 8, 1), np.float32)
    step[:, :, 4:] = 1
    found = np.asarray(jax.jit(upsample_bicubic, static_argnums=1)(step, 4))
    np.testing.assert_array_equal(found, upsample_bicubic(step, 4, -0.75))
    assert found.min() < -0.05 and found.max() > 1.05


@pytest.mark.parametrize(
    ("shape", "block"), [((2, 6, 4, 3), 2), ((1, 4, 12, 2), 4), ((2, 3, 2, 1), 1)]
)
def test_blocks_there_and_back(shape, block):
    batch, height, width, channels = shape[0], shape[1] // block, shape[2] // block, shape[3]
    image = np.arange(np.prod(shape)).reshape(shape)
    folded = space_to_depth(jnp.asarray(image), block)
    assert folded.shape == (batch, height, width, channels * block**2)
    first = image[:, :block, :block].reshape(batch, -1)
    np.testing.assert_array_equal(folded[:, 0, 0], first)
    np.testing.assert_array_equal(depth_to_space(folded, block), image)


def test_nearest_repeats_pixels():
    image = np.arange(12).reshape(1, 2, 2, 3)
    expected = image.repeat(3, axis=1).repeat(3, axis=2)
    np.testing.assert_array_equal(upsample_nearest(jnp.asarray(image), 3), expected)


def test_sincos_columns_then_rows():
    height, width, features = 3, 5, 16
    found = sincos_2d(height, width, features)
    assert found.shape == (15, features) and found.dtype == np.float32
    for row in range(height):
        for column in range(width):
            expected = []
            for index in (column, row):
                angles = [index / 10000 ** (i / 4) for i in range(4)]
                expected += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
            np.testing.assert_allclose(found[row * width + column], expected, atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 4, found 18"):
        sincos_2d(2, 2, 18)


@pytest.mark.parametrize(("shape", "scale"), [((4, 8), 2), ((8, 4), 4), ((9, 3), 3), ((4, 4), 1)])
def test_downsampling_tap_by_tap(shape, scale):
    """MATLAB's imresize: a kernel `scale` times as wide, the border mirrored with its edge."""
    image = np.random.default_rng(0).random((*shape, 2), np.float32)
    rows, columns = (side // scale for side in shape)
    expected = resampled(image, centres(rows, columns, scale), scale, -0.5, mirrored)
    found = np.asarray(jax.jit(downsample_bicubic, static_argnums=1)(image[None], scale))[0]
    np.testing.assert_allclose(found, expected.reshape(rows, columns, 2), atol=2e-6)


def test_halving_grey_levels_is_exact():
    """Weights are multiples of 1/256, so that flat parts stay flat in float32."""
    levels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1)).astype(np.float32)
    levels[:, :, :4] = 77
    halve = jax.jit(downsample_bicubic, static_argnums=1)
    found = halve(levels.repeat(4, 1).repeat(4, 2), 2)
    assert (found[:, :, :6] == 77).all()
    np.testing.assert_array_equal(found * 65536, np.round(found * 65536))
    with pytest.raises(ValueError, match="multiples of 4, found 8x6"):
        downsample_bicubic(jnp.zeros((1, 8, 6, 3)), 4)


@pytest.mark.parametrize(("count", "scale"), [(1, 4), (2, 3), (3, 2), (9, 4), (40, 2), (5, 1)])
def test_resize_weights_are_those_of_downsampling(count, scale):
    image = np.random.default_rng(count).random((1, count * scale, 1, 1))
    expected = downsample_bicubic(image.repeat(scale, 2), scale)[0, :, 0, 0]
    for first in range(0, count, 4):
        last = min(count, first + 4)
        begin, weights = resize_weights(count * scale, count, first, last)
        span = image[0, begin : begin + weights.shape[1], 0, 0]
        np.testing.assert_allclose(weights @ span, expected[first:last], atol=1e-14)


def test_resize_weights_of_any_scale():
    for size, count in ((7, 7), (8, 7), (13, 5), (100, 37), (3, 1)):
        begin, weights = resize_weights(size, count, 0, count)
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
        # a ramp stays one where no border is near: half-pixel centres at any scale
        centres = (np.arange(count) + 0.5) * size / count - 0.5
        inner = (centres >= 2 * size / count) & (centres < size - 2 * size / count)
        ramp = weights @ np.arange(begin, begin + weights.shape[1])
        np.testing.assert_allclose(ramp[inner], centres[inner], atol=0.02 * size / count)
    np.testing.assert_array_equal(resize_weights(7, 7, 0, 7)[1], np.eye(7))
