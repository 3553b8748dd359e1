"""Cutting of an image into windows and blending of the restored ones, all on the host.

Callers that schedule windows themselves (the upscaler, a server that fills its device calls from
several requests, a distributed engine) need only this and `Upscaler.run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskgit_sr.errors import UserError
from maskgit_sr.images.samples import peak, unit
from maskgit_sr.methods.base import TileSpec
from maskgit_sr.ops.tiles import Blender, pad_reflect, plan_axis, window

LARGEST = 1000.0
"""Largest intensity of a restored window, of either sign. An image lies in [0, 1] and a network
overshoots by a fraction of that; far beyond, clipping would make it black or white."""


class Mosaic:
    """Windows of one image in row-major order: `cut` returns them, `add` takes them restored.

    The host holds the input, the output and one band of windows.

    Args:
        color: [H, W, 3] uint8, uint16, or float in [0, 1].
        tile: allowed sides and overlap of the windows.
        scale: side of a restored window over that of a window.
        confidence: True if restored windows come with confidence.

    Attributes:
        side: side of a window, in pixels of the input.
        count: number of windows.
        color: [scale·H, scale·W, 3] of the input's dtype, complete once every window was added.
        confidence: float32 [H, W] in [0, 1], or None without confidence.
    """

    def __init__(self, color: np.ndarray, tile: TileSpec, scale: int, *, confidence: bool):
        height, width = color.shape[:2]
        self.side = tile.side(height, width)
        stride = self.side - tile.overlap
        rows, columns = (plan_axis(length, self.side, stride) for length in (height, width))
        self._padded = pad_reflect(color, rows, columns)
        self._padding = rows.before, columns.before
        self._corners = [(top, left) for top in rows.starts for left in columns.starts]
        self._grid = len(rows.starts), len(columns.starts)
        weights = window(self.side * scale, tile.overlap * scale, tile.variance)
        self._blender = Blender(rows, columns, self.side, scale, 3, weights)
        self._tokens: list[np.ndarray] = []
        self.count = len(self._corners)
        self.color = np.empty((height * scale, width * scale, 3), color.dtype)
        self.confidence = np.empty((height, width), np.float32) if confidence else None
        weights = window(self.side, tile.overlap, tile.variance)
        self._scores = Blender(rows, columns, self.side, 1, 1, weights)

    def cut(self, indices: Sequence[int]) -> np.ndarray:
        """Returns the windows of ``indices``: float32 [n, side, side, 3] in [0, 1]."""
        corners = [self._corners[index] for index in indices]
        side = self.side
        windows = np.stack([self._padded[y : y + side, x : x + side] for y, x in corners])
        return unit(windows)

    def places(self, indices: Sequence[int]) -> np.ndarray:
        """Returns where windows lie, int32 [n, 3]: index, and row and column of the first pixel.

        Rows and columns are those of the input, so that they are negative in its padding.
        """
        above, before = self._padding
        corners = (self._corners[index] for index in indices)
        found = [(i, y - above, x - before) for i, (y, x) in zip(indices, corners, strict=True)]
        return np.array(found, np.int32)

    def add(
        self,
        image: np.ndarray,
        confidence: np.ndarray | None = None,
        tokens: np.ndarray | None = None,
    ) -> None:
        """Blends the next restored window in, in row-major order.

        Args:
            image: float [scale·side, scale·side, 3]; values outside [0, 1] are clipped later.
            confidence: in [0, 1], [h, w], each cell covers side/h × side/w input pixels; required
                if the mosaic has confidence.
            tokens: [h, w], or None where the method has none.

        Raises:
            UserError: image or confidence is not finite, or the image far out of range.
        """
        # Before blending: clipping and the cast to integers would hide it.
        _check("image", image)
        for row, band in self._blender.add(image):
            self.color[row : row + len(band)] = quantize(band, self.color.dtype)
        if self.confidence is not None:
            assert confidence is not None
            _check("confidence", confidence)
            high, wide = (self.side // cells for cells in confidence.shape)
            cells = confidence.repeat(high, 0).repeat(wide, 1)
            for row, band in self._scores.add(cells[..., None]):
                self.confidence[row : row + len(band)] = np.clip(band[..., 0], 0, 1)
        if tokens is not None:
            self._tokens.append(tokens)

    @property
    def tokens(self) -> np.ndarray | None:
        """Tokens of all windows, int32 [rows, columns, h, w], once each was added, or None."""
        if not self._tokens:
            return None
        return np.stack(self._tokens).reshape(*self._grid, *self._tokens[0].shape)


def _check(name: str, values: np.ndarray) -> None:
    # Both are NaN where any value is, and NaN fails every comparison.
    low, high = float(values.min()), float(values.max())
    if not (low >= -LARGEST and high <= LARGEST):
        raise UserError(
            f"the model's output is not finite or far out of range: expected {name} of about "
            f"0 to 1, found {low:g} to {high:g}"
        )


def quantize(band: np.ndarray, dtype: Any) -> np.ndarray:
    """Returns intensities, clipped to [0, 1], as samples of `dtype`."""
    band = np.clip(band, 0, 1)
    if np.issubdtype(dtype, np.floating):
        return band.astype(dtype)
    # Rounded: the cast alone would cut, which darkens by half a level on average.
    return np.rint(band * np.float32(peak(dtype))).astype(dtype)
