"""data.operations: every step against its definition in plain NumPy, PIL or SciPy."""

import io
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from data import operations as o
from data.kernels import Kernel
from maskgit_sr.images.samples import unit
from tests.data.pictures import photo

PIL_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


# 8 bits


def test_bytes_are_rounded_and_clipped():
    image = np.linspace(-0.2, 1.2, 60000, dtype=np.float32).reshape(-1, 3)
    levels = o.to_bytes(image)
    assert levels.dtype == np.uint8 and levels.shape == image.shape
    exact = np.clip(image.astype(np.float64), 0, 1) * 255
    assert np.abs(levels - exact).max() <= 0.5 + 1e-5
    assert set(np.unique(levels)) == set(range(256))
    bytes_of_floats = o.to_bytes(unit(np.arange(256, dtype=np.uint8)[None]))
    np.testing.assert_array_equal(bytes_of_floats, np.arange(256)[None])
    assert o.to_bytes(np.float32([[0.5]])) == 128  # of 127.5, the even one


def test_bytes_do_not_depend_on_the_shape():
    # Vector loops have tails: a pixel's level may not depend on where in the row it is.
    image = photo(7, 37)
    levels = o.to_bytes(image)
    assert np.array_equal(o.to_bytes(image[..., 1]), levels[..., 1])
    assert np.array_equal(o.to_bytes(image[:, 3:18]), levels[:, 3:18])
    assert np.array_equal(np.rint(image * np.float32(255)), levels)


# blur


@pytest.mark.parametrize(
    "kernel",
    [
        Kernel("gaussian", 11, 3.0, 0.8),  # separable
        Kernel("gaussian", 9, 0.8, 0.8, offset=1.5),
        Kernel("gaussian", 9, 3.0, 0.8, 0.6),  # turned
        Kernel("plateau", 13, 2.0, 1.0, 0.3, 1.5),
        Kernel("sinc", 21, cutoff=1.2),
    ],
    ids=str,
)
def test_blur_is_a_correlation_with_reflected_borders(kernel):
    image, weights = photo(26, 33), kernel.array()
    expected = ndimage.correlate(image.astype(np.float64), weights[..., None], mode="mirror")
    blurred = o.blur(image, weights)
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(blurred, expected, atol=2e-6)


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.floats(0, 3))
def test_blur_keeps_constants_on_images_smaller_than_the_kernel(height, width, level, theta):
    image = np.full((height, width, 3), level, np.float32)
    for kernel in (Kernel("gaussian", 21, 3.0, 1.0, theta), Kernel("sinc", 21, cutoff=1.1)):
        np.testing.assert_allclose(o.blur(image, kernel.array()), image, atol=1e-5)


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
    before = image.copy()
    sharp = o.usm_sharpen(image, amount, threshold=threshold)
    assert sharp.dtype == np.float32 and np.array_equal(image, before)
    odd = o.usm_sharpen(image, amount, radius=51, threshold=threshold)
    np.testing.assert_array_equal(odd, sharp)  # 50 is made odd
    np.testing.assert_allclose(sharp, usm_oracle(image, amount, threshold), atol=2e-6)
    assert np.abs(sharp - image).max() > 0.02  # the case is not an empty one
    assert sharp.min() >= 0 and sharp.max() <= 1


# resizing


