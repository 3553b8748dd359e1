"""data.degradations: every preset on images, and the small presets' draws."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import chain as c
from data import degradations as d
from maskgit_sr.errors import UserError
from tests.data.draws import (
    SIDE,
    assert_factors,
    assert_noise,
    assert_share,
    assert_uniform,
    draws,
    of,
)
from tests.data.pictures import photo, waves

presets = pytest.mark.parametrize("preset", sorted(d.PRESETS))
scales = pytest.mark.parametrize("scale", [2, 3, 4])

# Seed, record, means of the four quadrants and deviations over the image, by channel, in levels.
GOLDEN = {
    "realesrgan": (
        0,
        "sharpen 0.5 | blur sinc 15 cut-off 0.67 | resize 63x79 adaptive | shot noise 0.06 | "
        "JPEG 83 | blur plateau 19 sigma 0.90 | resize 17x21 bicubic | shot noise 1.64 | "
        "resize 24x30 bilinear | blur sinc 13 cut-off 2.15 | JPEG 75",
        [[121.5, 125.8, 150.8], [138.9, 137.6, 108.6], [139.0, 141.1, 98.1], [142.1, 139.1, 181.4]],
        [27.3, 40.2, 56.7],
    ),
    "bsrgan": (
        94,
        "resize 48x60 bicubic antialiased | JPEG 51 | blur gaussian 21 sigma 0.74 | "
        "blur gaussian 25 sigma 0.65 | resize 24x30 nearest | blur gaussian 17 sigma 2.10 | "
        "grey noise sigma 13.0 | resize 24x30 bicubic | JPEG 52",
        [[126.2, 130.3, 154.2], [140.2, 137.3, 109.6], [140.3, 138.7, 99.2], [140.0, 137.9, 179.1]],
        [16.7, 15.8, 50.3],
    ),
    "bicubic": (
        0,
        "resize 24x30 bicubic antialiased",
        [[122.0, 125.9, 153.1], [139.4, 140.5, 107.0], [141.0, 139.9, 98.0], [141.8, 139.9, 181.8]],
        [55.2, 57.2, 58.4],
    ),
    "light": (
        70,
        "blur plateau 11 sigma 1.16 | resize 70x88 bicubic | grey noise sigma 6.0 | "
        "resize 24x30 adaptive | blur sinc 11 cut-off 1.35 | JPEG 78",
        [[122.2, 127.7, 153.6], [141.0, 139.7, 107.5], [141.2, 138.2, 99.6], [139.8, 140.5, 179.1]],
        [30.0, 50.7, 58.7],
    ),
    "camera": (
        73,
        "blur gaussian 19 sigma 1.33 x 0.88 at 2.23 | resize 85x106 area | "
        "resize 24x30 bicubic antialiased | noise sigma 0.5 | JPEG 94",
        [[121.5, 126.8, 152.3], [140.2, 139.8, 107.7], [140.5, 139.6, 99.0], [142.0, 140.0, 181.3]],
        [37.0, 48.8, 58.9],
    ),
    "web": (
        20,
        "blur gaussian 15 sigma 2.28 | resize 35x44 area | noise sigma 7.9 | "
        "blur unsharp mask 9 sigma 1.14 amount 0.55 | JPEG 74 | resize 24x30 area | JPEG 46 4:4:4",
        [[121.1, 127.3, 153.1], [139.2, 141.0, 107.8], [140.5, 138.6, 97.3], [140.0, 140.4, 180.2]],
        [36.4, 50.8, 60.0],
    ),
}

# How much of the clean picture is left at the least.
CORRELATIONS = dict(
    realesrgan=0.3, bsrgan=0.3, bicubic=0.99, light=0.7, camera=0.85, lens=0.85, web=0.7
)

# every preset


@presets
@scales
@settings(max_examples=25)
@given(rows=st.integers(1, 14), columns=st.integers(1, 14), seed=st.integers(0, 2**32 - 1))
def test_every_preset_on_images_of_every_size(preset, scale, rows, columns, seed):
    hr = photo(rows * scale, columns * scale, seed)
    before = hr.copy()
    record = d.draw(np.random.default_rng(seed), preset, *hr.shape[:2], scale)
    assert (record.height, record.width, record.scale) == (*hr.shape[:2], scale)
    assert record == d.draw(np.random.default_rng(seed), preset, *hr.shape[:2], scale)
    again = c.Degradation.from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False)))
    assert again == record
    lr = record.apply(hr)
    assert lr.shape == (rows, columns, 3) and lr.dtype == np.uint8
    assert lr.tobytes() == again.apply(hr).tobytes()
    assert np.array_equal(hr, before)


@presets
def test_different_generators_give_different_records(preset):
    different = {d.draw(np.random.default_rng(seed), preset, 64, 48, 4) for seed in range(50)}
    assert len(different) == 1 if preset == "bicubic" else len(different) > 40


@pytest.mark.parametrize(("preset", "least"), CORRELATIONS.items())
def test_degradations_keep_the_picture(preset, least):
    """However damaged, the LR image is one of the HR image: same place, same colours."""
    hr = waves(96, 120)
    clean = hr.reshape(24, 4, 30, 4, 3).mean((1, 3)) * 255
    for record in [d.draw(np.random.default_rng(i), preset, 96, 120, 4) for i in range(25)]:
        lr = record.apply(hr).astype(np.float64)
        assert np.abs(lr.mean((0, 1)) - clean.mean((0, 1))).max() < 15, str(record)
        assert np.corrcoef(lr.ravel(), clean.ravel())[0, 1] > least, str(record)
        assert np.corrcoef(lr.ravel(), clean[:, ::-1].ravel())[0, 1] < 0.15, str(record)


@pytest.mark.parametrize("preset", GOLDEN)
def test_seeds_give_what_they_gave(preset):
    """Another stream of draws, or other pixels, would silently be another data set."""
    seed, steps, quadrants, deviations = GOLDEN[preset]
    record = d.draw(np.random.default_rng(seed), preset, 96, 120, 4)
    assert str(record) == steps
    lr = record.apply(waves(96, 120)).astype(np.float64)
    means = lr.reshape(2, 12, 2, 15, 3).mean((1, 3)).reshape(4, 3)
    # Half a level for another OpenCV; 4.13 and 5.0 differ by less than a tenth.
    np.testing.assert_allclose(means, quadrants, atol=0.5)
    np.testing.assert_allclose(lr.std((0, 1)), deviations, atol=0.5)


def test_settings_can_be_given_in_place_of_a_name():
    mild = d.HighOrder((d.Order(blur=0.0, noise=0.0, jpeg=0.0),), sharpen=False, sinc=0.0)
    assert d.named(mild) is mild and d.named("bsrgan") is d.PRESETS["bsrgan"]
    records = [d.draw(np.random.default_rng(i), mild, 64, 48, 4) for i in range(30)]
    assert {type(step) for record in records for step in record.steps} == {c.Resize}
    with pytest.raises(TypeError):
        d.PRESETS["mine"] = mild


def test_unknown_presets_are_named():
    for call in (d.named, lambda name: d.draw(np.random.default_rng(0), name, 64, 64, 4)):
        with pytest.raises(ValueError, match="one of realesrgan, bsrgan, .*, got 'esrgan'"):
            call("esrgan")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "preset: expected one of realesrgan, .*, found ''"),
        ("web*much", r"preset 'web\*much': expected a number after \*"),
        ("web*-1;lens", "expected a finite weight above 0"),
        ("web;esrgan*2", "one of realesrgan, bsrgan, .*, got 'esrgan'"),
    ],
)
def test_wrong_mixtures_are_named(text, message):
    with pytest.raises(UserError, match=message):
        d.named(text)


def test_mixtures_draw_presets_by_weight():
    """What `bicubic` gives is known at once; what `lens` does is a function of the generator."""
    plain = d.draw(np.random.default_rng(0), "bicubic", SIDE, SIDE, 4)
    for text, share in (("bicubic*0.2;lens*0.8", 0.2), ("lens;bicubic*3", 0.75)):
        records = draws(text, 1500)
        assert_share((record == plain for record in records), share)
        assert all(type(r.steps[-1]) is c.Blur for r in records if r != plain)  # registration
        assert records == draws(text, 1500)
    nested = draws("photo*1e308;web*1e308", 300)
    assert_share((bool(of(c.Jpeg, [record])) for record in nested), 0.5 + 0.5 * (0.5 + 0.2) / 2)


def test_without_weights_the_draws_are_those_they_were():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        steps = d.PRESETS[("light", "camera")[int(rng.integers(2))]].steps(rng, 64, 48, 4)
        assert d.draw(np.random.default_rng(seed), "photo", 64, 48, 4).steps == tuple(steps)


@presets
def test_a_mixture_of_one_is_that_preset(preset):
    for text in (f"{preset}*0.3", f"{preset};"):
        assert d.named(text) is d.PRESETS[preset]


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(30, 32, 4), (32, 30, 4), (0, 32, 4), (32, 0, 4), (32, 32, 0)]
)
def test_sizes_must_be_positive_multiples_of_the_scale(height, width, scale):
    message = f"HR size {height}x{width} is not a multiple of the scale {scale}"
    with pytest.raises(ValueError, match=message):
        d.draw(np.random.default_rng(0), "bicubic", height, width, scale)


# bicubic, light, camera


NOISES = (c.GaussianNoise, c.PoissonNoise)


def assert_noise_and_jpeg(records, noisy, gaussian, sigma, scale, qualities):
    """Share of the noisy, their noises, the range of JPEG."""
    assert_share((len(of(NOISES, [r])) == 1 for r in records), noisy)
    assert_noise(of(NOISES, records), gaussian, sigma, scale)
    assert {step.quality for step in of(c.Jpeg, records)} == set(qualities)


def test_light_is_one_mild_order():
    records = draws("light", 1500)
    assert not of(c.Sharpen, records)
    assert max(step.kernel.sigma_x for step in of(c.Blur, records)) <= 1.5
    assert_share((isinstance(r.steps[0], c.Blur) for r in records), 0.8)
    assert_noise_and_jpeg(records, 0.5, 0.5, (1, 8), (0.05, 0.4), range(70, 96))
    assert_share((len(of(c.Jpeg, [r])) == 1 for r in records), 0.5)
    resizes = [of(c.Resize, [r]) for r in records]
    assert all((r[-1].height, r[-1].width) == (SIDE // 4,) * 2 for r in resizes)
    assert_factors([r[0].factor if len(r) == 2 else 1 for r in resizes], 0.1, 0.2, 0.6, 1.2)
    assert_share((r[-1].antialias for r in resizes if r[-1].mode != "adaptive"), 0.5)
    assert not any(r[-1].antialias for r in resizes if r[-1].mode == "adaptive")


def test_camera_has_no_aliasing_and_little_noise():
    records = draws("camera", 1500)
    assert not of((c.Sharpen, c.CorrelatedNoise), records)
    kernels = [step.kernel for step in of(c.Blur, records)]
    assert_share((len(of(c.Blur, [r])) == 1 for r in records), 0.85)
    assert_share((k.sigma_x == k.sigma_y for k in kernels), 0.65)
    assert {k.shape for k in kernels} == {"gaussian"}
    assert_uniform([k.sigma_x for k in kernels], 0.8, 3.2)
    assert_noise_and_jpeg(records, 0.4, 0.7, (0, 4), (0.05, 0.2), range(85, 98))
    finals = [of(c.Resize, [r])[-1] for r in records]
    assert {(step.height, step.width) for step in finals} == {(SIDE // 4, SIDE // 4)}
    for mode, probability in (("area", 0.4), ("bilinear", 0.2), ("bicubic", 0.4)):
        assert_share((step.mode == mode for step in finals), probability)
    assert all(step.antialias == (step.mode != "area") for step in finals)
    # The noise is that of the LR pixels, where the JPEG is: both on one side of the final resize.
    last = [r.steps[-2] for r in records if of(NOISES, [r]) and isinstance(r.steps[-1], c.Jpeg)]
    assert len(last) > 20 and all(isinstance(step, NOISES) for step in last)
