"""Fixed sine/cosine embeddings: two-dimensional positions, and single numbers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Vector = Float[Array, "B"]


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


def sincos(values: Vector, features: int) -> Float[Array, "B D"]:
    """Returns [sin, cos] of values · 10000^(−k / (D/2)), k = 0 … D/2 − 1, float32 [B, D]."""
    frequencies = np.exp(-np.log(1e4) * np.arange(features // 2) / (features // 2))
    angles = values.astype(jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
