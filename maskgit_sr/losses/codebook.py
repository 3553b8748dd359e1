"""Losses of a codebook that is trained by gradients (MaskGIT's VQGAN)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maskgit_sr.arrays import Scalar


def entropy(distances: Float[Array, "M K"], temperature: float) -> Scalar:
    """Returns mean entropy of a vector's codes − entropy of their mean, in nats.

    Codes have softmax(−distance / temperature). Low where every vector is sure of its code and all
    codes are used alike. The 1e-5 are the public code's (google-research/maskgit, `libml/losses`).

    Args:
        distances: squared distances of M vectors to K codes.
    """
    affinity = -distances / temperature
    probability = jax.nn.softmax(affinity, axis=-1)
    average = jnp.mean(probability, axis=0)
    batch = -jnp.sum(average * jnp.log(average + 1e-5))
    sample = -jnp.mean(jnp.sum(probability * jax.nn.log_softmax(affinity + 1e-5, axis=-1), axis=-1))
    return sample - batch
