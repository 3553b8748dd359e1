"""Results that return their input: back-projection until the reduced result is within a bound.

The reduction is that of `ops.resize.downsample_bicubic`, MATLAB's antialiased bicubic, as a matrix
D for each axis, with intensities clipped to those of the input's dtype and not rounded. The result
is y = round(clip(y₀ + B·m)), where y₀ is what the network made, B = Dᵀ(DDᵀ)⁻¹ the reduction's
pseudo-inverse, and m, of the input's size, the sum of what was missing beyond the bound: each pass
reduces y, samples and all, and adds the remaining excess to m. Without rounding and clipping one
pass would do, and would be the smallest change; two to five remove what rounding adds, and some ten
what is lost at black and white.

Bicubic weights have negative lobes, so no image between black and white reduces to an edge from one
to the other within a pixel: such pixels come as near as they can, and are counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from maskgit_sr.errors import UserError
from maskgit_sr.images import Picture
from maskgit_sr.images.alpha import visible
from maskgit_sr.images.samples import cast, peak
from maskgit_sr.ops.resize import resize_weights

MAX_PASSES = 200
_ROWS = 32  # of a block: few enough that the zeros of its matrices cost less than its loop
_REACH = 12  # LR samples after which the inverse of DDᵀ is below 1e-5 of its middle
_PATIENCE, _PROGRESS = 30, 0.9  # passes in which a tile's excess must fall to this share
_MAX_MISSING = (
    2  # times white; photographs need half, and more draws dots around what nothing mends
)
_FALL, _GROWTH, _MAX_GAIN = 0.98, 1.5, 8.0
_TOLERANCE = 1e-3  # of a sample's step: the sums are float32


@dataclasses.dataclass(frozen=True)
class Consistency:
    """How near a result comes to its input, reduced.

    Attributes:
        bound: that was asked for, in grey levels of 255.
        largest: largest deviation of a sample, in grey levels of 255.
        outside: samples (pixels times channels) beyond the bound.
        samples: of the input.
    """

    bound: float
    largest: float
    outside: int
    samples: int

    @property
    def notes(self) -> tuple[str, ...]:
        """A note for the user if samples are outside, else none."""
        if not self.outside:
            return ()
        return (
            f"{self.outside:,} of {self.samples:,} samples differ from the input by more than "
            f"{self.bound:g} grey levels, by at most {self.largest:.1f}: black, white or "
            "rounding leave no room for more",
        )


def least(dtype: DTypeLike) -> float:
    """Returns the smallest bound for samples of a dtype: half a step, in grey levels of 255.

    Within it, the reduced result rounds to the input. Floats have the steps of 16 bits, as files.
    """
    return 0.5 * 255 / peak(_stored(dtype))


def check(bound: float, dtype: DTypeLike, scale: float) -> None:
    """Raises UserError for a bound that samples of `dtype` cannot keep, or a scale below 1."""
    smallest = least(dtype)
    # Written as what is allowed, since every comparison with NaN is false.
    if not smallest * (1 - 1e-9) <= bound <= 255:
        bits = 8 * _stored(dtype).itemsize
        raise UserError(
            f"consistent: expected {smallest:.3g} to 255 grey levels, half a step of {bits} bits "
            f"and more, found {bound:g}"
        )
    if scale < 1:
        raise UserError(f"consistent: expected a scale of at least 1, found {scale:g}")


def enforce(
    picture: Picture, restored: Picture, bound: float, stop: Callable[[], bool] | None = None
) -> Consistency:
    """Changes `restored.color` in place, as little as it takes, so that it reduces to `picture`.

    Channels are independent; a grey picture has one. Alpha is left alone, and colours that it hides
    count as `visible` fills them in. Floats become multiples of 1/65535, as files keep them.

    Args:
        picture: the input, [H, W, 3].
        restored: the finished result, no side shorter than the input's.
        bound: largest deviation of any sample, in grey levels of 255; at least `least`.
        stop: asked before each pass, of which there are at most `MAX_PASSES` a channel.

    Raises:
        InterruptedError: `stop` said so.
    """
    target, color = visible(picture), restored.color
    stored = _stored(color.dtype)
    step = 255 / peak(stored)
    axes = [_blocks(*sides) for sides in zip(target.shape[:2], color.shape[:2], strict=True)]
    largest, outside = 0.0, 0
    channels = 1 if picture.grey else 3
    for channel in range(channels):
        wanted = target[..., channel]
        if wanted.dtype != stored:
            wanted = wanted * np.float32(peak(stored))
        # Contiguous: a channel of an image is read and written slowly.
        plane = np.ascontiguousarray(cast(color[..., channel], stored))
        deviations = _Plane(plane, wanted, bound / step, *axes).solve(stop)
        color[..., channel] = cast(plane, color.dtype)
        largest = max(largest, step * float(deviations.max()))
        outside += int(np.count_nonzero(deviations > bound / step))
    color[..., channels:] = color[..., :1]
    return Consistency(bound, largest, outside, channels * target[..., 0].size)


def _stored(dtype: DTypeLike) -> np.dtype:
    dtype = np.dtype(dtype)
    return np.dtype(np.uint16) if dtype.kind == "f" else dtype


@dataclasses.dataclass(frozen=True)
class _Block:
    """Consecutive LR samples of an axis, and the matrices between them and the result's.

    Attributes:
        index: its place in the axis.
        rows: the LR samples.
        reads: samples of the result that `reduce` takes.
        reduce: rows of D, [rows, reads].
        owns: samples of the result that `expand` gives; those of all blocks are the axis.
        uses: LR samples that `expand` takes.
        expand: rows of B, [owns, uses].
    """

    index: int
    rows: slice
    reads: slice
    reduce: np.ndarray
    owns: slice
    uses: slice
    expand: np.ndarray


def _blocks(count: int, size: int) -> list[_Block]:
    """Returns the blocks of an axis of `count` LR samples and `size` of the result."""
    found: list[_Block] = []
    for first in range(0, count, _ROWS):
        last = min(first + _ROWS, count)
        begin, reduce = resize_weights(size, count, first, last)
        low, high = max(0, first - _REACH), min(count, last + _REACH)
        start, matrix = resize_weights(size, count, low, high)
        inverse = np.linalg.solve(matrix @ matrix.T, matrix).T
        owns = slice(round(first * size / count), round(last * size / count))
        found.append(
            _Block(
                len(found),
                slice(first, last),
                slice(begin, begin + reduce.shape[1]),
                reduce,
                owns,
                slice(low, high),
                inverse[owns.start - start : owns.stop - start],
            )
        )
    return found


class _Plane:
    """One channel: `plane` [H', W'], changed in place until it reduces to `target` [H, W].

    Worked on in tiles, a block of rows by one of columns, and after the first passes only in those
    that are still outside and their neighbours. The only arrays of the result's size are `plane`
    and a copy of it. All is in steps of `plane`.
    """

    def __init__(
        self,
        plane: np.ndarray,
        target: np.ndarray,
        bound: float,
        rows: Sequence[_Block],
        columns: Sequence[_Block],
    ):
        # float32 holds 8-bit samples to a thousandth of a step, 16-bit ones only to a tenth.
        self._dtype = np.dtype(np.float32 if plane.dtype == np.uint8 else np.float64)
        self._plane, self._start, self._target = plane, plane.copy(), target
        self._peak = peak(plane.dtype)
        self._bound = bound - _TOLERANCE
        axes = rows, columns
        self._rows, self._columns = ([self._cast(b) for b in axis] for axis in axes)
        self._used, self._read = ([_overlaps(a, *n) for a in axes] for n in _NEIGHBOURS)
        # Rounding is noise of 0.29 steps a sample, reduced by the weights: aimed at this far inside
        # the bound, it takes one sample in a thousand out again.
        spread = [max(np.sqrt((b.reduce**2).sum(1).max()) for b in axis) for axis in axes]
        self._aim = max(0.0, self._bound - 3 * 0.29 * float(np.prod(spread)))
        self._missing = np.zeros(target.shape, self._dtype)
        self._error = np.zeros(target.shape, self._dtype)  # target − reduced
        self._before = np.zeros(target.shape, self._dtype)
        self._gain = np.ones(target.shape, self._dtype)
        self._excess = np.zeros((len(rows), len(columns)))  # beyond the bound, of each tile

    def solve(self, stop: Callable[[], bool] | None = None) -> np.ndarray:
        """Returns the deviations [H, W] that are left."""
        every = np.ones(self._excess.shape, bool)
        self._reduce(every)
        best, kept = np.inf, self._missing
        mark, age = np.full(self._excess.shape, np.inf), np.zeros(self._excess.shape, int)
        for _ in range(MAX_PASSES):
            if stop is not None and stop():
                raise InterruptedError
            total = float(self._excess.sum())
            if total == 0:
                return self._deviations(slice(None), slice(None))
            if total < best:
                best, kept = total, self._missing.copy()
            falls = self._excess < _PROGRESS * mark
            mark, age = np.where(falls, self._excess, mark), np.where(falls, 0, age + 1)
            active = (self._excess > 0) & (age < _PATIENCE)
            if not active.any():
                break
            self._add(active)
            changed = self._used[0] @ active @ self._used[1].T
            self._expand(changed)
            self._reduce(self._read[0] @ changed @ self._read[1].T)
        self._missing = kept
        self._expand(every)
        self._reduce(every)
        return self._deviations(slice(None), slice(None))

    def _cast(self, block: _Block) -> _Block:
        reduce, expand = (part.astype(self._dtype) for part in (block.reduce, block.expand))
        return dataclasses.replace(block, reduce=reduce, expand=expand)

    def _tiles(self, chosen: np.ndarray) -> Iterator[tuple[_Block, _Block]]:
        return ((self._rows[i], self._columns[j]) for i, j in np.argwhere(chosen))

    def _deviations(self, *tile: slice) -> np.ndarray:
        """Returns the deviations of a tile, the reduced result clipped as a file would be."""
        target = self._target[tile].astype(self._dtype)
        return np.abs(target - np.clip(target - self._error[tile], 0, self._peak))

    def _add(self, chosen: np.ndarray) -> None:
        """Adds what tiles lack beyond the aim to what is missing.

        Where it falls slowly, because clipping takes most of each change, more is added every time;
        where it does not fall, as nothing in range would do, no more than the lack itself.
        """
        for row, column in self._tiles(chosen):
            tile = row.rows, column.rows
            lack = self._error[tile] - np.clip(self._error[tile], -self._aim, self._aim)
            lack[self._deviations(*tile) <= self._aim] = 0
            before, gain, missing = self._before[tile], self._gain[tile], self._missing[tile]
            falls = (lack * before > 0) & (np.abs(lack) < _FALL * np.abs(before))
            gain[:] = np.where(falls, np.minimum(gain * _GROWTH, _MAX_GAIN), 1)
            before[:] = lack
            most = _MAX_MISSING * self._peak
            np.clip(missing + gain * lack, -most, most, out=missing)

    def _expand(self, chosen: np.ndarray) -> None:
        """Makes the tiles of the result."""
        for row, column in self._tiles(chosen):
            change = row.expand @ self._missing[row.uses, column.uses] @ column.expand.T
            change += self._start[row.owns, column.owns]
            change += _dither(row.owns, column.owns).astype(self._dtype)
            np.clip(np.rint(change, out=change), 0, self._peak, out=change)
            self._plane[row.owns, column.owns] = change

    def _reduce(self, chosen: np.ndarray) -> None:
        """Compares the reduced result with the target in tiles."""
        for row, column in self._tiles(chosen):
            large = self._plane[row.reads, column.reads].astype(self._dtype)
            tile = row.rows, column.rows
            self._error[tile] = self._target[tile] - row.reduce @ large @ column.reduce.T
            over = np.maximum(self._deviations(*tile) - self._bound, 0)
            self._excess[row.index, column.index] = over.sum()


def _dither(rows: slice, columns: slice) -> np.ndarray:
    """Returns thresholds within ±0.47 for the rounding of a tile, by its place in the result.

    They change no sample that nothing is added to. Without them equal changes of equal samples
    would be rounded alike, and their mean could only move by whole steps.
    """
    y, x = (np.arange(part.start, part.stop) % 4 for part in (rows, columns))
    return (_BAYER[y[:, None], x] + 0.5) / 16 - 0.5


_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
_NEIGHBOURS = ("uses", "rows"), ("reads", "owns")


def _overlaps(blocks: Sequence[_Block], taken: str, given: str) -> np.ndarray:
    """Returns [n, n], True where what a block takes overlaps with what another one gives."""
    takes, gives = (
        np.array([(getattr(b, name).start, getattr(b, name).stop) for b in blocks])
        for name in (taken, given)
    )
    return (takes[:, None, 0] < gives[None, :, 1]) & (gives[None, :, 0] < takes[:, None, 1])
