"""Pixel losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.arrays import Image, Scalar


def l1(output: Image, target: Image) -> Scalar:
    """Returns the mean absolute difference."""
    return jnp.mean(jnp.abs(output - target))


def l2(output: Image, target: Image) -> Scalar:
    """Returns the mean squared difference, the pixel loss of the RealSRT reference."""
    return jnp.mean(jnp.square(output - target))


def lattice(output: Image, target: Image, period: int, window: int = 4) -> Scalar:
    """Returns the mean absolute error that repeats every ``period`` pixels.

    In windows of ``window``² periods the mean error of each position within a period, less that of
    all positions. What differs from pixel to pixel averages out in it; a grid, which sub-pixel
    outputs are prone to and which perceptual nets of stride 2 hardly see, stays whole.

    Raises:
        ValueError: a side is shorter than a window.
    """
    side = period * window
    b, height, width, channels = output.shape
    if min(height, width) < side:
        raise ValueError(f"lattice: expected sides of at least {side}, found {height}x{width}")
    rows, columns = height // side, width // side
    error = (output - target)[:, : rows * side, : columns * side]
    split = error.reshape(b, rows, window, period, columns, window, period, channels)
    means = split.mean((2, 5))
    return jnp.mean(jnp.abs(means - means.mean((2, 4), keepdims=True)))


def structure(output: Image, target: Image) -> Scalar:
    """Returns 1 − SSIM, the mean over RGB channels and whole windows (Wang et al. 2004).

    11×11 Gaussian windows of sigma 1.5, K1 = 0.01, K2 = 0.03, images in [0, 1].

    Raises:
        ValueError: a side has fewer than 11 pixels.
    """
    if min(output.shape[1:3]) < 11:
        raise ValueError(f"structure: expected sides of at least 11, found {output.shape[1:3]}")
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    # Moments around 1/2 lose less to cancellation in float32.
    x, y = output.astype(jnp.float32) - 0.5, target.astype(jnp.float32) - 0.5
    moments = jnp.stack([x, y, x * x, y * y, x * y])
    for axis in (2, 3):
        size = moments.shape[axis] - 10
        parts = (
            float(weight) * jax.lax.slice_in_dim(moments, i, i + size, axis=axis)
            for i, weight in enumerate(weights)
        )
        moments = sum(parts, jnp.float32(0))
    mx, my, xx, yy, xy = moments
    contrast = (2 * (xy - mx * my) + 9e-4) / (xx - mx * mx + yy - my * my + 9e-4)
    mx, my = mx + 0.5, my + 0.5
    return 1 - jnp.mean((2 * mx * my + 1e-4) / (mx * mx + my * my + 1e-4) * contrast)


PIXEL_LOSSES = {"l1": l1, "l2": l2}
