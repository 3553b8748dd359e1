"""Windows that go out and come back unchanged make the image again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_sr.errors import UserError
from maskgit_sr.inference.mosaic import Mosaic
from maskgit_sr.methods.base import TileSpec

TILE = TileSpec(sides=(8,), overlap=4)


def through(color: np.ndarray, scale: int, confidence: bool, tile: TileSpec = TILE) -> Mosaic:
    mosaic = Mosaic(color, tile, scale, confidence=confidence)
    for index in range(mosaic.count):
        window = mosaic.cut([index])[0].repeat(scale, 0).repeat(scale, 1)
        mosaic.add(window, np.full((4, 4), 0.25, np.float32), np.full((4, 4), index, np.int32))
    return mosaic


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
    scale=st.sampled_from([1, 2, 4]),
    sides=st.sampled_from([(8,), (8, 16), (12, 24, 32)]),
)
def test_unchanged_windows_make_the_image_again(height, width, dtype, scale, sides):
    values = np.random.default_rng(height * 41 + width).random((height, width, 3))
    peak = 1 if dtype is np.float32 else np.iinfo(dtype).max
    color = (values * peak).astype(dtype)
    mosaic = through(color, scale, confidence=True, tile=TileSpec(sides=sides, overlap=4))
    assert mosaic.color.dtype == color.dtype
    wanted = color.repeat(scale, 0).repeat(scale, 1)
    np.testing.assert_allclose(mosaic.color, wanted, atol=1e-6 * peak + (dtype is np.uint16))
    np.testing.assert_allclose(mosaic.confidence, np.full((height, width), 0.25), rtol=1e-6)
    rows, columns = mosaic.tokens.shape[:2]
    assert rows * columns == mosaic.count
    np.testing.assert_array_equal(mosaic.tokens[..., 0, 0].ravel(), np.arange(mosaic.count))


def test_several_windows_are_cut_as_each_by_itself():
    color = np.random.default_rng(0).integers(0, 256, (13, 22, 3), np.uint8)
    mosaic = Mosaic(color, TILE, 4, confidence=False)
    together = mosaic.cut(range(mosaic.count))
    assert together.dtype == np.float32 and together.shape == (mosaic.count, 8, 8, 3)
    assert together.min() >= 0 and together.max() <= 1
    for index in range(mosaic.count):
        np.testing.assert_array_equal(mosaic.cut([index])[0], together[index])


def test_without_confidence_and_tokens_there_are_none():
    mosaic = through(np.zeros((9, 9, 3), np.uint8), 4, confidence=False)
    assert mosaic.confidence is None and mosaic.tokens is not None
    mosaic = Mosaic(np.zeros((9, 9, 3), np.uint8), TILE, 2, confidence=False)
    for _ in range(mosaic.count):
        mosaic.add(np.ones((16, 16, 3), np.float32))
    assert mosaic.confidence is None and mosaic.tokens is None
    np.testing.assert_array_equal(mosaic.color, np.full((18, 18, 3), 255))


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(1, 1, 8), (8, 8, 8), (9, 3, 8), (16, 16, 16), (17, 1, 8), (32, 32, 32), (33, 100, 16)],
)
def test_the_side_whose_windows_have_the_fewest_pixels_is_used(height, width, side):
    color = np.zeros((height, width, 3), np.uint8)

    def cut(sides):
        tile = TileSpec(sides=sides, overlap=4)
        return Mosaic(color, tile, 2, confidence=False)

    mosaic = cut((8, 16, 32))
    assert mosaic.side == side and mosaic.cut([0]).shape == (1, side, side, 3)
    others = [cut((other,)) for other in (8, 16, 32)]
    assert mosaic.count * side**2 == min(one.count * one.side**2 for one in others)


@pytest.mark.parametrize(
    ("sides", "overlap"), [((), 0), ((0,), 0), ((16, 8), 0), ((8, 8), 0), ((8, 16), 8), ((8,), -1)]
)
def test_sides_and_overlaps_that_make_no_windows(sides, overlap):
    with pytest.raises(ValueError, match="tile"):
        TileSpec(sides=sides, overlap=overlap)


# −1e38 is finite, and black once it is clipped.
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e38, 1001, -1001])
@pytest.mark.parametrize("name", ["image", "confidence"])
def test_output_that_is_not_finite_or_no_intensity_is_an_error(name, value):
    mosaic = Mosaic(np.zeros((8, 8, 3), np.uint8), TILE, 2, confidence=True)
    parts = {"image": np.zeros((16, 16, 3), np.float32), "confidence": np.zeros((2, 2), np.float32)}
    parts[name][1, 1, ...] = value
    with pytest.raises(UserError, match=f"not finite .* {name} of about 0 to 1, found"):
        mosaic.add(**parts)


@pytest.mark.parametrize(("value", "sample"), [(999, 255), (-999, 0), (1.5, 255)])
def test_output_that_overshoots_is_clipped(value, sample):
    mosaic = Mosaic(np.zeros((8, 8, 3), np.uint8), TILE, 2, confidence=False)
    mosaic.add(np.full((16, 16, 3), value, np.float32))
    assert (mosaic.color == sample).all()
