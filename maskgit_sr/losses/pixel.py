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


PIXEL_LOSSES = {"l1": l1, "l2": l2}
