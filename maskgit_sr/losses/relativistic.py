"""Losses of SRMAP: a relativistic GAN, and the fidelity of an output to its LR image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image, Scalar
from maskgit_sr.ops.resize import downsample_bicubic

Scores = Float[Array, "B"]


def relativistic(better: Scores, worse: Scores) -> Scalar:
    """Returns mean softplus(−(better − worse)), example by example.

    ``better`` are the scores that the network is to raise: the critic's of HR, the generator's of
    its own images. A constant added to all scores changes nothing.
    """
    return jnp.mean(jax.nn.softplus(worse - better))


def fidelity(image: Image, lr: Image) -> Scalar:
    """Returns the mean of |LR − the image, reduced as MATLAB's bicubic ``imresize``|."""
    scale = image.shape[1] // lr.shape[1]
    return jnp.mean(jnp.abs(downsample_bicubic(image, scale) - lr))
