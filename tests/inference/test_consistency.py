"""inference.consistency: the bound holds for any image, or what is said to exceed it does."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskgit_sr.bundles import Metadata
from maskgit_sr.errors import UserError
from maskgit_sr.images import Picture, from_array, resize
from maskgit_sr.inference import consistency
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.subpixel import Subpixel
from maskgit_sr.ops.resize import downsample_bicubic, resize_weights
from tests.inference.pictures import noise


def reduced(color, height, width):
    """[height, width, 3] in float64 by the matrices of both axes, clipped as a file would be."""
    rows, columns = (
        dense(size, count) for size, count in zip(color.shape[:2], (height, width), strict=True)
    )
    small = np.einsum("hH,HWc,wW->hwc", rows, color.astype(np.float64), columns, optimize=True)
    return small.clip(0, 1 if color.dtype.kind == "f" else np.iinfo(color.dtype).max)


def dense(size, count):
    begin, part = resize_weights(size, count, 0, count)
    matrix = np.zeros((count, size))
    matrix[:, begin : begin + part.shape[1]] = part
    return matrix


def deviations(picture, restored):
    """[H, W, 3] in grey levels of 255, of a result that is reduced to the input's size."""
    color = picture.color
    step = 255 if color.dtype.kind == "f" else 255 / np.iinfo(color.dtype).max
    return np.abs(reduced(restored.color, *color.shape[:2]) - color) * step


SCALES = st.sampled_from([1, 1.3, 1.5, 2, 3, 4])


@settings(max_examples=40)
@given(height=st.integers(1, 80), width=st.integers(1, 40), scale=SCALES, data=st.data())
def test_the_bound_holds_at_every_sample(height, width, scale, data):
    """Of an input with room to black and white, whatever the network made of it."""
    bound = data.draw(st.sampled_from([1.0, 2.5, 12.0] if scale < 2 else [0.5, 1.0, 2.5, 12.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    picture = Picture(rng.integers(100, 156, (height, width, 3), np.uint8))
    large = round(height * scale), round(width * scale)
    color = data.draw(
        st.sampled_from(
            [
                rng.integers(0, 256, (*large, 3), np.uint8),
                resize(picture.color, *large),
                np.zeros((*large, 3), np.uint8),
            ]
        )
    )
    restored = Picture(color.copy())
    found = consistency.enforce(picture, restored, bound)
    largest = deviations(picture, restored).max()
    assert largest <= bound and found.outside == 0 and found.notes == ()
    assert found.largest == pytest.approx(largest, abs=1e-3)
    assert (found.bound, found.samples) == (bound, height * width * 3)


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)), scale=SCALES, seed=st.integers(0, 99)
)
def test_what_exceeds_the_bound_is_counted(size, scale, seed):
    """Of noise from black to white, to which nothing in range reduces."""
    picture = Picture(noise(*size, 3, seed=seed))
    restored = Picture(resize(picture.color, *(round(side * scale) for side in size)))
    before = np.maximum(deviations(picture, restored) - 0.5, 0).sum()
    found = consistency.enforce(picture, restored, 0.5)
    left = deviations(picture, restored)
    assert found.largest == pytest.approx(left.max(), abs=1e-3)
    assert (left > 0.501).sum() <= found.outside <= (left > 0.499).sum()
    assert np.maximum(left - 0.5, 0).sum() <= before + 1e-3
    assert bool(found.notes) == (found.outside > 0)


