"""data.operations: every step against its definition in plain NumPy, PIL or SciPy."""

import io
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import kernels
from data import operations as o
from tests.data.pictures import flat, photo

PIL_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
seeds = st.integers(0, 2**32 - 1)


def rng(seed=0):
    return np.random.default_rng(seed)


def separable(image, vertical, across):
    """Applies a matrix along the rows and another along the columns."""
    return np.einsum("ij,kl,jlc->ikc", vertical, across, image.astype(np.float64))


# 8 bits


def test_bytes_are_rounded_and_clipped():
    image = np.linspace(-0.2, 1.2, 60000, dtype=np.float32).reshape(-1, 3)
    levels = o.to_bytes(image)
    assert levels.dtype == np.uint8 and levels.shape == image.shape
    exact = np.clip(image.astype(np.float64), 0, 1) * 255
    assert np.abs(levels - exact).max() <= 0.5 + 1e-5
    assert set(np.unique(levels)) == set(range(256))
    assert o.to_bytes(np.float32([[0.5]])) == 128  # of 127.5, the even one


def test_bytes_do_not_depend_on_the_shape():
    # Vector loops have tails: a pixel's level may not depend on where in the row it is.
    image = photo(7, 37)
    levels = o.to_bytes(image)
    assert np.array_equal(o.to_bytes(image[..., 1]), levels[..., 1])
    assert np.array_equal(o.to_bytes(image[:, 3:18]), levels[:, 3:18])
    assert np.array_equal(np.rint(image * np.float32(255)), levels)


def test_floats_of_bytes_come_back():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = o.to_float(levels)
    assert image.dtype == np.float32 and image.min() == 0 and image.max() == 1
    np.testing.assert_array_equal(image, np.arange(256, dtype=np.float32).reshape(16, 16) / 255)
    np.testing.assert_array_equal(o.to_bytes(image), levels)


# blur


@pytest.mark.parametrize(
    "kernel",
    [
        kernels.gaussian_kernel(7, 1.5),
        kernels.gaussian_kernel(11, 3.0, 0.8),
        kernels.gaussian_kernel(9, 0.8, offset=1.5),
        kernels.gaussian_kernel(9, 3.0, 0.8, 0.6),
        kernels.plateau_kernel(13, 2.0, 1.0, 0.3, beta=1.5),
        kernels.sinc_kernel(21, 1.2),
    ],
    ids=["separable", "separable axes", "separable off centre", "turned", "plateau", "sinc"],
)
def test_blur_is_a_correlation_with_reflected_borders(kernel):
    height, width, half = 26, 33, len(kernel) // 2
    image = photo(height, width)
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect")
    expected = np.zeros(image.shape)
    for i, j in np.ndindex(kernel.shape):
        expected += float(kernel[i, j]) * padded[i : i + height, j : j + width]
    blurred = o.blur(image, kernel)
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(blurred, expected, atol=2e-6)


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.floats(0, 3))
def test_blur_keeps_constants_on_images_smaller_than_the_kernel(height, width, level, theta):
    image = np.full((height, width, 3), level, np.float32)
    for kernel in (kernels.gaussian_kernel(21, 3.0, 1.0, theta), kernels.sinc_kernel(21, 1.1)):
        np.testing.assert_allclose(o.blur(image, kernel), image, atol=1e-5)


# sharpening


def usm_oracle(image, amount=0.5, threshold=10.0):
    side, sigma = (51, 51), 0.3 * ((51 - 1) / 2 - 1) + 0.8  # OpenCV's default, which is 8
    residual = image - cv2.GaussianBlur(image, side, sigma)
    mask = (np.abs(residual) * 255 > threshold).astype(np.float32)
    soft = cv2.GaussianBlur(mask, side, sigma)
    sharp = np.clip(image + amount * residual, 0, 1)
    return soft * sharp + (1 - soft) * image


@pytest.mark.parametrize(("amount", "threshold"), [(0.5, 10.0), (1.5, 10.0), (0.5, 25.0)])
def test_usm_agrees_with_the_formula(amount, threshold):
    image = photo(70, 90)
    sharp = o.usm_sharpen(image, amount, threshold=threshold)
    assert sharp.dtype == np.float32
    np.testing.assert_allclose(sharp, usm_oracle(image, amount, threshold), atol=2e-6)
    assert np.abs(sharp - image).max() > 0.02  # the case is not an empty one
    assert sharp.min() >= 0 and sharp.max() <= 1