def weights(size_in, size_out, mode, step=0.0):
    """Share of input pixel j in output pixel i, float64 [size_out, size_in]."""
    i, j = np.arange(size_out)[:, None], np.arange(size_in)
    if mode == "adaptive":  # torch.nn.functional.adaptive_avg_pool2d
        inside = (j >= i * size_in // size_out) & (j < -(-(i + 1) * size_in // size_out))
        return inside / inside.sum(1, keepdims=True)
    if mode == "area":
        edges = np.arange(size_out + 1)[:, None] * size_in / size_out
        overlap = np.minimum(edges[1:], j + 1) - np.maximum(edges[:-1], j)
        return np.maximum(overlap, 0) * size_out / size_in
    found = np.zeros((size_out, size_in))
    for row, x in zip(found, (i[:, 0] + 0.5) * (step or size_in / size_out) - 0.5, strict=True):
        for tap in range(math.floor(x) - 1, math.floor(x) + 3):
            d = abs(x - tap)
            weight = max(1 - d, 0) if mode == "bilinear" else cubic(d)
            row[min(max(tap, 0), size_in - 1)] += weight  # the border pixel is repeated
    return found


def cubic(d, a=-0.75):
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def assert_resized(image, height, width, mode, factor=0.0):
    """The result is that of a matrix along the rows and another along the columns."""
    ours = o.resize(image, height, width, mode, factor=factor)
    assert ours.shape == (height, width, 3) and ours.dtype == np.float32
    step = 1 / factor if factor else 0.0
    vertical, across = (
        weights(*sizes, mode, step) for sizes in zip(image.shape, (height, width), strict=False)
    )
    expected = np.einsum("ij,kl,jlc->ikc", vertical, across, image.astype(np.float64))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@settings(max_examples=100)
@given(st.sampled_from(["adaptive", "bilinear", "bicubic"]), *[st.integers(1, 24)] * 4)
def test_resize_places_samples_by_the_sizes(mode, rows, columns, height, width):
    assert_resized(photo(rows, columns), height, width, mode)


@pytest.mark.parametrize(("height", "width"), [(7, 9), (19, 30), (23, 31), (40, 50)])
def test_area_counts_parts_of_pixels_in_part(height, width):
    assert_resized(photo(23, 31), height, width, "area")


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
    rounded = round(rows * factor), round(columns * factor)
    if (rows, columns) in (rounded, (height, width)):  # nothing would move by a pixel
        ours = o.resize(image, height, width, mode, factor=factor)
        np.testing.assert_array_equal(ours, image[:height, :width])
    else:
        assert_resized(image, height, width, mode, factor)


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


@pytest.mark.parametrize(("down", "across"), [(2, 2), (3, 3), (4, 2), (1, 3)])
def test_nearest_picks_the_first_pixel_of_every_block(down, across):
    image = photo(12, 24)
    picked = o.resize(image, 12 // down, 24 // across, "nearest")
    np.testing.assert_array_equal(picked, image[::down, ::across])
    assert picked.flags.c_contiguous


@pytest.mark.parametrize("mode", o.MODES)
def test_resize_to_the_same_size_copies(mode):
    image = photo(9, 11)
    np.testing.assert_array_equal(o.resize(image, 9, 11, mode), image)
    if mode in PIL_FILTERS:
        np.testing.assert_array_equal(o.resize(image, 9, 11, mode, antialias=True), image)


@pytest.mark.parametrize(
    ("height", "width", "mode", "factor", "message"),
    [
        (8, 6, "lanczos", 0, "one of area, .*nearest, got 'lanczos'"),
        *[(*size, "bilinear", 0, "sides must be at least 1") for size in ((0, 4), (4, 0), (-1, 4))],
        (8, 8, "bicubic", 0.5, r"factor 0.5 of 10x10 is not 8x8"),
        (8, 8, "bilinear", 2.0, "factor 2"),
        (4, 5, "nearest", 0, "nearest from 10x10 to 4x5: not whole"),
    ],
)
def test_resize_errors(height, width, mode, factor, message):
    with pytest.raises(ValueError, match=message):
        o.resize(photo(10, 10), height, width, mode, factor=factor)


# JPEG


@pytest.mark.parametrize("quality", [10, 30, 95, 100])
@pytest.mark.parametrize("subsampled", [True, False])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (17, 5), (1, 1)])
def test_jpeg_agrees_with_pil(quality, subsampled, height, width):
    image = photo(height, width) * 1.2 - 0.1  # leaves [0, 1], as bicubic does
    ours = o.jpeg(image, quality, subsampled)
    assert ours.shape == image.shape and ours.dtype == np.float32
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    file, subsampling = io.BytesIO(), "4:2:0" if subsampled else "4:4:4"
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    # Two builds of libjpeg may differ by a level where they round.
    np.testing.assert_allclose(ours * 255, np.asarray(Image.open(file), np.float32), atol=3)
    np.testing.assert_array_equal(unit(o.to_bytes(ours)), ours)


def test_chroma_of_one_pixel_survives_whole_files_alone():
    """Red and green of one luma, column by column: half resolution has only their mean."""
    red, green = np.float32([0.7, 0.1, 0.3]), np.float32([0.1, 0.4065, 0.3])
    stripes = np.broadcast_to(np.stack([red, green] * 16)[None], (32, 32, 3)).copy()
    contrast = {}
    for subsampled in (True, False):
        file = o.jpeg(stripes, 95, subsampled)
        contrast[subsampled] = (file[:, ::2] - file[:, 1::2])[..., 0].mean() / 0.6
    assert contrast[False] > 0.9 and abs(contrast[True]) < 0.2
