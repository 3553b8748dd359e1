"""Validation pairs: whole images in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from data import degradations
from data.sources import PairedFolder, check_scale
from maskgit_sr.errors import UserError


def validation_pairs(
    root: epath.PathLike, limit: int | None = None, scale: int = 4
) -> Iterator[dict[str, Any]]:
    """Returns an iterator over a `PairedFolder`, sorted: dict(lr, hr uint8 [H, W, 3], id str).

    Without LR images, HR is cut at the right and bottom to a multiple of `scale`, and LR is its
    antialiased bicubic reduction (PIL, MATLAB), rounded to 8 bits.

    Raises:
      UserError: see `PairedFolder`; or HR is not exactly `scale` times its LR.
    """
    # Not a generator function: a missing folder is an error at the call, not at the first pair.
    source = PairedFolder(root)
    return (_pair(source, i, scale) for i in range(len(source))[:limit])


def _pair(source: PairedFolder, index: int, scale: int) -> dict[str, Any]:
    pair = source[index]
    if "lr" not in pair:
        hr = pair["hr"] = whole_multiple(pair["hr"], scale)
        rng = np.random.default_rng(0)  # this preset draws nothing
        record = degradations.draw(rng, "bicubic", hr.shape[0], hr.shape[1], scale)
        pair["lr"] = record.apply(hr)
    where = f"paired folder {str(source.root)!r}: {pair['id']}"
    check_scale(pair["hr"].shape, pair["lr"].shape, scale, where)
    return pair


def whole_multiple(hr: np.ndarray, scale: int) -> np.ndarray:
    """Returns HR cut at the right and bottom so that both sides are multiples of `scale`.

    Raises:
      UserError: a side is shorter than `scale`.
    """
    height, width = (n // scale * scale for n in hr.shape[:2])
    if not min(height, width):
        raise UserError(f"image of {hr.shape[0]}x{hr.shape[1]} is smaller than the scale {scale}")
    return np.ascontiguousarray(hr[:height, :width])
