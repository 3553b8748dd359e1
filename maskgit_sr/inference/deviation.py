"""Standard deviation of several results for one input, without holding them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskgit_sr.errors import UserError
from maskgit_sr.images.samples import cast, peak

MAX_SAMPLES = 256
"""Most results of one input; their sums fit in 16 bits."""
_BAND_PIXELS = 1 << 18


class StandardDeviation:
    """Sums of samples and squares: exact, and ten bytes a pixel for 8 bits, however many results.

    Floats are taken as 16 bits, as files keep them.
    """

    def __init__(self) -> None:
        self._count, self._peak = 0, 0
        self._sums, self._squares = np.empty((0, 0, 3)), np.empty((0, 0))

    def add(self, color: np.ndarray) -> None:
        """Adds a result [H, W, 3]; all are of one size and dtype.

        Raises:
            UserError: more than `MAX_SAMPLES`.
        """
        dtype = np.dtype(np.uint8 if color.dtype == np.uint8 else np.uint16)
        small, large = (np.uint16, np.uint32) if dtype == np.uint8 else (np.uint32, np.uint64)
        if not self._count:
            self._peak = peak(dtype)
            self._sums = np.zeros(color.shape, small)
            self._squares = np.zeros(color.shape[:2], large)
        self._count += 1
        if self._count > MAX_SAMPLES:
            raise UserError(f"samples: expected at most {MAX_SAMPLES}, found {self._count}")
        for rows in self._bands():
            band = cast(color[rows], dtype)
            self._sums[rows] += band
            # One number for the three channels, whose variances are averaged in the end.
            self._squares[rows] += (band.astype(large) ** 2).sum(-1, dtype=large)

    def map(self) -> np.ndarray:
        """Returns float32 [H, W], grey levels of 255: the root of the channels' mean variance.

        The variance is that of a sample, Σ(y − ȳ)² / (n − 1).

        Raises:
            UserError: fewer than two results.
        """
        if self._count < 2:
            raise UserError(f"samples: expected at least 2, found {self._count}")
        found = np.empty(self._squares.shape, np.float32)
        for rows in self._bands():
            means = (self._sums[rows].astype(np.float64) ** 2).sum(-1) / self._count
            variance = (self._squares[rows] - means) / (3 * (self._count - 1))
            found[rows] = np.sqrt(np.maximum(variance, 0)) * (255 / self._peak)
        return found

    def _bands(self) -> Iterator[slice]:
        height, width = self._squares.shape
        rows = max(1, _BAND_PIXELS // max(1, width))
        return (slice(top, top + rows) for top in range(0, height, rows))
