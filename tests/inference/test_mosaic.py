"""Tiles that go out and come back unchanged make the image again."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_sr.inference.mosaic import Mosaic
from maskgit_sr.methods.base import TileSpec

TILE = TileSpec(size=8, stride=4, cell=2)


def through(color: np.ndarray, scale: int, score: bool) -> Mosaic:
    mosaic = Mosaic(color, TILE, scale, score=score)
    for index in range(mosaic.count):
        tile = mosaic.cut([index])[0].repeat(scale, 0).repeat(scale, 1)
        mosaic.add(tile, np.full((4, 4), 0.25, np.float32), np.full((4, 4), index, np.int32))
    return mosaic


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
    scale=st.sampled_from([1, 2, 4]),
)
def test_unchanged_tiles_make_the_image_again(height, width, dtype, scale):
    values = np.random.default_rng(height * 41 + width).random((height, width, 3))
    peak = 1 if dtype is np.float32 else np.iinfo(dtype).max
    color = (values * peak).astype(dtype)
    mosaic = through(color, scale, score=True)
    assert mosaic.color.dtype == color.dtype
    wanted = color.repeat(scale, 0).repeat(scale, 1)
    np.testing.assert_allclose(mosaic.color, wanted, atol=1e-6 * peak + (dtype is np.uint16))
    np.testing.assert_allclose(mosaic.confidence, np.full((height, width), 0.25), rtol=1e-6)
    rows, columns = mosaic.tokens.shape[:2]
    assert rows * columns == mosaic.count
    np.testing.assert_array_equal(mosaic.tokens[..., 0, 0].ravel(), np.arange(mosaic.count))


def test_several_tiles_are_cut_as_each_by_itself():
    color = np.random.default_rng(0).integers(0, 256, (13, 22, 3), np.uint8)
    mosaic = Mosaic(color, TILE, 4, score=False)
    together = mosaic.cut(range(mosaic.count))
    assert together.dtype == np.float32 and together.shape == (mosaic.count, 8, 8, 3)
    assert together.min() >= 0 and together.max() <= 1
    for index in range(mosaic.count):
        np.testing.assert_array_equal(mosaic.cut([index])[0], together[index])


def test_without_score_there_is_no_confidence():
    mosaic = through(np.zeros((9, 9, 3), np.uint8), 4, score=False)
    assert mosaic.confidence is None
