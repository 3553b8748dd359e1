"""Pixel losses."""

from __future__ import annotations

import jax.numpy as jnp

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


PIXEL_LOSSES = {"l1": l1, "l2": l2}
