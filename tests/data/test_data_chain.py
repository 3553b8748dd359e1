"""data.chain: records of degradations, through JSON and on images."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import chain as c
from data import operations
from data.kernels import SHAPES, Kernel
from tests.data.pictures import flat, photo

numbers = st.floats(allow_nan=False, allow_infinity=False)
sides = st.integers(1, 2**20)
seeds = st.integers(0, 2**32 - 1)
rows = st.tuples(numbers, numbers, numbers)
kernels = st.builds(
    Kernel, st.sampled_from(SHAPES), st.sampled_from([7, 21]), *[numbers] * 6
)  # fmt: skip
STEPS = {
    c.Sharpen: st.builds(c.Sharpen, numbers, st.integers(1, 99), numbers),
    c.Blur: st.builds(c.Blur, kernels),
    c.Resize: st.builds(
        c.Resize, sides, sides, st.sampled_from(operations.MODES), st.booleans(), numbers
    ),
    c.GaussianNoise: st.builds(c.GaussianNoise, numbers, st.booleans(), seeds),
    c.CorrelatedNoise: st.builds(c.CorrelatedNoise, st.tuples(rows, rows, rows), seeds),
    c.PoissonNoise: st.builds(c.PoissonNoise, numbers, st.booleans(), seeds),
    c.Jpeg: st.builds(c.Jpeg, st.integers(1, 100)),
}

NOISES = (
    c.GaussianNoise(20.0, False, 11),
    c.GaussianNoise(20.0, True, 12),
    c.CorrelatedNoise(((90.0, 40.0, 10.0), (40.0, 60.0, 20.0), (10.0, 20.0, 30.0)), 13),
    c.PoissonNoise(2.0, False, 14),
    c.PoissonNoise(2.0, True, 15),
)
EVERYTHING = c.Degradation(
    48,
    64,
    4,
    (
        c.Sharpen(),
        c.Blur(Kernel("plateau", 9, 2.0, 1.0, 0.5, 1.5)),
        c.Resize(31, 41, "bicubic", factor=0.65),
        *NOISES,
        c.Jpeg(60),
        c.Resize(24, 32, "adaptive"),
        c.Resize(12, 16, "bilinear", antialias=True),
        c.Blur(Kernel("sinc", 7, cutoff=2.0)),
        c.Jpeg(90),
    ),
)


def through_json(record):
    text = json.dumps(record.to_dict(), allow_nan=False)
    return c.Degradation.from_dict(json.loads(text))


# JSON and text


def test_every_step_is_tested():
    assert set(STEPS) == set(c.Step.__args__)
    assert set(map(type, EVERYTHING.steps)) == set(STEPS)


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.__name__)
@given(data=st.data(), height=sides, width=sides, scale=st.integers(1, 8))
@settings(max_examples=30)
def test_every_step_survives_json(kind, data, height, width, scale):
    steps = tuple(data.draw(st.lists(STEPS[kind], min_size=1, max_size=3)))
    record = c.Degradation(height, width, scale, steps)
    again = through_json(record)
    assert again == record
    assert [type(step) for step in again.steps] == [kind] * len(steps)
    assert hash(again) == hash(record)  # tuples all the way down, not JSON's lists


def test_json_is_what_it_was():
    """Files of records outlive the code: names and fields may not change by accident."""
    record = c.Degradation(
        8,
        12,
        2,
        (
            c.Sharpen(),
            c.Blur(Kernel("gaussian", 7, 1.5, 1.5)),
            c.Resize(4, 6, "area"),
            NOISES[0],
            NOISES[2],
            NOISES[4],
            c.Jpeg(75),
        ),
    )
    kernel = {"shape": "gaussian", "size": 7, "sigma_x": 1.5, "sigma_y": 1.5, "theta": 0.0}
    kernel |= {"beta": 1.0, "cutoff": 0.0, "offset": 0.0, "amount": 0.0}
    covariance = [[90.0, 40.0, 10.0], [40.0, 60.0, 20.0], [10.0, 20.0, 30.0]]
    assert json.loads(json.dumps(record.to_dict())) == {
        "height": 8,
        "width": 12,
        "scale": 2,
        "steps": [
            {"step": "sharpen", "amount": 0.5, "radius": 50, "threshold": 10},
            {"step": "blur", "kernel": kernel},
            {
                "step": "resize",
                "height": 4,
                "width": 6,
                "mode": "area",
                "antialias": False,
                "factor": 0.0,
            },
            {"step": "gaussian_noise", "sigma": 20.0, "grey": False, "seed": 11},
            {"step": "correlated_noise", "covariance": covariance, "seed": 13},
            {"step": "poisson_noise", "scale": 2.0, "grey": True, "seed": 15},
            {"step": "jpeg", "quality": 75},
        ],
    }


def test_records_from_before_kernels_had_an_amount_are_read():
    record = c.Degradation(8, 12, 2, (c.Blur(Kernel("gaussian", 7, 1.5, 1.5)),))
    stored = json.loads(json.dumps(record.to_dict()))
    del stored["steps"][0]["kernel"]["amount"]
    assert c.Degradation.from_dict(stored) == record


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (c.Sharpen(), "sharpen 0.5"),
        (c.Blur(Kernel("gaussian", 7, 1.5, 1.5)), "blur gaussian 7 sigma 1.50"),
        (c.Blur(Kernel("sinc", 9, cutoff=2.0)), "blur sinc 9 cut-off 2.00"),
        (c.Resize(12, 16, "area"), "resize 12x16 area"),
        (c.Resize(12, 16, "bicubic", True), "resize 12x16 bicubic antialiased"),
        (NOISES[0], "noise sigma 20.0"),
        (NOISES[1], "grey noise sigma 20.0"),
        (NOISES[2], "correlated noise sigma 9.5/7.7/5.5"),
        (NOISES[3], "shot noise 2.00"),
        (NOISES[4], "grey shot noise 2.00"),
        (c.Jpeg(60), "JPEG 60"),
    ],
)
def test_steps_read_well(step, text):
    assert str(step) == text


def test_record_is_one_readable_line():
    line = str(EVERYTHING)
    assert line.splitlines() == [line] and "(" not in line  # no bare repr
    assert line.isascii()  # whatever the code page of a console
    assert line.split(" | ") == [str(step) for step in EVERYTHING.steps]
    assert str(c.Degradation(4, 4, 2, (c.Resize(2, 2, "area"), c.Jpeg(30)))) == (
        "resize 2x2 area | JPEG 30"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [{"step": "sepia"}]}, "unknown step 'sepia', expected one of sharpen, blur"),
        ({"steps": [{"step": "jpeg", "qualty": 3}]}, "not a record of a degradation.*qualty"),
        ({"steps": [{"step": "jpeg"}]}, "not a record of a degradation.*quality"),
        ({"steps": [{"quality": 3}]}, "not a record of a degradation.*step"),
        ({"steps": [{"step": "blur", "kernel": {"size": 7}}]}, "not a record.*shape"),
        ({"steps": [7]}, "not a record of a degradation"),
        ({"steps": None}, "not a record of a degradation"),
        ({"height": None}, "not a record of a degradation"),
    ],
)
def test_what_is_no_record_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        c.Degradation.from_dict({**EVERYTHING.to_dict(), **change})
    short = EVERYTHING.to_dict()
    del short["scale"]
    with pytest.raises(ValueError, match="not a record of a degradation.*scale"):
        c.Degradation.from_dict(short)


# on images


def test_apply_gives_the_same_bytes_every_time():
    hr = photo(48, 64)
    before = hr.copy()
    lr = EVERYTHING.apply(hr)
    assert lr.shape == (12, 16, 3) and lr.dtype == np.uint8
    assert lr.tobytes() == EVERYTHING.apply(hr).tobytes()
    assert lr.tobytes() == through_json(EVERYTHING).apply(hr).tobytes()
    assert np.array_equal(hr, before)
    assert len(np.unique(lr)) > 50  # a picture is left to compare


def generator():
    return np.random.default_rng(11)


KERNEL = Kernel("gaussian", 7, 1.5, 1.5)
COVARIANCE = np.array(NOISES[2].covariance)
CALLS = [
    (c.Sharpen(1.5, 20, 5), lambda x: operations.usm_sharpen(x, 1.5, 20, 5)),
    (c.Blur(KERNEL), lambda x: operations.blur(x, KERNEL.array())),
    (c.Resize(9, 10, "area"), lambda x: operations.resize(x, 9, 10, "area")),
    (
        c.Resize(9, 10, "bicubic", antialias=True),
        lambda x: operations.resize(x, 9, 10, "bicubic", antialias=True),
    ),
    (
        c.Resize(31, 41, "bilinear", factor=0.65),
        lambda x: operations.resize(x, 31, 41, "bilinear", factor=0.65),
    ),
    (
        c.GaussianNoise(25.5, False, 11),
        lambda x: operations.gaussian_noise(x, 0.1, generator()),
    ),
    (
        c.GaussianNoise(25.5, True, 11),
        lambda x: operations.gaussian_noise(x, 0.1, generator(), grey=True),
    ),
    (
        c.CorrelatedNoise(NOISES[2].covariance, 11),
        lambda x: operations.correlated_noise(x, COVARIANCE / 255 / 255, generator()),
    ),
    (c.PoissonNoise(0.7, False, 11), lambda x: operations.poisson_noise(x, 0.7, generator())),
    (
        c.PoissonNoise(0.7, True, 11),
        lambda x: operations.poisson_noise(x, 0.7, generator(), grey=True),
    ),
    (c.Jpeg(30), lambda x: operations.jpeg(x, 30)),
]


@pytest.mark.parametrize(("step", "operation"), CALLS, ids=[str(step) for step, _ in CALLS])
def test_steps_pass_their_parameters_on(step, operation):
    image = photo(48, 64)
    expected = operation(image)
    if isinstance(step, (c.GaussianNoise, c.CorrelatedNoise, c.PoissonNoise)):
        expected = np.clip(expected, 0, 1)
    result = step(image)
    assert result.dtype == np.float32 and not np.array_equal(result, image)
    np.testing.assert_allclose(result, expected, atol=1e-7)


def test_steps_run_in_order_and_bytes_are_rounded_once():
    hr = photo(48, 64)
    image = hr
    for step in EVERYTHING.steps:
        image = step(image)
    expected = np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)
    assert np.array_equal(EVERYTHING.apply(hr), expected)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_noise_steps_are_seeded_and_clipped(noise):
    image = photo(48, 64)
    noisy = noise(image)
    assert noisy.dtype == np.float32 and noisy.min() >= 0 and noisy.max() <= 1
    assert not np.array_equal(dataclasses.replace(noise, seed=99)(image), noisy)
    extremes = np.concatenate([flat(0, 0, 0, side=64), flat(1, 1, 1, side=64)])
    clipped = noise(extremes)
    assert clipped.min() == 0 and clipped.max() == 1


def test_bytes_and_floats_give_the_same():
    levels = operations.to_bytes(photo(48, 64))
    assert np.array_equal(EVERYTHING.apply(levels), EVERYTHING.apply(levels / np.float32(255)))
    reduction = c.Degradation(48, 64, 4, (c.Resize(12, 16, "area"),))
    blocks = levels.reshape(12, 4, 16, 4, 3).mean((1, 3))
    np.testing.assert_allclose(reduction.apply(levels), blocks, atol=0.5 + 1e-3)


@pytest.mark.parametrize("shape", [(48, 60, 3), (64, 48, 3), (48, 64), (48, 64, 4), (1, 48, 64, 3)])
def test_apply_refuses_another_size(shape):
    with pytest.raises(ValueError, match=r"drawn for 48x64 RGB, got shape \(.*\)"):
        EVERYTHING.apply(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"drawn for 48x64 RGB, got shape \(.*\)"):
        EVERYTHING.apply_sharpened(np.zeros(shape, np.float32))


def test_apply_sharpened_goes_on_after_the_first_step():
    hr = photo(48, 64)
    sharp = operations.usm_sharpen(hr)
    assert np.array_equal(EVERYTHING.apply_sharpened(sharp), EVERYTHING.apply(hr))
    assert not np.array_equal(EVERYTHING.apply_sharpened(hr), EVERYTHING.apply(hr))


@pytest.mark.parametrize(
    "steps", [(), (c.Jpeg(50),), (c.Jpeg(50), c.Sharpen())], ids=["none", "jpeg", "later"]
)
def test_apply_sharpened_needs_a_record_that_sharpens_first(steps):
    with pytest.raises(ValueError, match="does not start by sharpening"):
        c.Degradation(48, 64, 4, steps).apply_sharpened(photo(48, 64))
