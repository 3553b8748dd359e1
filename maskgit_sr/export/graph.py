"""Restoration of images of any size as TensorFlow operations, for the SavedModel.

Tiling, blending and rounding are those of `mosaic` and `ops.tiles`, which define them; an export
is compared with the upscaler before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from maskgit_sr.methods.base import TileSpec
from maskgit_sr.ops.tiles import window

Tiles = Callable[[Any, Any, Any], dict[str, Any]]
"""(float32 [n, side, side, 3] in [0, 1], seed uint32 [], `Mosaic.places` of each int32 [n, 3]) →
outputs by name: image, not clipped, and confidence and tokens if the method has them. A concrete
function, whose `structured_outputs` have their shapes."""


class Axis(NamedTuple):
    """Windows along one side: pixels, padding before, number of windows; scalars of the graph."""

    length: Any
    before: Any
    count: Any


def choose(tile: TileSpec, image: Any) -> Any:
    """Returns the index of `TileSpec.side` for an image [H, W, C]."""
    lengths = tf.unstack(tf.shape(image)[:2])
    totals = []
    for side in tile.sides:
        rows, columns = (plan(length, side, side - tile.overlap).count for length in lengths)
        totals.append(side**2 * tf.cast(rows, tf.int64) * tf.cast(columns, tf.int64))
    # Of equals the last, which is the largest.
    return len(totals) - 1 - tf.argmin(totals[::-1], output_type=tf.int32)


def plan(length: Any, side: int, step: int) -> Axis:
    """Computes `ops.tiles.plan_axis` for a length that is only known when the graph runs."""
    extra = tf.maximum(0, -((side - length) // step))
    return Axis(length, (extra * step + side - length) // 2, extra + 1)


def reflect(positions: Any, length: Any) -> Any:
    """Returns the indices into `length` pixels that reflect positions; see `pad_reflect`."""
    # a single pixel has nothing to reflect, and period 1 repeats it
    period = tf.maximum(2 * (length - 1), 1)
    positions = tf.math.floormod(tf.abs(positions), period)
    return tf.minimum(positions, period - positions)


class Blend:
    """The counterpart of `ops.tiles.Blender`, on a band that a loop carries.

    The band is [columns, rows, channels]: scattering adds along leading axes.
    """

    def __init__(
        self, rows: Axis, columns: Axis, side: int, tile: TileSpec, scale: int, channels: int
    ):
        self._rows, self._columns, self._channels = rows, columns, channels
        self._scale, self._side, self._step = scale, side * scale, (side - tile.overlap) * scale
        weights = window(self._side, tile.overlap * scale, tile.variance)
        self._row_weights = self._normalise(rows, weights)
        self._column_weights = self._normalise(columns, weights)

    def _places(self, first: Any, count: Any) -> Any:
        """Returns the band's columns under `count` tiles from tile `first` on, [count, side]."""
        return (first + tf.range(count)[:, None]) * self._step + tf.range(self._side)

    def _normalise(self, axis: Axis, weights: np.ndarray) -> Any:
        places = self._places(0, axis.count)
        # in float64 until the end, as on the host
        spread = tf.broadcast_to(tf.constant(weights), tf.shape(places))
        total = tf.math.unsorted_segment_sum(
            spread, places, (axis.count - 1) * self._step + self._side
        )
        return tf.cast(spread / tf.gather(total, places), tf.float32)

    def start(self) -> Any:
        """Returns an empty band."""
        width = (self._columns.count - 1) * self._step + self._side
        return tf.zeros([width, self._side, self._channels])

    def add(self, band: Any, row: Any, first: Any, tiles: Any) -> Any:
        """Returns the band with tiles [n, side, side, C] of a row added from column `first` on."""
        count = tf.shape(tiles)[0]
        across = self._column_weights[first : first + count]
        weight = self._row_weights[row][None, None, :] * across[:, :, None]
        weighted = weight[..., None] * tf.transpose(tiles, [0, 2, 1, 3])
        places = tf.reshape(self._places(first, count), [-1, 1])
        strips = tf.reshape(weighted, [-1, self._side, self._channels])
        return tf.tensor_scatter_nd_add(band, places, strips)

    def finish(self, band: Any, row: Any) -> tuple[Any, Any]:
        """Returns the complete rows, [n, W·scale, C], and the band of the next row of tiles."""
        top = row * self._step
        done = tf.where(row + 1 == self._rows.count, self._side, self._step)
        first, left = self._rows.before * self._scale, self._columns.before * self._scale
        begin = tf.maximum(top, first) - top
        end = tf.minimum(top + done, first + self._rows.length * self._scale) - top
        width = self._columns.length * self._scale
        rows = tf.transpose(band[left : left + width, begin:end], [1, 0, 2])
        rest = tf.concat([band[:, done:], tf.zeros_like(band[:, :done])], 1)
        # a loop needs the same static shape in every iteration
        return rows, tf.ensure_shape(rest, [None, self._side, self._channels])


