"""Colour correction of a restored tile against its low-resolution input."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Image
from maskgit_sr.ops.resize import upsample_bicubic


def adain(content: Image, style: Image, eps: float = 1e-5) -> Image:
    """Returns ``content`` with ``style``'s mean and deviation per channel (RealSRT §3.4).

    Args:
        content: restored tile [B, sH, sW, 3].
        style: its LR tile [B, H, W, 3]; the two may differ in size.
        eps: added to the unbiased variances, so that flat content is not divided by zero.
    """

    def stats(x: Image) -> tuple[Image, Image]:
        count = x.shape[1] * x.shape[2]
        mean = x.mean((1, 2), keepdims=True)
        # Unbiased, as in the public code (docs/parity.md); a single pixel has the variance 0.
        variance = jnp.square(x - mean).sum((1, 2), keepdims=True) / max(count - 1, 1)
        return mean, jnp.sqrt(variance + eps)

    mean, deviation = stats(content)
    target_mean, target_deviation = stats(style)
    return (content - mean) / deviation * target_deviation + target_mean


def wavelet(content: Image, style: Image, levels: int = 5) -> Image:
    """Returns ``content``'s high frequencies on ``style``'s low ones (StableSR, à-trous).

    ``style`` is upsampled bicubically to the size of ``content``; each level blurs with the
    binomial kernel [1 2 1]/4 dilated by 2^level, borders replicated.
    """
    style = upsample_bicubic(style, content.shape[1] // style.shape[1])
    # StableSR adds up the high frequencies of all levels; the sum telescopes to this difference.
    return content - _low_pass(content, levels) + _low_pass(style, levels)


def _low_pass(image: Image, levels: int) -> Image:
    for level in range(levels):
        step = 2**level
        for axis in (1, 2):
            pad = [(0, 0)] * image.ndim
            pad[axis] = (step, step)
            padded, size = jnp.pad(image, pad, mode="edge"), image.shape[axis]
            parts = [
                weight * jax.lax.slice_in_dim(padded, i * step, i * step + size, axis=axis)
                for i, weight in enumerate((0.25, 0.5, 0.25))
            ]
            image = parts[0] + parts[1] + parts[2]
    return image


_FIXES = {"adain": adain, "wavelet": wavelet, "none": lambda content, style: content}
COLOR_FIXES = tuple(_FIXES)


def correct(content: Image, style: Image, how: str) -> Image:
    """Returns ``content`` under the colour fix of that name: ``adain``, ``wavelet`` or ``none``.

    Raises:
        ValueError: any other name.
    """
    if how not in _FIXES:
        raise ValueError(f"color_fix: expected one of {', '.join(COLOR_FIXES)}, found {how!r}")
    return _FIXES[how](content, style)
