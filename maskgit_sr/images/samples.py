"""Samples of images: full intensity, RGB alone, the same intensities in another dtype."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike


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
    scaled = samples.astype(np.float32) * np.float32(peak(dtype) / peak(samples.dtype))
    if dtype.kind != "f":
        scaled = np.rint(scaled).clip(0, peak(dtype))
    return scaled.astype(dtype)