def sizes(largest: int) -> list[int]:
    """Returns the batch sizes of calls in descending order; few, as each is compiled by itself."""
    return [largest, *(2**k for k in range(largest.bit_length() - 1, -1, -1) if 2**k < largest)]


def portion(left: Any, largest: int) -> Any:
    """Returns how many of the `left` tiles the next call takes; no call is padded."""
    allowed = tf.constant(sizes(largest))
    return tf.reduce_max(tf.where(allowed <= left, allowed, 1))


def peak(dtype: Any) -> Any:
    """Returns the sample value of full intensity, float32."""
    return tf.constant(dtype.max, tf.float32)


def quantize(intensity: Any, dtype: Any) -> Any:
    """Returns intensities, clipped to [0, 1], as samples of `dtype`; an error if not finite."""
    # Ends the call with an error: clipping and the cast would make a picture of it.
    intensity = tf.debugging.check_numerics(intensity, "the model's output is not finite")
    # tf.round takes halves to the even number, as np.rint does on the host
    return tf.cast(tf.round(tf.clip_by_value(intensity, 0, 1) * peak(dtype)), dtype)


def to_grey(samples: Any) -> Any:
    """Returns three equal channels of the luma of samples [n, W, 3], as `results.finish`."""
    luma = tf.tensordot(tf.cast(samples, tf.float32), tf.constant([0.299, 0.587, 0.114]), 1)
    grey = quantize(luma / peak(samples.dtype), samples.dtype)
    return tf.repeat(grey[..., None], 3, -1)


def restore_tiles(tiles: Tiles, lr: Any, seed: Any, largest: int) -> dict[str, Any]:
    """Restores any number of tiles as the first tiles of one image, in calls of at most `largest`.

    Where they lie in it is not known: each is taken for the one at its corner.

    An empty batch makes no call; the shapes of its outputs are known all the same.
    """
    total = tf.shape(lr)[0]

    def body(done: Any, arrays: Any) -> Any:
        count = portion(total - done, largest)
        spread = tf.range(done, done + count)
        places = tf.stack([spread, tf.zeros_like(spread), tf.zeros_like(spread)], 1)
        parts = tiles(lr[done : done + count], seed, places)
        return done + count, {
            name: array.scatter(spread, parts[name]) for name, array in arrays.items()
        }

    arrays = {
        name: tf.TensorArray(part.dtype, total, element_shape=part.shape[1:])
        for name, part in tiles.structured_outputs.items()  # type: ignore[attr-defined]
    }
    _, arrays = tf.while_loop(
        lambda done, _: done < total, body, (tf.constant(0), arrays), parallel_iterations=1
    )
    return {name: array.stack() for name, array in arrays.items()}


