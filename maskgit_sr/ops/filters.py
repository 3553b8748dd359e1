"""Fixed linear filters of images [B, H, W, C]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from maskgit_sr.arrays import Image


def gaussian_blur(image: Image, sigma: float) -> Image:
    """Returns the image [B, H, W, C] under a Gaussian cut off at three ``sigma`` (in pixels).

    Beyond the border its outermost pixels are repeated.
    """
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(-reach, reach + 1)]
    # The cut-off takes some of the sum away; without it flat areas would change brightness.
    weights = [weight / sum(weights) for weight in weights]
    return correlate(correlate(image, 1, weights), 2, weights)


def unsharp_mask(image: Image, amount: float, sigma: float = 1.5) -> Image:
    """Returns the image plus ``amount`` times its difference to its `gaussian_blur`."""
    return image + amount * (image - gaussian_blur(image, sigma))


def without_grid(image: Image, period: int, cells: int = 5) -> Image:
    """Returns the image without patterns that repeat with ``period`` over ``cells``² cells.

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
    mean = correlate(correlate(blocks, 1, [1 / cells] * cells), 3, [1 / cells] * cells)
    # Less its own mean, or the pattern would take the local brightness with it.
    pattern = mean - mean.mean((2, 4), keepdims=True)
    return (blocks - pattern).reshape(image.shape)


def correlate(x: Array, axis: int, weights: Sequence[float], step: int = 1) -> Array:
    """Returns weighted sums along an axis of an odd number of places, ``step`` apart.

    Beyond the border its outermost places are repeated.
    """
    pad = [(0, 0)] * x.ndim
    pad[axis] = (len(weights) // 2 * step,) * 2
    padded, size = jnp.pad(x, pad, mode="edge"), x.shape[axis]
    total = jnp.zeros_like(x)
    for i, weight in enumerate(weights):
        total += weight * jax.lax.slice_in_dim(padded, i * step, i * step + size, axis=axis)
    return total