def test_usm_sharpens_edges_and_leaves_flat_parts():
    image = np.full((96, 96, 3), 0.3, np.float32)
    image[:, 48:] = 0.7
    before = image.copy()
    sharp = o.usm_sharpen(image)
    assert np.array_equal(image, before)
    assert sharp[48, 46, 0] < 0.29 and sharp[48, 49, 0] > 0.71
    np.testing.assert_allclose(sharp[:, :8], image[:, :8], atol=1e-3)
    np.testing.assert_array_equal(o.usm_sharpen(image, radius=51), sharp)  # 50 is made odd
    faint = np.full((96, 96, 3), 0.5, np.float32)
    faint[:, 48:] += 5 / 255  # below the threshold of 10
    np.testing.assert_allclose(o.usm_sharpen(faint), faint, atol=1e-6)


# resizing


def adaptive_oracle(image, height, width):
    """torch.nn.functional.adaptive_avg_pool2d: windows floor(i·H/h) … ceil((i+1)·H/h)."""
    rows, columns = image.shape[:2]
    result = np.zeros((height, width, 3))
    for i, j in np.ndindex(height, width):
        top, bottom = math.floor(i * rows / height), math.ceil((i + 1) * rows / height)
        left, right = math.floor(j * columns / width), math.ceil((j + 1) * columns / width)
        result[i, j] = image[top:bottom, left:right].mean((0, 1), dtype=np.float64)
    return result


def coverage(size_in, size_out):
    """Share of output pixel i that input pixel j covers."""
    edges = np.arange(size_out + 1) * size_in / size_out
    j = np.arange(size_in)
    overlap = np.minimum(edges[1:, None], j + 1) - np.maximum(edges[:-1, None], j)
    return np.maximum(overlap, 0) * size_out / size_in


def cubic(d, a=-0.75):
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def interpolation(size_in, size_out, step, mode):
    """Weights of samples at (i + ½)·step - ½, the border pixel repeated."""
    weights = np.zeros((size_out, size_in))
    for i in range(size_out):
        x = (i + 0.5) * step - 0.5
        for tap in range(math.floor(x) - 1, math.floor(x) + 3):
            d = abs(x - tap)
            weight = max(1 - d, 0) if mode == "bilinear" else cubic(d)
            weights[i, min(max(tap, 0), size_in - 1)] += weight
    return weights


@pytest.mark.parametrize("mode", ["area", "adaptive"])
@pytest.mark.parametrize(("down", "across"), [(4, 4), (2, 3), (1, 6)])
def test_area_modes_are_block_means_for_whole_reductions(mode, down, across):
    image = photo(24, 36)
    height, width = 24 // down, 36 // across
    blocks = image.reshape(height, down, width, across, 3).mean((1, 3))
    small = o.resize(image, height, width, mode)
    assert small.shape == (height, width, 3) and small.dtype == np.float32
    np.testing.assert_allclose(small, blocks, atol=1e-6)


@settings(max_examples=60)
@given(*[st.integers(1, 24)] * 4, seeds)
def test_adaptive_agrees_with_torchs_windows(rows, columns, height, width, seed):
    image = rng(seed).random((rows, columns, 3), dtype=np.float32)
    ours = o.resize(image, height, width, "adaptive")
    assert ours.shape == (height, width, 3) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, adaptive_oracle(image, height, width), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(7, 9), (19, 30), (23, 31), (40, 50)])
def test_area_counts_parts_of_pixels_in_part(height, width):
    image = photo(23, 31)
    expected = separable(image, coverage(23, height), coverage(31, width))
    np.testing.assert_allclose(o.resize(image, height, width, "area"), expected, atol=1e-5)


def test_area_and_adaptive_differ_where_windows_overlap():
    image = np.zeros((5, 5, 3), np.float32)
    image[2] = 1  # the row that both outputs touch
    assert o.resize(image, 2, 5, "area")[0, 0, 0] == pytest.approx(0.5 / 2.5)
    assert o.resize(image, 2, 5, "adaptive")[0, 0, 0] == pytest.approx(1 / 3)


@settings(max_examples=40)
@given(st.sampled_from(["bilinear", "bicubic"]), *[st.integers(1, 20)] * 4)
def test_plain_resize_places_samples_by_the_sizes(mode, rows, columns, height, width):
    image = photo(rows, columns)
    vertical = interpolation(rows, height, rows / height, mode)
    across = interpolation(columns, width, columns / width, mode)
    ours = o.resize(image, height, width, mode)
    assert ours.shape == (height, width, 3) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, separable(image, vertical, across), atol=1e-5)


