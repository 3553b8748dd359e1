"""Fixed two-dimensional sine/cosine positions."""

from __future__ import annotations

import numpy as np


def sincos_2d(height: int, width: int, features: int) -> np.ndarray:
    """Returns the positional embedding of a token grid, float32 [h·w, D].

    The first half of D encodes the column index, the second half the row index, each as
    [sin, cos] of index / 10000^(i / (D/4)), as in the released RealSRT code.

    Raises:
        ValueError: ``features`` is not a multiple of 4.
    """
    if features % 4:
        raise ValueError(f"positions: features must be a multiple of 4, found {features}")
    frequencies = 1.0 / 10000 ** (np.arange(features // 4, dtype=np.float64) / (features / 4))

    def encode(index: np.ndarray) -> np.ndarray:
        angles = index.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.concatenate([encode(columns), encode(rows)], axis=1).astype(np.float32)
