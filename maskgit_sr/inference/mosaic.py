"""An image as tiles, and its restored tiles as an image again; everything on the host.

Whoever restores tiles in an order of their own (the upscaler, a server that fills its device calls
from several requests, a distributed engine) needs only this and `Upscaler.run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskgit_sr.methods.base import TileSpec
from maskgit_sr.ops.tiles import Blender, pad_reflect, plan_axis


class Mosaic:
    """Tiles of one image in row-major order, out by `cut` and back, restored, by `add`.

    The host holds the input, the output and one band of tiles.

    Args:
        color: [H, W, 3] uint8, uint16, or float in [0, 1].
        tile: how it is cut.
        scale: of the restored tiles.
        score: confidence comes with the tiles.

    Attributes:
        count: of tiles.
        color: [scale·H, scale·W, 3] of the input's dtype, whole once every tile was added.
        confidence: float32 [H, W] in [0, 1], or None without `score`.
    """

    def __init__(self, color: np.ndarray, tile: TileSpec, scale: int, *, score: bool):
        height, width = color.shape[:2]
        rows, columns = (plan_axis(side, tile.size, tile.stride) for side in (height, width))
        self._tile, self._peak = tile, peak(color.dtype)
        self._padded = pad_reflect(color, rows, columns)
        self._corners = [(top, left) for top in rows.starts for left in columns.starts]
        self._grid = len(rows.starts), len(columns.starts)
        self._blender = Blender(rows, columns, tile.size, scale, 3, tile.variance)
        self._tokens: list[np.ndarray] = []
        self.count = len(self._corners)
        self.color = np.empty((height * scale, width * scale, 3), color.dtype)
        self.confidence = np.empty((height, width), np.float32) if score else None
        self._scores = Blender(rows, columns, tile.size, 1, 1, tile.variance)

    def cut(self, indices: Sequence[int]) -> np.ndarray:
        """Those tiles: float32 [n, size, size, 3] in [0, 1]."""
        size = self._tile.size
        corners = [self._corners[index] for index in indices]
        tiles = np.stack([self._padded[y : y + size, x : x + size] for y, x in corners])
        return tiles.astype(np.float32) / self._peak

    def add(self, image: np.ndarray, confidence: np.ndarray | None, tokens: np.ndarray) -> None:
        """The next tile in row-major order, restored: [scale·size, scale·size, 3], [h, w], [h, w].

        Colour need not be clipped; `confidence` is only looked at with `score`.
        """
        for row, band in self._blender.add(image):
            self.color[row : row + len(band)] = quantize(band, self.color.dtype)
        if self.confidence is not None:
            assert confidence is not None
            cells = confidence.repeat(self._tile.cell, 0).repeat(self._tile.cell, 1)
            for row, band in self._scores.add(cells[..., None]):
                self.confidence[row : row + len(band)] = np.clip(band[..., 0], 0, 1)
        self._tokens.append(tokens)

    @property
    def tokens(self) -> np.ndarray:
        """int32 [tile rows, tile columns, h, w], once every tile was added."""
        return np.stack(self._tokens).reshape(*self._grid, *self._tokens[0].shape)


def peak(dtype: Any) -> np.float32:
    """The sample value of full intensity."""
    return np.float32(1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max)


def quantize(band: np.ndarray, dtype: Any) -> np.ndarray:
    """Intensities, clipped to [0, 1], as samples of `dtype`."""
    band = np.clip(band, 0, 1)
    if np.issubdtype(dtype, np.floating):
        return band.astype(dtype)
    return np.rint(band * peak(dtype)).astype(dtype)
