"""data.chain: records of degradations, through JSON and on images."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import chain as c
from data import operations as o
from data.kernels import SHAPES, Kernel
from tests.data.pictures import photo

numbers = st.floats(allow_nan=False, allow_infinity=False)
sides = st.integers(1, 2**20)
seeds = st.integers(0, 2**32 - 1)
rows = st.tuples(numbers, numbers, numbers)
kernels = st.builds(Kernel, st.sampled_from(SHAPES), st.sampled_from([7, 21]), *[numbers] * 7)
STEPS = {
    c.Sharpen: st.builds(c.Sharpen, numbers, st.integers(1, 99), numbers),
    c.Blur: st.builds(c.Blur, kernels),
    c.Resize: st.builds(c.Resize, sides, sides, st.sampled_from(o.MODES), st.booleans(), numbers),
    c.GaussianNoise: st.builds(c.GaussianNoise, numbers, st.booleans(), seeds),
    c.CorrelatedNoise: st.builds(c.CorrelatedNoise, st.tuples(rows, rows, rows), seeds),
    c.PoissonNoise: st.builds(c.PoissonNoise, numbers, st.booleans(), seeds),
    c.Jpeg: st.builds(c.Jpeg, st.integers(1, 100), st.booleans()),
}

COVARIANCE = ((90.0, 40.0, 10.0), (40.0, 60.0, 20.0), (10.0, 20.0, 30.0))
NOISES = (
    c.GaussianNoise(20.0, False, 11),
    c.GaussianNoise(20.0, True, 12),
    c.CorrelatedNoise(COVARIANCE, 13),
    c.PoissonNoise(2.0, False, 14),
    c.PoissonNoise(2.0, True, 15),
)
EVERYTHING = c.Degradation(
    48,
    64,
    4,
    (
        c.Sharpen(1.5, 21, 5.0),
        c.Blur(Kernel("plateau", 9, 2.0, 1.0, 0.5, 1.5)),
        c.Resize(31, 41, "bicubic", factor=0.65),
        *NOISES,
        c.Jpeg(60),
        c.Resize(12, 16, "bilinear", antialias=True),
    ),
)


def through_json(record):
    text = json.dumps(record.to_dict(), allow_nan=False)
    return c.Degradation.from_dict(json.loads(text))


# JSON and text


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.__name__)
@given(data=st.data(), height=sides, width=sides, scale=st.integers(1, 8))
@settings(max_examples=30)
def test_every_step_survives_json(kind, data, height, width, scale):
    assert set(STEPS) == set(c.Step.__args__)
    steps = tuple(data.draw(st.lists(STEPS[kind], min_size=1, max_size=3)))
    record = c.Degradation(height, width, scale, steps)
    again = through_json(record)
    assert again == record
    assert [type(step) for step in again.steps] == [kind] * len(steps)
    assert hash(again) == hash(record)  # tuples all the way down, not JSON's lists


def test_json_is_what_it_was():
    """Files of records outlive the code: names and fields may not change by accident."""
    kernel = {"shape": "plateau", "size": 9, "sigma_x": 2.0, "sigma_y": 1.0, "theta": 0.5}
    kernel |= {"beta": 1.5, "cutoff": 0.0, "offset": 0.0, "amount": 0.0}
    resize = {"step": "resize", "height": 31, "width": 41, "mode": "bicubic"}
    stored = {
        "height": 48,
        "width": 64,
        "scale": 4,
        "steps": [
            {"step": "sharpen", "amount": 1.5, "radius": 21, "threshold": 5.0},
            {"step": "blur", "kernel": kernel},
            {**resize, "antialias": False, "factor": 0.65},
            {"step": "gaussian_noise", "sigma": 20.0, "grey": False, "seed": 11},
            {"step": "gaussian_noise", "sigma": 20.0, "grey": True, "seed": 12},
            {"step": "correlated_noise", "covariance": list(map(list, COVARIANCE)), "seed": 13},
            {"step": "poisson_noise", "scale": 2.0, "grey": False, "seed": 14},
            {"step": "poisson_noise", "scale": 2.0, "grey": True, "seed": 15},
            {"step": "jpeg", "quality": 60, "subsampled": True},
            {**resize, "height": 12, "width": 16, "mode": "bilinear", "antialias": True}
            | {"factor": 0.0},
        ],
    }
    assert json.loads(json.dumps(EVERYTHING.to_dict())) == stored
    # As records are that were written before kernels and files had them.
    del kernel["amount"], stored["steps"][-2]["subsampled"]
    assert c.Degradation.from_dict(stored) == EVERYTHING


def test_a_record_is_one_readable_line():
    assert str(EVERYTHING) == (
        "sharpen 1.5 | blur plateau 9 sigma 2.00 x 1.00 at 0.50 beta 1.50 | resize 31x41 bicubic | "
        "noise sigma 20.0 | grey noise sigma 20.0 | correlated noise sigma 9.5/7.7/5.5 | "
        "shot noise 2.00 | grey shot noise 2.00 | JPEG 60 | resize 12x16 bilinear antialiased"
    )
    assert str(c.Jpeg(60, subsampled=False)) == "JPEG 60 4:4:4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [{"step": "sepia"}]}, "unknown step 'sepia', expected one of sharpen, blur"),
        ({"steps": [{"step": "jpeg", "qualty": 3}]}, "not a record of a degradation.*qualty"),
        ({"steps": [{"step": "jpeg"}]}, "not a record of a degradation.*quality"),
        ({"steps": [{"quality": 3}]}, "not a record of a degradation.*step"),
        ({"steps": [{"step": "blur", "kernel": {"size": 7}}]}, "not a record.*shape"),
        ({"steps": [{"step": "jpeg", "quality": "low"}]}, "quality must be a int, got 'low'"),
        (
            {"steps": [{"step": "jpeg", "quality": 60, "subsampled": 1}]},
            "subsampled must be a bool, got 1",
        ),
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


def test_steps_run_in_order_with_their_parameters_and_bytes_are_rounded_once():
    hr = photo(48, 64)
    before = hr.copy()
    lr = EVERYTHING.apply(hr)
    assert np.array_equal(hr, before)

    def noisy(operation, *parameters, seed, **more):
        result = operation(image, *parameters, np.random.default_rng(seed), **more)
        return np.clip(result, 0, 1)

    image = o.usm_sharpen(hr, 1.5, 21, 5.0)
    assert np.array_equal(lr, EVERYTHING.apply(image, sharpened=True))
    image = o.blur(image, Kernel("plateau", 9, 2.0, 1.0, 0.5, 1.5).array())
    image = o.resize(image, 31, 41, "bicubic", factor=0.65)
    image = noisy(o.gaussian_noise, 20 / 255, seed=11)
    image = noisy(o.gaussian_noise, 20 / 255, seed=12, grey=True)
    image = noisy(o.correlated_noise, np.array(COVARIANCE) / 255**2, seed=13)
    image = noisy(o.poisson_noise, 2.0, seed=14)
    image = noisy(o.poisson_noise, 2.0, seed=15, grey=True)
    image = o.resize(o.jpeg(image, 60), 12, 16, "bilinear", antialias=True)
    expected = np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)
    assert lr.shape == (12, 16, 3) and np.array_equal(lr, expected)
    assert lr.tobytes() == through_json(EVERYTHING).apply(hr).tobytes()


def test_a_file_of_whole_chroma_keeps_its_detail():
    hr = photo(48, 64)
    for subsampled in (True, False):
        record = c.Degradation(48, 64, 1, (c.Jpeg(70, subsampled),))
        assert np.array_equal(record.apply(hr), o.to_bytes(o.jpeg(hr, 70, subsampled)))
        assert through_json(record) == record


def test_bytes_and_floats_give_the_same():
    levels = o.to_bytes(photo(48, 64))
    assert np.array_equal(EVERYTHING.apply(levels), EVERYTHING.apply(levels / np.float32(255)))
    reduction = c.Degradation(48, 64, 4, (c.Resize(12, 16, "area"),))
    blocks = levels.reshape(12, 4, 16, 4, 3).mean((1, 3))
    np.testing.assert_allclose(reduction.apply(levels), blocks, atol=0.5 + 1e-3)


@pytest.mark.parametrize("shape", [(48, 60, 3), (64, 48, 3), (48, 64), (48, 64, 4), (1, 48, 64, 3)])
@pytest.mark.parametrize("sharpened", [False, True])
def test_apply_refuses_another_size(shape, sharpened):
    with pytest.raises(ValueError, match=r"drawn for 48x64 RGB, got shape \(.*\)"):
        EVERYTHING.apply(np.zeros(shape, np.float32), sharpened=sharpened)


@pytest.mark.parametrize("steps", [(), (c.Jpeg(50),), (c.Jpeg(50), c.Sharpen())], ids=len)
def test_a_sharpened_image_needs_a_record_that_sharpens_first(steps):
    with pytest.raises(ValueError, match="does not start by sharpening"):
        c.Degradation(48, 64, 4, steps).apply(photo(48, 64), sharpened=True)
