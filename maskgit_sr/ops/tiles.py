"""Cutting an image into overlapping tiles and blending them again, on the host, row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Axis:
    """Tiles along one axis: image ``length``, padding ``before`` and ``after``, tile ``starts``."""

    length: int
    before: int
    after: int
    starts: tuple[int, ...]


def plan_axis(length: int, size: int, stride: int) -> Axis:
    """Returns the fewest tiles of ``size`` every ``stride`` that cover ``length``, centred.

    For sides above ``size − stride`` this is the reference's padding; shorter ones, where the
    reference fails, get one tile.

    Raises:
        ValueError: a length below 1, or a stride outside 1 … size.
    """
    if length < 1:
        raise ValueError(f"tiles: expected a side of at least 1 pixel, found {length}")
    if not 1 <= stride <= size:
        raise ValueError(f"tiles: expected a stride from 1 to {size}, found {stride}")
    extra = max(0, -(-(length - size) // stride))
    padding = extra * stride + size - length
    return Axis(
        length, padding // 2, padding - padding // 2, tuple(range(0, extra * stride + 1, stride))
    )


def pad_reflect(image: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """Pads [H, W, …] by reflection without repeating the edge, as often as it takes.

    A side of one pixel has nothing to reflect and is repeated.
    """

    def indices(axis: Axis) -> np.ndarray:
        position = np.arange(-axis.before, axis.length + axis.after)
        if axis.length == 1:
            return np.zeros_like(position)
        period = 2 * (axis.length - 1)
        position = np.abs(position) % period
        return np.minimum(position, period - position)

    return image[indices(rows)][:, indices(columns)]


def window(size: int, overlap: int, variance: float) -> np.ndarray:
    """Returns the weights of a tile along one axis, float64 [size], all above 0.

    The tile's weight is the outer product of two of these.

    Args:
        overlap: pixels that neighbouring tiles share.
        variance: exp(−x² / (2·variance)), x the distance to the centre over ``size`` (RealSRT §3.4,
            variance 0.05). 0: 1 but for ramps in the middle thirds of the overlaps; what lies
            outside of them, where a network sees least, has almost no weight beside a neighbour's.
    """
    # Centre (size − 1)/2 but unit size, as in the public code (docs/parity.md).
    x = (np.arange(size) - (size - 1) / 2) / size
    if variance:
        return np.exp(-(x**2) / (2 * variance))
    if not overlap:
        return np.ones(size)
    inside = size / 2 - np.abs(x) * size  # pixels from the nearest edge
    # Not 0: at the border of an image there is no neighbour.
    return np.clip(inside / (overlap / 3) - 1, 1e-6, 1)


class Blender:
    """Weighted sum of tiles that arrive in row-major order; only one band of them is in memory.

    The window is separable, so each axis is normalised by itself beforehand and no weight image is
    needed. Rows come out of :meth:`add` as soon as no later tile can touch them.
    """

    def __init__(
        self, rows: Axis, columns: Axis, size: int, scale: int, channels: int, window: np.ndarray
    ):
        self._rows, self._columns, self._scale = rows, columns, scale
        self._side = size * scale
        self._row_weights = self._normalise(rows, window)
        self._column_weights = self._normalise(columns, window)
        width = (columns.before + columns.length + columns.after) * scale
        # One band of tiles: memory grows with the image's width, not with its height.
        self._band = np.zeros((self._side, width, channels), np.float32)
        self._done = 0
        self._crop = slice(columns.before * scale, (columns.before + columns.length) * scale)

    def _normalise(self, axis: Axis, window: np.ndarray) -> list[np.ndarray]:
        total = np.zeros((axis.before + axis.length + axis.after) * self._scale)
        spans = [slice(s * self._scale, s * self._scale + self._side) for s in axis.starts]
        for span in spans:
            total[span] += window
        # Divided in float64, so that overlapping weights sum to 1 within float32's rounding.
        return [(window / total[span]).astype(np.float32) for span in spans]

    def add(self, tile: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Adds the next tile [side, side, C]; yields (first row, finished rows [n, W·scale, C])."""
        row, column = divmod(self._done, len(self._columns.starts))
        self._done += 1
        left = self._columns.starts[column] * self._scale
        weight = self._row_weights[row][:, None, None] * self._column_weights[column][:, None]
        self._band[:, left : left + self._side] += weight * tile
        if column + 1 < len(self._columns.starts):
            return
        top = self._rows.starts[row] * self._scale
        last = row + 1 == len(self._rows.starts)
        finished = self._side if last else (self._rows.starts[row + 1] * self._scale - top)
        first = self._rows.before * self._scale
        end = first + self._rows.length * self._scale
        begin, stop = max(top, first), min(top + finished, end)
        if begin < stop:
            # A copy: the caller may keep the rows, and the band moves up below.
            yield begin - first, self._band[begin - top : stop - top, self._crop].copy()
        self._band[: self._side - finished] = self._band[finished:].copy()
        self._band[self._side - finished :] = 0
