"""data.degradations: each step against its definition, and the whole chain under hypothesis."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import degradations as d


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colour fields with some texture, in [0, 1]."""
    rng = np.random.default_rng(seed)
    coarse = d.resize(rng.random((5, 5, 3), dtype=np.float32), height, width, "bilinear")
    return np.clip(coarse + rng.normal(0, 0.05, coarse.shape), 0, 1).astype(np.float32)


@settings(deadline=None)
@given(
    st.integers(0, 10).map(lambda n: 2 * n + 1),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
    st.floats(0, np.pi),
)
def test_kernel_sums_to_one_and_is_point_symmetric(size, sigma_x, sigma_y, theta):
    kernel = d.gaussian_kernel(size, sigma_x, sigma_y, theta)
    assert kernel.shape == (size, size) and kernel.dtype == np.float32
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)


def test_kernel_axes():
    wide = d.gaussian_kernel(21, 4.0, 1.0)
    y, x = np.mgrid[:21, :21] - 10
    assert (wide * x * x).sum() > 5 * (wide * y * y).sum()
    np.testing.assert_allclose(d.gaussian_kernel(21, 4.0, 1.0, np.pi / 2), wide.T, atol=1e-6)
    np.testing.assert_allclose(d.gaussian_kernel(21, 2.0), d.gaussian_kernel(21, 2.0).T, atol=1e-7)


@pytest.mark.parametrize("size", [0, 8])
def test_kernel_size_must_be_odd(size):
    with pytest.raises(ValueError, match="odd"):
        d.gaussian_kernel(size, 1.0)


def test_blur_keeps_constants_and_reflects_the_border():
    kernel = d.gaussian_kernel(21, 3.0)
    flat = np.full((9, 11, 3), 0.25, np.float32)
    np.testing.assert_allclose(d.blur(flat, kernel), flat, atol=1e-6)
    image = photo(24, 30)
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
    small = d.gaussian_kernel(7, 1.5)
    expected = sum(small[i, j] * padded[i : i + 24, j : j + 30] for i in range(7) for j in range(7))
    np.testing.assert_allclose(d.blur(image, small), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "filter_"),
    [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)],
)
@pytest.mark.parametrize(("height", "width"), [(8, 6), (13, 40), (50, 7)])
def test_antialiased_resize_agrees_with_pil(mode, filter_, height, width):
    image = photo(32, 24)
    planes = [Image.fromarray(image[..., c]).resize((width, height), filter_) for c in range(3)]
    ours = d.resize(image, height, width, mode, antialias=True)
    assert ours.shape == (height, width, 3) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, np.stack([np.array(p) for p in planes], -1), atol=1e-6)


def test_plain_resize_aliases_and_area_is_the_block_mean():
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[:, 1::4] = 1  # for a factor of 4, bilinear looks at columns 1 and 2 of each block
    assert d.resize(stripes, 8, 8, "bilinear").mean() == pytest.approx(0.5, abs=1e-6)
    smooth = d.resize(stripes, 8, 8, "bilinear", antialias=True)
    assert smooth.mean() == pytest.approx(0.25, abs=0.02)
    image = photo(32, 24)
    blocks = image.reshape(8, 4, 6, 4, 3).mean((1, 3))
    np.testing.assert_allclose(d.resize(image, 8, 6, "area"), blocks, atol=1e-6)
    with pytest.raises(ValueError, match="lanczos"):
        d.resize(image, 8, 6, "lanczos")


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_statistics(grey):
    image = np.full((128, 128, 3), 0.5, np.float32)
    noise = d.gaussian_noise(image, 0.04, np.random.default_rng(1), grey=grey) - image
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    assert noise.std() == pytest.approx(0.04, rel=0.03)
    correlation = np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]
    assert correlation == pytest.approx(1.0 if grey else 0.0, abs=0.03)


@pytest.mark.parametrize("grey", [False, True])
def test_poisson_noise_variance_is_that_of_shot_noise(grey):
    ramp = np.repeat(np.arange(256, dtype=np.float32)[:, None], 512, 1) / 255  # 256 levels
    image = np.repeat(ramp[..., None], 3, 2)
    noise = d.poisson_noise(image, 0.5, np.random.default_rng(1), grey=grey) - image
    assert noise.dtype == np.float32
    for level in (32, 128, 250):
        expected = 0.5 * np.sqrt(level / 255 / 256)
        assert noise[level].std() == pytest.approx(expected, rel=0.1)
        assert noise[level].mean() == pytest.approx(0, abs=3e-3)
    assert np.allclose(noise[..., 0], noise[..., 1], atol=1e-6) == grey


