"""Bicubic resizing that equals the references', and block rearrangements."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Returns the cubic convolution kernel at distances ≥ 0 (Keys 1981)."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _cubic_matrix(size: int, scale: int, a: float) -> np.ndarray:
    """Returns interpolation weights [size·scale, size]; the border is clamped."""
    positions = (np.arange(size * scale, dtype=np.float64) + 0.5) / scale - 0.5
    base = np.floor(positions).astype(int)
    matrix = np.zeros((size * scale, size))
    for tap in range(-1, 3):
        weight = _cubic(np.abs(positions - (base + tap)), a)
        np.add.at(matrix, (np.arange(size * scale), np.clip(base + tap, 0, size - 1)), weight)
    return matrix.astype(np.float32)


def upsample_bicubic(
    image: Float[Array, "B H W C"], scale: int, a: float = -0.75
) -> Float[Array, "B H2 W2 C"]:
    """Enlarges bicubically, with half-pixel centres, clamped border and no antialias.

    With a = −0.75 this is what the RealSRT tokenizer was trained to see. ``jax.image.resize`` uses
    a = −0.5 and renormalises at the border, so it gives other pixels and then other tokens.
    Values may leave [0, 1]; they are not clipped, as in the reference.
    """
    # "highest": accelerators round the factors of float32 products otherwise, and tokens change.
    rows = jnp.asarray(_cubic_matrix(image.shape[1], scale, a), image.dtype)
    columns = jnp.asarray(_cubic_matrix(image.shape[2], scale, a), image.dtype)
    image = jnp.einsum("yh,bhwc->bywc", rows, image, precision="highest")
    return jnp.einsum("xw,bywc->byxc", columns, image, precision="highest")


def downsample_bicubic(
    image: Float[Array, "B H W C"], scale: int, *, levels: int | None = None
) -> Float[Array, "B H2 W2 C"]:
    """Shrinks bicubically as MATLAB's ``imresize``, by which papers make LR images.

    Antialiased: the kernel (a = −0.5) is ``scale`` times as wide. The border is mirrored with its
    edge pixels repeated. Values may leave [0, 1]; they are neither clipped nor rounded unless
    ``levels`` is given. A NumPy array gives a NumPy array, and nothing is compiled for its size.

    Args:
        levels: highest of integer values, at which they are clipped and rounded after each axis, as
            MATLAB does to images of integers.

    Raises:
        ValueError: ``scale`` is below 1, or a side is no multiple of it.
    """
    if scale < 1 or image.shape[1] % scale or image.shape[2] % scale:
        height, width = image.shape[1:3]
        raise ValueError(f"downsample: expected multiples of {scale}, found {height}x{width}")
    centre = (scale - 1) / 2
    taps = np.arange(int(np.ceil(centre - 2 * scale)), int(np.floor(centre + 2 * scale)) + 1)
    weights = _cubic(np.abs(taps - centre) / scale, -0.5)
    weights /= weights.sum()
    for axis in (1, 2):
        count = image.shape[axis] // scale
        pads = [(0, 0)] * 4
        pads[axis] = (-int(taps[0]), int(taps[-1]) - scale + 1)
        pad = np.pad if isinstance(image, np.ndarray) else jnp.pad
        padded = pad(image, pads, mode="symmetric")
        stop = (count - 1) * scale + 1
        before = (slice(None),) * axis
        # Python floats are weakly typed, so the image keeps its dtype.
        image = sum(
            weight * padded[(*before, slice(tap, tap + stop, scale))]
            for tap, weight in enumerate(weights.tolist())
        )
        if levels is not None:
            image = image.clip(0, levels).round()
    return image


def resize_weights(size: int, count: int, first: int, last: int) -> tuple[int, np.ndarray]:
    """Returns a part of the matrix by which MATLAB's ``imresize`` changes an axis to a size.

    :func:`downsample_bicubic` does the same where ``size / count`` is a whole number. Reductions
    alone are antialiased.

    Args:
        size: samples of the axis.
        count: samples that it is resized to.
        first: first row of the part.
        last: row after its last.

    Returns:
        The first sample that the rows depend on, and their weights, float64 [last − first, span].
    """
    scale = size / count
    wide = max(scale, 1)
    centres = (np.arange(first, last) + 0.5) * scale - 0.5
    taps = np.floor(centres - 2 * wide).astype(int)[:, None] + np.arange(int(4 * wide) + 3)
    weights = _cubic(np.abs(taps - centres[:, None]) / wide, -0.5)
    weights /= weights.sum(1, keepdims=True)
    mirrored = taps % (2 * size)
    samples = np.minimum(mirrored, 2 * size - 1 - mirrored)
    used = samples[weights != 0]
    begin, end = int(used.min()), int(used.max()) + 1
    matrix = np.zeros((last - first, end - begin))
    rows = np.broadcast_to(np.arange(last - first)[:, None], taps.shape)
    np.add.at(matrix, (rows[weights != 0], used - begin), weights[weights != 0])
    return begin, matrix


def upsample_nearest(image: Float[Array, "B H W C"], scale: int = 2) -> Float[Array, "B H2 W2 C"]:
    """Repeats each pixel ``scale``×``scale`` times."""
    b, h, w, c = image.shape
    image = jnp.broadcast_to(image[:, :, None, :, None], (b, h, scale, w, scale, c))
    return image.reshape(b, h * scale, w * scale, c)


def space_to_depth(image: Float[Array, "B H W C"], block: int) -> Float[Array, "B h w C2"]:
    """Returns [B, H/block, W/block, block²·C] of [B, H, W, C].

    Channels are ordered (row, column, channel), where PyTorch's pixel_unshuffle has the channel
    first.
    """
    b, h, w, c = image.shape
    image = image.reshape(b, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return image.reshape(b, h // block, w // block, block * block * c)


def depth_to_space(image: Float[Array, "B h w C2"], block: int) -> Float[Array, "B H W C"]:
    """Returns [B, h·block, w·block, C/block²], the inverse of :func:`space_to_depth`."""
    b, h, w, c = image.shape
    image = image.reshape(b, h, w, block, block, c // block**2).transpose(0, 1, 3, 2, 4, 5)
    return image.reshape(b, h * block, w * block, c // block**2)