@settings(max_examples=60)
@given(
    st.sampled_from(["bilinear", "bicubic"]),
    st.integers(7, 30),
    st.integers(7, 30),
    st.floats(0.15, 1.5),
)
def test_factor_places_samples_a_fixed_step_apart(mode, rows, columns, factor):
    image = photo(rows, columns)
    height, width = int(rows * factor), int(columns * factor)
    ours = o.resize(image, height, width, mode, factor=factor)
    assert ours.shape == (height, width, 3) and ours.dtype == np.float32
    rounded = round(rows * factor), round(columns * factor)
    if (rows, columns) in (rounded, (height, width)):  # nothing would move by a pixel
        assert np.array_equal(ours, image[:height, :width])
        return
    vertical = interpolation(rows, height, 1 / factor, mode)
    across = interpolation(columns, width, 1 / factor, mode)
    np.testing.assert_allclose(ours, separable(image, vertical, across), atol=1e-5)


@pytest.mark.parametrize("mode", PIL_FILTERS)
@pytest.mark.parametrize(("height", "width"), [(8, 6), (13, 40), (50, 7), (1, 1), (32, 5)])
def test_antialiased_resize_agrees_with_pil(mode, height, width):
    image = photo(32, 24)
    size, filter_ = (width, height), PIL_FILTERS[mode]
    planes = [np.array(Image.fromarray(image[..., c]).resize(size, filter_)) for c in range(3)]
    ours = o.resize(image, height, width, mode, antialias=True)
    assert ours.shape == (height, width, 3) and ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_allclose(ours, np.stack(planes, -1), atol=1e-6)


def test_plain_bilinear_aliases_where_the_antialiased_does_not():
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[:, 1::4] = 1  # for a factor of 4, bilinear looks at columns 1 and 2 of each block
    assert o.resize(stripes, 8, 8, "bilinear").mean() == pytest.approx(0.5, abs=1e-6)
    smooth = o.resize(stripes, 8, 8, "bilinear", antialias=True)
    assert smooth.mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("down", "across"), [(2, 2), (3, 3), (4, 2), (1, 3)])
def test_nearest_picks_the_first_pixel_of_every_block(down, across):
    image = photo(12, 24)
    picked = o.resize(image, 12 // down, 24 // across, "nearest")
    for i, j in np.ndindex(picked.shape[:2]):
        assert np.array_equal(picked[i, j], image[i * down, j * across])
    assert picked.flags.c_contiguous


@pytest.mark.parametrize("mode", o.MODES)
def test_resize_to_the_same_size_copies(mode):
    image = photo(9, 11)
    np.testing.assert_array_equal(o.resize(image, 9, 11, mode), image)
    if mode in PIL_FILTERS:
        np.testing.assert_array_equal(o.resize(image, 9, 11, mode, antialias=True), image)


def test_resize_errors():
    image = photo(10, 10)
    with pytest.raises(ValueError, match="one of area, .*nearest, got 'lanczos'"):
        o.resize(image, 8, 6, "lanczos")
    for height, width in ((0, 4), (4, 0), (-1, 4)):
        with pytest.raises(ValueError, match=f"{height}x{width}: sides must be at least 1"):
            o.resize(image, height, width, "bilinear")
    with pytest.raises(ValueError, match=r"factor 0.5 of 10x10 is not 8x8"):
        o.resize(image, 8, 8, "bicubic", factor=0.5)


def test_resize_refuses_a_factor_that_makes_too_much():
    with pytest.raises(ValueError, match="factor 2"):
        o.resize(photo(10, 10), 8, 8, "bilinear", factor=2.0)


# JPEG


def test_jpeg_keeps_colour_order_and_degrades_with_quality():
    red = flat(1, 0, 0, side=16)
    np.testing.assert_allclose(o.jpeg(red, 95)[8, 8], [1, 0, 0], atol=0.03)
    image = o.blur(photo(64, 64), kernels.gaussian_kernel(9, 2.0))
    errors = [np.abs(o.jpeg(image, quality) - image).mean() for quality in (95, 60, 20, 1)]
    assert errors == sorted(errors) and errors[0] < 0.01 < errors[3]


@pytest.mark.parametrize("quality", [10, 30, 95, 100])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (17, 5), (1, 1)])
def test_jpeg_agrees_with_pil(quality, height, width):
    image = photo(height, width) * 1.2 - 0.1  # leaves [0, 1], as bicubic does
    ours = o.jpeg(image, quality)
    assert ours.shape == image.shape and ours.dtype == np.float32
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    # Two builds of libjpeg may differ by a level where they round.
    np.testing.assert_allclose(ours * 255, np.asarray(Image.open(file), np.float32), atol=3)
    np.testing.assert_array_equal(o.to_float(o.to_bytes(ours)), ours)
