"""Bicubic upsampling that equals the reference's, and block rearrangements."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def _cubic_matrix(size: int, scale: int, a: float) -> np.ndarray:
    """Interpolation weights [size·scale, size]; the border is clamped."""
    positions = (np.arange(size * scale, dtype=np.float64) + 0.5) / scale - 0.5
    base = np.floor(positions).astype(int)
    matrix = np.zeros((size * scale, size))
    for tap in range(-1, 3):
        distance = np.abs(positions - (base + tap))
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(matrix, (np.arange(size * scale), np.clip(base + tap, 0, size - 1)), weight)
    return matrix.astype(np.float32)


def upsample_bicubic(
    image: Float[Array, "B H W C"], scale: int, a: float = -0.75
) -> Float[Array, "B H2 W2 C"]:
    """Bicubic ×``scale`` with half-pixel centres, clamped border and no antialias.

    With a = −0.75 this is what the RealSRT tokenizer was trained to see. ``jax.image.resize`` uses
    a = −0.5 and renormalises at the border, so it gives other pixels and then other tokens.
    Values may leave [0, 1]; they are not clipped, as in the reference.
    """
    rows = jnp.asarray(_cubic_matrix(image.shape[1], scale, a), image.dtype)
    columns = jnp.asarray(_cubic_matrix(image.shape[2], scale, a), image.dtype)
    image = jnp.einsum("yh,bhwc->bywc", rows, image, precision="highest")
    return jnp.einsum("xw,bywc->byxc", columns, image, precision="highest")


def upsample_nearest(image: Float[Array, "B H W C"], scale: int = 2) -> Float[Array, "B H2 W2 C"]:
    """Each pixel repeated ``scale``×``scale`` times."""
    b, h, w, c = image.shape
    image = jnp.broadcast_to(image[:, :, None, :, None], (b, h, scale, w, scale, c))
    return image.reshape(b, h * scale, w * scale, c)


def space_to_depth(image: Float[Array, "B H W C"], block: int) -> Float[Array, "B h w C2"]:
    """[B, H, W, C] → [B, H/block, W/block, block²·C]; row-major inside a block."""
    b, h, w, c = image.shape
    image = image.reshape(b, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return image.reshape(b, h // block, w // block, block * block * c)


def depth_to_space(image: Float[Array, "B h w C2"], block: int) -> Float[Array, "B H W C"]:
    """The inverse of :func:`space_to_depth`."""
    b, h, w, c = image.shape
    image = image.reshape(b, h, w, block, block, c // block**2).transpose(0, 1, 3, 2, 4, 5)
    return image.reshape(b, h * block, w * block, c // block**2)
