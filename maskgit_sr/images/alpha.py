"""Colours that transparency hides, which must not reach what is seen."""

from __future__ import annotations

import cv2
import numpy as np

from maskgit_sr.images.samples import Picture, cast, peak

VISIBLE = 0.125
"""Alpha from which on a colour counts in full."""


def visible(picture: Picture) -> np.ndarray:
    """Returns the colours [H, W, 3] with those of transparent pixels filled in from around them.

    A network sees its neighbours' colours at every pixel, and files hold anything under an alpha of
    zero, most often black. Pixels of alpha 0 so have no influence on the result; those below an
    eighth, whose colours are rounded badly, lose it by degrees.

    The fill averages over larger and larger areas until one holds a visible pixel (push-pull:
    Gortler et al., The Lumigraph, 1996).
    """
    alpha = picture.alpha
    if alpha is None or float(alpha.min()) >= VISIBLE * peak(alpha.dtype) or not alpha.any():
        return picture.color
    weight = np.minimum(cast(alpha, np.float32) / np.float32(VISIBLE), 1)
    unit = np.stack(
        [_filled(cast(picture.color[..., i], np.float32), weight) for i in range(3)], -1
    )
    filled = cast(unit, picture.color.dtype)
    return np.where((weight < 1)[..., None], filled, picture.color)


def _filled(plane: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns [H, W] mixed with its surroundings by what `weight` [H, W] lacks of 1."""
    height, width = plane.shape
    if height == 1 and width == 1:
        return plane
    half = (-(-width // 2), -(-height // 2))
    weights = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    weighted = cv2.resize(plane * weight, half, interpolation=cv2.INTER_AREA)
    mean = np.divide(weighted, weights, out=np.zeros_like(weighted), where=weights > 0)
    # A quarter of the area in full is a colour to rely on.
    coarse = _filled(mean, np.minimum(4 * weights, 1))
    around = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return plane * weight + around * (1 - weight)
