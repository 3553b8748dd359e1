"""Patterns that repeat with the pixel grid of a network's coarser features."""

from __future__ import annotations

import jax.numpy as jnp

from maskgit_sr.arrays import Image


def without_grid(image: Image, period: int, cells: int = 5) -> Image:
    """The image without what repeats with ``period`` over ``cells``² neighbouring cells.

    A network that draws blocks of period² pixels at once finds it easy to draw the same into all of
    them; photographs have no such pattern that is in step with its blocks. Of every place in a
    block the mean over the neighbouring blocks is taken, less the mean of all places, and
    subtracted: a notch filter at the multiples of 1/period, so that edges and textures of other
    periods stay. Beyond the border the outermost blocks are repeated.

    Args:
        image: [B, H, W, C], H and W multiples of ``period``.
        cells: odd.

    Raises:
        ValueError: sizes that do not divide, or an even ``cells``.
    """
    b, height, width, channels = image.shape
    if height % period or width % period:
        raise ValueError(f"{height}x{width} is no multiple of the period {period}")
    if cells < 1 or cells % 2 == 0:
        raise ValueError(f"cells: expected an odd number, found {cells}")
    blocks = image.reshape(b, height // period, period, width // period, period, channels)
    mean = _box(_box(blocks, 1, cells), 3, cells)
    pattern = mean - mean.mean((2, 4), keepdims=True)
    return (blocks - pattern).reshape(image.shape)


def _box(x: jnp.ndarray, axis: int, cells: int) -> jnp.ndarray:
    """Mean of ``cells`` neighbours along an axis, the outermost repeated beyond it."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = (cells // 2, cells // 2)
    padded, size = jnp.pad(x, pad, mode="edge"), x.shape[axis]
    index = [slice(None)] * x.ndim
    total = jnp.zeros_like(x)
    for start in range(cells):
        index[axis] = slice(start, start + size)
        total = total + padded[tuple(index)]
    return total / cells
