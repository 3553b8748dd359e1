"""What transparency hides has no influence; black and white stays black and white."""

import dataclasses
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskgit_sr import images
from maskgit_sr.images.alpha import visible
from maskgit_sr.images.samples import Picture, monochrome, peak
from tests.inference.pictures import gradient, noise


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([np.uint8, np.uint16, np.float32]),
       st.floats(0, 1), st.integers(0, 999))  # fmt: skip
def test_hidden_colours_have_no_influence(height, width, dtype, share, seed):
    rng = np.random.default_rng(seed)
    alpha = noise(height, width, 0, dtype, seed)
    hidden = rng.random((height, width)) < share
    alpha[hidden] = 0
    color = noise(height, width, 3, dtype, seed + 1)
    other = np.where(hidden[..., None], noise(height, width, 3, dtype, seed + 2), color)
    first, second = (visible(Picture(x, alpha)) for x in (color, other))
    if alpha.any():
        np.testing.assert_array_equal(first, second)
    seen = alpha >= 0.125 * peak(dtype)
    np.testing.assert_array_equal(first[seen], color[seen])
    assert first.dtype == dtype and np.isfinite(first).all()


@pytest.mark.parametrize("hidden", [0, 255])
def test_the_fill_goes_on_with_the_colours_beside_it(hidden):
    """A disc of one colour stays that colour through a soft edge and beyond."""
    y, x = np.mgrid[:96, :128]
    radius = np.hypot(y - 48, x - 64)
    alpha = (255 * np.clip((30 - radius) / 6, 0, 1)).astype(np.uint8)
    color = np.full((96, 128, 3), hidden, np.uint8)
    color[alpha > 0] = 235, 200, 120
    filled = visible(Picture(color, alpha))
    assert np.abs(filled[radius < 60].astype(int) - [235, 200, 120]).max() <= 1


def test_opaque_and_half_transparent_pictures_are_left_alone():
    color = gradient()
    for alpha in (None, np.full((24, 40), 128, np.uint8), np.zeros((24, 40), np.uint8)):
        assert visible(Picture(color, alpha)) is color


def test_training_reads_no_hidden_colour():
    from maskgit_sr.images.decode import rgb8

    alpha = np.full((16, 16), 255, np.uint8)
    alpha[:, 8:] = 0
    color = np.full((16, 16, 3), 200, np.uint8)
    color[:, 8:] = 0
    file = io.BytesIO()
    Image.fromarray(np.dstack([color, alpha])).save(file, "PNG")
    assert (rgb8(file.getvalue(), "x") == 200).all()


def test_black_and_white_is_told_by_the_pixels():
    grey = np.repeat(noise(40, 56, 1), 3, axis=-1)
    assert monochrome(images.from_array(grey)) and not images.from_array(grey).grey
    assert monochrome(images.from_array(grey.astype(np.uint16) * 257))
    assert monochrome(images.from_array((grey / 255).astype(np.float32)))
    tinted = np.clip(grey.astype(int) + np.array([0, 0, 3]), 0, 255).astype(np.uint8)
    assert not monochrome(images.from_array(tinted))  # a toned print
    dot = grey.copy()
    dot[20, 30] = 255, 0, 0
    assert not monochrome(images.from_array(dot))
    behind = np.dstack([dot, np.full((40, 56), 255, np.uint8)])
    assert not monochrome(images.from_array(behind))
    behind[20, 30, 3] = 0
    assert monochrome(images.from_array(behind))  # the dot cannot be seen
    assert not monochrome(images.from_array(gradient()))


@pytest.mark.parametrize("quality", [50, 75, 90])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpegs_tints_are_no_colour(quality, subsampling):
    base = np.asarray(Image.fromarray(noise(12, 16, 0)).resize((128, 96), Image.Resampling.BICUBIC))
    grey = np.repeat(base[..., None], 3, axis=-1).astype(int)
    grey += np.random.default_rng(0).integers(-1, 2, grey.shape)  # as editors' curves leave
    file = io.BytesIO()
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    image.save(file, "JPEG", quality=quality, subsampling=subsampling)
    assert monochrome(images.from_bytes(file.getvalue()))


def test_monochrome_looks_at_every_band():
    tall = images.from_array(np.repeat(noise(3000, 200, 1), 3, axis=-1))
    assert monochrome(tall)
    color = tall.color.copy()
    color[-1, -1] = 0, 255, 0
    assert not monochrome(dataclasses.replace(tall, color=color))
