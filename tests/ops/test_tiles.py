"""ops.tiles: plans, padding, and tiles that blend into the image they were cut from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_sr.ops.tiles import Blender, pad_reflect, plan_axis, window

lengths = st.integers(1, 90)
tiles = st.integers(1, 24).flatmap(lambda s: st.tuples(st.just(s), st.integers(1, s)))


@given(length=lengths, tile=tiles)
def test_plan_covers_every_pixel_with_the_fewest_tiles(length, tile):
    size, stride = tile
    axis = plan_axis(length, size, stride)
    padded = axis.before + length + axis.after
    assert axis.starts[0] == 0 and axis.starts[-1] + size == padded
    assert set(np.diff(axis.starts)) <= {stride}
    assert 0 <= axis.after - axis.before <= 1
    assert len(axis.starts) == 1 or padded - stride < length


@pytest.mark.parametrize(
    ("length", "padded"), [(64, 64), (65, 96), (128, 128), (129, 160), (33, 64)]
)
def test_plan_is_the_reference_padding(length, padded):
    axis = plan_axis(length, 64, 32)
    assert axis.before + length + axis.after == padded


def test_plan_refuses_what_cannot_be_cut():
    with pytest.raises(ValueError, match="at least 1 pixel"):
        plan_axis(0, 8, 4)
    with pytest.raises(ValueError, match="stride"):
        plan_axis(10, 8, 9)


@given(height=st.integers(2, 20), width=st.integers(2, 20))
def test_padding_is_numpys_reflection(height, width):
    image = np.arange(height * width * 3).reshape(height, width, 3)
    rows, columns = plan_axis(height, 48, 16), plan_axis(width, 48, 16)
    pads = [(axis.before, axis.after) for axis in (rows, columns)]
    expected = np.pad(image, (*pads, (0, 0)), "reflect")
    np.testing.assert_array_equal(pad_reflect(image, rows, columns), expected)


def test_padding_repeats_a_single_pixel():
    axis = plan_axis(1, 8, 4)
    padded = pad_reflect(np.full((1, 1, 3), 7), axis, axis)
    assert padded.shape == (8, 8, 3) and (padded == 7).all()


def test_window_has_the_papers_shape():
    weights = window(256, 128, 0.05)
    assert weights[127] == pytest.approx(weights[128])
    edge = np.exp(-((127.5 / 256) ** 2) / 0.1)
    assert weights[0] == pytest.approx(edge)


@pytest.mark.parametrize(("size", "overlap"), [(64, 32), (48, 6), (16, 0), (10, 9)])
def test_ramps_of_neighbours_sum_to_one_and_their_outer_thirds_hardly_count(size, overlap):
    weights = window(size, overlap, 0.0)
    assert (weights > 0).all() and weights.max() <= 1
    np.testing.assert_array_equal(weights, weights[::-1])
    assert (weights[: overlap // 3] <= 1e-6).all()
    if 2 * overlap <= size:  # else a pixel lies in more than two windows
        np.testing.assert_array_equal(weights[overlap : size - overlap], 1)
        shared = weights[:overlap] + weights[size - overlap :]
        np.testing.assert_allclose(shared, 1, atol=1.1e-6)


@settings(max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    tile=tiles,
    scale=st.integers(1, 3),
    variance=st.sampled_from([0.05, 0.0]),
)
def test_blending_tiles_of_an_image_gives_the_image_back(height, width, tile, scale, variance):
    size, stride = tile
    rows, columns = plan_axis(height, size, stride), plan_axis(width, size, stride)
    image = np.random.default_rng(0).random((height, width, 2), np.float32)
    padded = pad_reflect(image, rows, columns).repeat(scale, 0).repeat(scale, 1)
    weights = window(size * scale, (size - stride) * scale, variance)
    blender = Blender(rows, columns, size, scale, 2, weights)
    output = np.full((height * scale, width * scale, 2), np.nan, np.float32)
    side = size * scale
    for top in rows.starts:
        for left in columns.starts:
            y, x = top * scale, left * scale
            for row, band in blender.add(padded[y : y + side, x : x + side]):
                assert np.isnan(output[row : row + len(band)]).all()  # each row comes out once
                output[row : row + len(band)] = band
    np.testing.assert_allclose(output, image.repeat(scale, 0).repeat(scale, 1), atol=2e-6)


def test_blending_weighs_like_the_full_gaussian():
    rows, columns = plan_axis(12, 8, 4), plan_axis(8, 8, 4)
    tiles = np.random.default_rng(1).random((2, 8, 8, 1), np.float32)
    along = window(8, 4, 0.05)
    whole = np.outer(along, along)[..., None]
    total, weights = np.zeros((12, 8, 1)), np.zeros((12, 8, 1))
    for tile, top in zip(tiles, rows.starts, strict=True):
        total[top : top + 8] += tile * whole
        weights[top : top + 8] += whole
    blender = Blender(rows, columns, 8, 1, 1, along)
    bands = [band for tile in tiles for _, band in blender.add(tile)]
    np.testing.assert_allclose(np.concatenate(bands), total / weights, rtol=1e-5)
