"""The upscaler's way with images of any size as TensorFlow operations, for the SavedModel.

The same tiling, blending and rounding as in `mosaic` and `ops.tiles`, whose tests tell what it is;
the export is compared with the upscaler before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from maskgit_sr.methods.base import TileSpec
from maskgit_sr.ops.tiles import gaussian_window

Tiles = Callable[[Any], tuple[Any, Any, Any]]
"""float32 [n, size, size, 3] in [0, 1] → image, not clipped, confidence and tokens."""


class Axis(NamedTuple):
    """Tiles along one side: pixels, padding before, number of tiles; scalars of the graph."""

    length: Any
    before: Any
    count: Any


def plan(length: Any, tile: TileSpec) -> Axis:
    """`ops.tiles.plan_axis` for a length that is only known when the graph runs."""
    extra = tf.maximum(0, -((tile.size - length) // tile.stride))
    return Axis(length, (extra * tile.stride + tile.size - length) // 2, extra + 1)


def reflect(positions: Any, length: Any) -> Any:
    """Indices into a side of `length` pixels for positions around it; see `pad_reflect`."""
    period = tf.maximum(2 * (length - 1), 1)
    positions = tf.math.floormod(tf.abs(positions), period)
    return tf.minimum(positions, period - positions)


class Blend:
    """`ops.tiles.Blender` on a band [columns, rows, channels] that a loop carries."""

    def __init__(self, rows: Axis, columns: Axis, tile: TileSpec, scale: int, channels: int):
        self._rows, self._columns, self._channels = rows, columns, channels
        self._scale, self._side, self._step = scale, tile.size * scale, tile.stride * scale
        window = gaussian_window(self._side, tile.variance)
        self._row_weights = self._normalise(rows, window)
        self._column_weights = self._normalise(columns, window)

    def _places(self, first: Any, count: Any) -> Any:
        """[count, side]: the columns of the band that `count` tiles from `first` on lie on."""
        return (first + tf.range(count)[:, None]) * self._step + tf.range(self._side)

    def _normalise(self, axis: Axis, window: np.ndarray) -> Any:
        places = self._places(0, axis.count)
        spread = tf.broadcast_to(tf.constant(window), tf.shape(places))
        total = tf.math.unsorted_segment_sum(
            spread, places, (axis.count - 1) * self._step + self._side
        )
        return tf.cast(spread / tf.gather(total, places), tf.float32)

    def start(self) -> Any:
        """An empty band."""
        width = (self._columns.count - 1) * self._step + self._side
        return tf.zeros([width, self._side, self._channels])

    def add(self, band: Any, row: Any, first: Any, tiles: Any) -> Any:
        """The band with tiles [n, side, side, C] of a row, the first of them in column `first`."""
        count = tf.shape(tiles)[0]
        across = self._column_weights[first : first + count]
        weight = self._row_weights[row][None, None, :] * across[:, :, None]
        weighted = weight[..., None] * tf.transpose(tiles, [0, 2, 1, 3])
        places = tf.reshape(self._places(first, count), [-1, 1])
        strips = tf.reshape(weighted, [-1, self._side, self._channels])
        return tf.tensor_scatter_nd_add(band, places, strips)

    def finish(self, band: Any, row: Any) -> tuple[Any, Any]:
        """(rows that no later tile touches, [n, W·scale, C]; the band for the next row)."""
        top = row * self._step
        done = tf.where(row + 1 == self._rows.count, self._side, self._step)
        first, left = self._rows.before * self._scale, self._columns.before * self._scale
        begin = tf.maximum(top, first) - top
        end = tf.minimum(top + done, first + self._rows.length * self._scale) - top
        width = self._columns.length * self._scale
        rows = tf.transpose(band[left : left + width, begin:end], [1, 0, 2])
        rest = tf.concat([band[:, done:], tf.zeros_like(band[:, :done])], 1)
        return rows, tf.ensure_shape(rest, [None, self._side, self._channels])


def sizes(largest: int) -> list[int]:
    """Tiles in one call, in falling order: few, as each is a compilation, and none is filled up."""
    return [largest, *(2**k for k in range(largest.bit_length() - 1, -1, -1) if 2**k < largest)]


def portion(left: Any, largest: int) -> Any:
    """The most tiles that one call takes of the `left` ones."""
    allowed = tf.constant(sizes(largest))
    return tf.reduce_max(tf.where(allowed <= left, allowed, 1))


def peak(dtype: Any) -> Any:
    """The sample value of full intensity, float32."""
    return tf.constant(dtype.max, tf.float32)


def quantize(intensity: Any, dtype: Any) -> Any:
    """Intensities, clipped to [0, 1], as samples."""
    return tf.cast(tf.round(tf.clip_by_value(intensity, 0, 1) * peak(dtype)), dtype)


def to_grey(samples: Any) -> Any:
    """Samples [n, W, 3] → three equal channels of their luma, as `upscaler.finish` does."""
    luma = tf.tensordot(tf.cast(samples, tf.float32), tf.constant([0.299, 0.587, 0.114]), 1)
    grey = quantize(luma / peak(samples.dtype), samples.dtype)
    return tf.repeat(grey[..., None], 3, -1)


def restore_tiles(tiles: Tiles, lr: Any, largest: int) -> tuple[Any, Any, Any]:
    """Any number of tiles, in calls of at most `largest`.

    An empty batch has no call at all; its shapes are those of a single tile.
    """
    total = tf.shape(lr)[0]

    def body(done: Any, arrays: Any) -> Any:
        count = portion(total - done, largest)
        parts = tiles(lr[done : done + count])
        spread = tf.range(done, done + count)
        return done + count, tuple(
            array.scatter(spread, part) for array, part in zip(arrays, parts, strict=True)
        )

    signature = tiles.structured_outputs  # type: ignore[attr-defined]
    arrays = tuple(
        tf.TensorArray(part.dtype, total, element_shape=part.shape[1:]) for part in signature
    )
    _, arrays = tf.while_loop(
        lambda done, _: done < total, body, (tf.constant(0), arrays), parallel_iterations=1
    )
    return tuple(array.stack() for array in arrays)


def restore_image(
    tiles: Tiles, color: Any, grey: Any, tile: TileSpec, scale: int, largest: int
) -> tuple[Any, Any, Any]:
    """An image of any size from 1×1 up.

    Beside the input and the output there are one band of tiles and the tiles of one call.

    Args:
        tiles: the network.
        color: [H, W, 3] uint8 or uint16.
        grey: scalar bool; the result has three equal channels.
        tile: how the image is cut.
        scale: of the network.
        largest: most tiles in one call.

    Returns:
        [scale·H, scale·W, 3] of the input's dtype; confidence float32 [H, W] in [0, 1]; tokens
        int32 [tile rows, tile columns, h, w].
    """
    height, width = tf.shape(color)[0], tf.shape(color)[1]
    rows, columns = plan(height, tile), plan(width, tile)
    picture = Blend(rows, columns, tile, scale, 3)
    scores = Blend(rows, columns, tile, 1, 1)
    offsets = tf.range(tile.size)
    cells = tile.size // tile.cell
    grid = tiles.structured_outputs[2].shape[1:]  # type: ignore[attr-defined]

    def restore_row(row: Any, bands: Any, arrays: Any) -> Any:
        lines = tf.gather(color, reflect(row * tile.stride + offsets - rows.before, height))

        def restore_some(done: Any, bands: Any, codes: Any) -> Any:
            count = portion(columns.count - done, largest)
            starts = (done + tf.range(count)[:, None]) * tile.stride
            places = reflect(starts + offsets - columns.before, width)
            cut = tf.transpose(tf.gather(lines, places, axis=1), [1, 0, 2, 3])
            image, confidence, tokens = tiles(tf.cast(cut, tf.float32) / peak(color.dtype))
            spread = tf.reshape(confidence, [-1, cells, 1, cells, 1])
            spread = tf.tile(spread, [1, 1, tile.cell, 1, tile.cell])
            spread = tf.reshape(spread, [-1, tile.size, tile.size, 1])
            bands = (
                picture.add(bands[0], row, done, image),
                scores.add(bands[1], row, done, spread),
            )
            codes = tf.tensor_scatter_nd_update(
                codes, tf.range(done, done + count)[:, None], tokens
            )
            return done + count, bands, codes

        codes = tf.zeros(tf.concat([[columns.count], grid], 0), tf.int32)
        _, bands, codes = tf.while_loop(
            lambda done, *_: done < columns.count,
            restore_some,
            (tf.constant(0), bands, codes),
            parallel_iterations=1,
        )
        band, first = picture.finish(bands[0], row)
        sure, second = scores.finish(bands[1], row)
        samples = quantize(band, color.dtype)
        samples = tf.cond(grey, lambda: to_grey(samples), lambda: samples)
        finished = (samples, tf.clip_by_value(sure[..., 0], 0, 1), codes)
        arrays = tuple(array.write(row, x) for array, x in zip(arrays, finished, strict=True))
        return row + 1, (first, second), arrays

    def array(dtype: Any, *shape: int | None) -> Any:
        return tf.TensorArray(dtype, rows.count, element_shape=shape, infer_shape=False)

    arrays = (
        array(color.dtype, None, None, 3),
        array(tf.float32, None, None),
        array(tf.int32, None, *grid),
    )
    _, _, arrays = tf.while_loop(
        lambda row, *_: row < rows.count,
        restore_row,
        (tf.constant(0), (picture.start(), scores.start()), arrays),
        parallel_iterations=1,
    )
    return arrays[0].concat(), arrays[1].concat(), arrays[2].stack()