def test_jpeg_keeps_colour_order_and_degrades_with_quality():
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 1
    np.testing.assert_allclose(d.jpeg(red, 95)[8, 8], [1, 0, 0], atol=0.03)
    image = d.blur(photo(64, 64), d.gaussian_kernel(9, 2.0))  # 4:2:0 would eat colour noise
    errors = [np.abs(d.jpeg(image, quality) - image).mean() for quality in (95, 60, 20)]
    assert errors == sorted(errors) and errors[0] < 0.01


def test_usm_sharpens_edges_and_leaves_flat_parts():
    image = np.full((96, 96, 3), 0.3, np.float32)
    image[:, 48:] = 0.7
    sharp = d.usm_sharpen(image)
    assert sharp.dtype == np.float32
    assert sharp[48, 46, 0] < 0.29 and sharp[48, 49, 0] > 0.71
    np.testing.assert_allclose(sharp[:, :8], image[:, :8], atol=1e-3)
    faint = np.full((96, 96, 3), 0.5, np.float32)
    faint[:, 48:] += 5 / 255  # below the threshold of 10
    np.testing.assert_allclose(d.usm_sharpen(faint), faint, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(d.PRESETS)),
)
def test_lr_shape_range_and_levels(rows, columns, scale, seed, preset):
    hr = photo(rows * scale, columns * scale, seed)
    before = hr.copy()
    record = d.draw(np.random.default_rng(seed), d.PRESETS[preset])
    lr = d.apply(hr, record, scale)
    assert lr.shape == (rows, columns, 3) and lr.dtype == np.float32
    assert lr.min() >= 0 and lr.max() <= 1
    levels = np.round(lr * 255).astype(np.float32)
    assert np.array_equal(levels / np.float32(255), lr)
    assert np.array_equal(hr, before)


def test_record_survives_json_and_repeats_the_degradation():
    hr = photo(64, 48)
    for seed in range(20):
        record = d.draw(np.random.default_rng(seed), d.Settings())
        again = d.Degradation(**json.loads(json.dumps(dataclasses.asdict(record))))
        assert again == record
        assert np.array_equal(d.apply(hr, again, 4), d.apply(hr, record, 4))


def test_draws_follow_the_settings():
    rng = np.random.default_rng(0)
    records = [d.draw(rng, d.Settings()) for _ in range(2000)]
    share = {
        "blur": np.mean([r.kernel_size > 0 for r in records]),
        "noise": np.mean([r.noise != "none" for r in records]),
        "jpeg": np.mean([r.jpeg_quality > 0 for r in records]),
        "keep": np.mean([r.resize_factor == 1 for r in records]),
    }
    expected = {"blur": 0.85, "noise": 0.6, "jpeg": 0.5, "keep": 0.5}
    assert share == pytest.approx(expected, abs=0.04)
    assert all(0.2 <= s <= 4 for r in records for s in (r.sigma_x, r.sigma_y))
    assert all(0.35 <= r.resize_factor <= 1.3 for r in records)
    assert all(r.jpeg_quality == 0 or 60 <= r.jpeg_quality <= 95 for r in records)
    gaussian = [r.noise_level for r in records if r.noise == "gaussian"]
    assert min(gaussian) >= 0 and max(gaussian) <= 12 / 255


def test_apply_without_any_step_is_the_plain_resize():
    none = dataclasses.replace(
        d.Settings(),
        blur_probability=0,
        resize_probabilities=(0, 0, 1),
        noise_probability=0,
        jpeg_probability=0,
        final_mode_probabilities=(1, 0, 0),
    )
    hr = photo(32, 32)
    lr = d.apply(hr, d.draw(np.random.default_rng(0), none), 4)
    np.testing.assert_allclose(lr, hr.reshape(8, 4, 8, 4, 3).mean((1, 3)), atol=0.5 / 255 + 1e-6)


def test_apply_names_a_size_that_does_not_fit():
    record = d.draw(np.random.default_rng(0), d.Settings())
    with pytest.raises(ValueError, match="30x32 is not a multiple of the scale 4"):
        d.apply(photo(30, 32), record, 4)