def restore_image(
    tiles: Tiles,
    color: Any,
    grey: Any,
    seed: Any,
    *,
    side: int,
    tile: TileSpec,
    scale: int,
    largest: int,
) -> dict[str, Any]:
    """Restores an image of any size from 1×1 up.

    Beside the input and the output, memory holds one band of tiles and the tiles of one call.

    Args:
        tiles: the network for windows of `side`.
        color: [H, W, 3] uint8 or uint16.
        grey: scalar bool; the result has three equal channels.
        seed: uint32 scalar, of the method's random samples.
        tile: the method's tiling.
        scale: of the network.
        largest: most tiles in one call.

    Returns:
        image [scale·H, scale·W, 3] of the input's dtype and, if the method has them, confidence
        float32 [H, W] in [0, 1] and tokens int32 [tile rows, tile columns, h, w].
    """
    step = side - tile.overlap
    height, width = tf.shape(color)[0], tf.shape(color)[1]
    rows, columns = plan(height, side, step), plan(width, side, step)
    shapes = {name: part.shape[1:] for name, part in tiles.structured_outputs.items()}  # type: ignore[attr-defined]
    blends = {"image": Blend(rows, columns, side, tile, scale, 3)}
    if "confidence" in shapes:
        blends["confidence"] = Blend(rows, columns, side, tile, 1, 1)
    grids = {name: shapes[name] for name in ("tokens",) if name in shapes}
    offsets = tf.range(side)

    def restore_row(row: Any, bands: Any, arrays: Any) -> Any:
        # reflected by index, row by row, so that no padded copy of the image is made
        lines = tf.gather(color, reflect(row * step + offsets - rows.before, height))

        def restore_some(done: Any, bands: Any, codes: Any) -> Any:
            spread = done + tf.range(portion(columns.count - done, largest))
            places = reflect(spread[:, None] * step + offsets - columns.before, width)
            cut = tf.transpose(tf.gather(lines, places, axis=1), [1, 0, 2, 3])
            # row-major as in the upscaler, since the index is part of a window's seed
            top = tf.fill([tf.size(spread)], row * step - rows.before)
            left = spread * step - columns.before
            where = tf.stack([row * columns.count + spread, top, left], 1)
            restored = tiles(tf.cast(cut, tf.float32) / peak(color.dtype), seed, where)
            if "confidence" in blends:
                cells = restored["confidence"][..., None]
                for axis in (1, 2):
                    cells = tf.repeat(cells, side // cells.shape[axis], axis)
                restored = {**restored, "confidence": cells}
            bands = {
                name: blend.add(bands[name], row, done, restored[name])
                for name, blend in blends.items()
            }
            codes = {
                name: tf.tensor_scatter_nd_update(known, spread[:, None], restored[name])
                for name, known in codes.items()
            }
            return done + tf.size(spread), bands, codes

        empty = {
            name: tf.zeros(tf.concat([[columns.count], grid], 0), tf.int32)
            for name, grid in grids.items()
        }
        _, bands, codes = tf.while_loop(
            lambda done, *_: done < columns.count,
            restore_some,
            (tf.constant(0), bands, empty),
            parallel_iterations=1,  # memory is that of one call
        )
        done = {name: blend.finish(bands[name], row) for name, blend in blends.items()}
        samples = quantize(done["image"][0], color.dtype)
        finished = {"image": tf.cond(grey, lambda: to_grey(samples), lambda: samples), **codes}
        if "confidence" in done:
            finished["confidence"] = tf.clip_by_value(done["confidence"][0][..., 0], 0, 1)
        arrays = {name: array.write(row, finished[name]) for name, array in arrays.items()}
        return row + 1, {name: band for name, (_, band) in done.items()}, arrays

    # infer_shape off: the first and last rows lose their padding, so heights differ
    def array(dtype: Any, *shape: int | None) -> Any:
        return tf.TensorArray(dtype, rows.count, element_shape=shape, infer_shape=False)

    arrays = {"image": array(color.dtype, None, None, 3)}
    if "confidence" in blends:
        arrays["confidence"] = array(tf.float32, None, None)
    arrays |= {name: array(tf.int32, None, *grid) for name, grid in grids.items()}
    _, _, arrays = tf.while_loop(
        lambda row, *_: row < rows.count,
        restore_row,
        (tf.constant(0), {name: blend.start() for name, blend in blends.items()}, arrays),
        parallel_iterations=1,
    )
    return {
        name: array.stack() if name in grids else array.concat() for name, array in arrays.items()
    }