@settings(max_examples=20)
@example(size=(1, 1), scale=2, seed=63)  # where equal samples must be rounded differently
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 40)),
    scale=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_a_reduced_photograph_is_returned_exactly(size, scale, seed):
    """Rounded and clipped, of a smooth image with black and white: within half a level."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-128, 384, (size[0] // 8 + 2, size[1] // 8 + 2, 3)).clip(0, 255)
    hr = resize(coarse.astype(np.uint8), *(side * scale for side in size))
    picture = Picture(np.rint(reduced(hr, *size)).astype(np.uint8))
    restored = Picture(
        (hr.astype(int) + rng.integers(-30, 31, hr.shape)).clip(0, 255).astype(np.uint8)
    )
    assert consistency.enforce(picture, restored, 0.5).outside == 0
    again = np.rint(downsample_bicubic(restored.color[None].astype(np.float64), scale)[0])
    np.testing.assert_array_equal(again.clip(0, 255), picture.color)


def test_it_changes_little_and_nothing_that_is_near_enough():
    picture = Picture(noise(70, 40, 3) // 4 + 96)
    color = resize(picture.color, 280, 160)
    restored = Picture(color.copy())
    consistency.enforce(picture, restored, 0.5)
    # the least change, without bound, rounding or clipping, is that of the pseudo-inverse
    rows, columns = dense(280, 70), dense(160, 40)
    lack = picture.color - np.einsum("hH,HWc,wW->hwc", rows, color, columns, optimize=True)
    inverses = np.linalg.pinv(rows), np.linalg.pinv(columns)
    least = np.einsum("Hh,hwc,Ww->HWc", inverses[0], lack, inverses[1], optimize=True)
    change = restored.color.astype(float) - color
    assert np.sqrt((change**2).mean()) < 1.02 * np.sqrt((least**2).mean())
    again = restored.color.copy()
    consistency.enforce(picture, restored, 0.5)
    np.testing.assert_array_equal(restored.color, again)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_sixteen_bits_are_held_to_their_own_steps(dtype):
    color = noise(37, 9, 3, np.uint16) // 4 + 24576
    picture = Picture(color if dtype == np.uint16 else (color / 65535).astype(np.float32))
    restored = Picture(resize(picture.color, 111, 27))
    found = consistency.enforce(picture, restored, consistency.least(dtype))
    assert found.outside == 0 and restored.color.dtype == dtype
    assert deviations(picture, restored).max() <= 0.5 * 255 / 65535 + 1e-5
    steps = restored.color.astype(np.float64) * (65535 if dtype == np.float32 else 1)
    np.testing.assert_allclose(steps, np.rint(steps), atol=0.004)  # a file changes nothing


def test_grey_stays_grey_and_hidden_colours_have_no_influence():
    grey = noise(9, 7, 1) // 4 + 96
    picture = from_array(grey)
    restored = Picture(resize(picture.color, 36, 28), grey=True)
    assert consistency.enforce(picture, restored, 0.5).samples == 63
    assert np.ptp(restored.color, axis=-1).max() == 0
    assert deviations(picture, restored).max() <= 0.5
    color, alpha = noise(9, 7, 3) // 4 + 96, np.full((9, 7), 255, np.uint8)
    alpha[:, 4:] = 0
    other = np.where(alpha[..., None] == 0, 255 - color, color)
    made = [Picture(resize(color, 36, 28)) for _ in range(2)]
    for colors, out in zip((color, other), made, strict=True):
        consistency.enforce(Picture(colors, alpha), out, 0.5)
    np.testing.assert_array_equal(made[0].color, made[1].color)
    assert deviations(Picture(color), made[0])[:, :4].max() <= 0.5


@pytest.fixture(scope="module")
def doubling():
    method = Subpixel()
    params, _ = method.init(jax.random.key(0), method.groups)
    metadata = Metadata(method.name, {}, method.scale)
    return Upscaler(method, params, metadata, batch=3, device=jax.devices("cpu")[0])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("scale", [None, 1, 2.6])
def test_the_upscaler_keeps_it_at_every_scale(doubling, channels, scale):
    image = noise(20, 13, channels) // 4 + 96
    options = {"scale": scale, "noise": 0.2, "consistent": 2.0}
    plain = doubling(image, **{**options, "consistent": None})
    assert plain.consistency is None
    result = doubling(image, **options)
    assert result.image.shape == plain.image.shape and result.consistency.outside == 0
    before, after = (from_array(x) for x in (image, result.image))
    visible = np.ones((20, 13), bool) if before.alpha is None else before.alpha >= 32
    assert deviations(before, after)[visible].max() <= 2.0
    if channels in (2, 4):
        np.testing.assert_array_equal(result.image[..., -1], plain.image[..., -1])
    np.testing.assert_array_equal(result.image, doubling(image, **options).image)


@pytest.mark.parametrize(
    ("dtype", "options", "message"),
    [
        (np.uint8, {"consistent": 0.49}, "consistent: expected 0.5 to 255 .* of 8 bits .* 0.49"),
        (np.uint16, {"consistent": 1e-3}, "expected 0.00195 to 255 .* of 16 bits"),
        (np.float32, {"consistent": 0.0}, "of 16 bits and more, found 0"),
        (np.uint8, {"consistent": 256}, "found 256"),
        (np.uint8, {"consistent": float("nan")}, "found nan"),
        (np.uint8, {"consistent": 1, "scale": 0.9}, "a scale of at least 1, found 0.9"),
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(doubling, dtype, options, message):
    with pytest.raises(UserError, match=message):
        doubling(noise(4, 4, 3, dtype), **options)


def test_it_ends_when_it_is_told_to():
    picture, asked = Picture(noise(9, 7, 3)), []
    with pytest.raises(InterruptedError):
        consistency.enforce(
            picture, Picture(noise(36, 28, 3)), 0.5, lambda: asked.append(1) or len(asked) > 2
        )
    assert len(asked) == 3


def test_a_note_has_the_figures():
    found = consistency.Consistency(0.5, 12.34, 43, 76800)
    [note] = found.notes
    for part in ("43 of 76,800", "more than 0.5 grey", "at most 12.3"):
        assert part in note
    assert dataclasses.replace(found, outside=0).notes == ()
