"""Samples of images: full intensity, RGB alone, the same intensities in another dtype.

A `Picture` keeps greyscale, alpha, 16-bit samples and metadata on their way from the input to the
output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from maskgit_sr.images.metadata import Metadata

NO_METADATA = Metadata()
_BAND_PIXELS = 1 << 18
MAX_TINT, MAX_MEAN_TINT = 8, 1
"""Levels of 255 between two channels of a grey picture."""


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright (EXIF orientation is applied and its tag removed).

    Attributes:
      color: [H, W, 3] RGB, uint8, uint16 or float32 in [0, 1]; three equal channels where `grey`.
      alpha: [H, W] of the same dtype, or None for an opaque picture.
      grey: the picture has one channel and is written with one.
      metadata: profile, EXIF, density and so on, true of the upright picture.
      notes: on the decoding, for the user.
    """

    color: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    metadata: Metadata = NO_METADATA
    notes: tuple[str, ...] = ()


def peak(dtype: DTypeLike) -> int:
    """Returns the sample value of full intensity: 1 for floats, 255 for uint8, 65535 for uint16."""
    dtype = np.dtype(dtype)
    return 1 if dtype.kind == "f" else int(np.iinfo(dtype).max)


def color_of(samples: np.ndarray) -> np.ndarray:
    """Returns the RGB of [H, W, C] samples as [H, W, 3]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.

    Grey becomes three equal channels, alpha is left out.
    """
    if samples.shape[2] < 3:
        return np.repeat(samples[..., :1], 3, axis=2)
    return np.ascontiguousarray(samples[..., :3])


def unit(samples: np.ndarray) -> np.ndarray:
    """Returns the intensities as float32 in [0, 1], of the same shape."""
    return samples.astype(np.float32) / np.float32(peak(samples.dtype))


def cast(samples: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Returns samples of another dtype at the same intensities, rounded and clipped for integers.

    `samples` itself is returned if it has that dtype.
    """
    dtype = np.dtype(dtype)
    if samples.dtype == dtype:
        return samples
    # float32 has 24 bits, so 16-bit samples lose nothing in it.
    scaled = samples.astype(np.float32) * np.float32(peak(dtype) / peak(samples.dtype))
    if dtype.kind != "f":
        scaled = np.rint(scaled).clip(0, peak(dtype))
    return scaled.astype(dtype)


def from_samples(
    samples: np.ndarray, metadata: Metadata = NO_METADATA, notes: tuple[str, ...] = ()
) -> Picture:
    """Returns the picture of samples [H, W, C]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA."""
    channels = samples.shape[2]
    alpha = np.ascontiguousarray(samples[..., -1]) if channels in (2, 4) else None
    return Picture(color_of(samples), alpha, channels < 3, metadata, notes)


def monochrome(picture: Picture) -> bool:
    """Returns True for a picture whose visible pixels are grey, whatever its file's channels.

    JPEG gives grey pixels tints of a few levels, of which none is left on average.
    """
    if picture.grey:
        return True
    level = peak(picture.color.dtype) / 255
    sums, visible = np.zeros(2), 0
    rows = max(1, _BAND_PIXELS // picture.color.shape[1])
    for top in range(0, len(picture.color), rows):
        band = picture.color[top : top + rows]
        band = (
            band.reshape(-1, 3) if picture.alpha is None else band[picture.alpha[top:][:rows] > 0]
        )
        tints = band[:, [0, 2]].astype(np.float32) - band[:, 1:2]
        spread = tints.max(axis=1, initial=0) - tints.min(axis=1, initial=0)
        if spread.max(initial=0) > MAX_TINT * level:
            return False
        sums += tints.sum(0, dtype=np.float64)
        visible += len(tints)
    return bool((np.abs(sums) <= MAX_MEAN_TINT * level * visible).all())
