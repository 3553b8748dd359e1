"""Validation pairs: whole images in a fixed order."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from data import degradations
from data.sources import PairedFolder, check_scale
from maskgit_sr.errors import UserError

_log = logging.getLogger(__name__)


def validation_pairs(
    root: epath.PathLike, limit: int | None = None, scale: int = 4
) -> Iterator[dict[str, Any]]:
    """Returns an iterator over a `PairedFolder`, sorted: dict(lr, hr uint8 [H, W, 3], id str).

    Without LR images, HR is cut at the right and bottom to a multiple of `scale`, and LR is its
    antialiased bicubic reduction (PIL, MATLAB), rounded to 8 bits. Pairs that cannot be read, or
    whose HR is not exactly `scale` times LR, are passed over, counted and named in the log.

    Args:
      limit: pairs at most; None: all.

    Raises:
      UserError: see `PairedFolder`; or none of the pairs is usable, at the end.
    """
    # Not a generator function: a missing folder is an error at the call, not at the first pair.
    return _pairs(PairedFolder(root), limit, scale)


def _pairs(source: PairedFolder, limit: int | None, scale: int) -> Iterator[dict[str, Any]]:
    done, bad = 0, list[str]()
    for index in range(len(source)):
        if done == limit:
            break
        try:
            pair = _pair(source, index, scale)
        except UserError as error:
            bad.append(str(error))
            continue
        done += 1
        yield pair
    if bad and not done:
        raise UserError(f"{source!r}: no pair is usable, first {bad[0]}")
    if bad:
        _log.warning("validation: %d of %d passed over: %s", len(bad), len(source), "; ".join(bad))


def _pair(source: PairedFolder, index: int, scale: int) -> dict[str, Any]:
    pair = source[index]
    if "lr" not in pair:
        try:
            hr = pair["hr"] = whole_multiple(pair["hr"], scale)
        except UserError as error:
            raise UserError(f"{source.where(index)}: {error}") from error
        rng = np.random.default_rng(0)  # this preset draws nothing
        record = degradations.draw(rng, "bicubic", hr.shape[0], hr.shape[1], scale)
        pair["lr"] = record.apply(hr)
    check_scale(pair["hr"].shape, pair["lr"].shape, scale, source.where(index))
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
