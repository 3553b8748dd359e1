"""Choosing exactly n positions of each row, ties included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskgit_sr.arrays import TokenMask


def top_mask(scores: Float[Array, "B N"], count: Int[Array, "*b"]) -> TokenMask:
    """Returns True at exactly ``count`` positions of each row, those with the highest scores.

    Ties go to the lower index, so the number is exact where a threshold would not be.

    Args:
        scores: any real scores, [B, N]; larger is picked first.
        count: scalar or [B]; how many positions per row, 0 … N; may be traced.
    """
    # Ranks, because `count` may be traced, and by argsort, because top_k with a symbolic batch
    # cannot be exported to TensorFlow. A permutation's argsort is its inverse: each one's rank.
    order = jnp.argsort(-scores, axis=-1, stable=True)
    ranks = jnp.argsort(order, axis=-1)
    return ranks < jnp.broadcast_to(jnp.asarray(count), scores.shape[:1])[:, None]


def random_mask(key: jax.Array, counts: Int[Array, " B"], tokens: int) -> TokenMask:
    """Returns True at exactly ``counts[b]`` uniformly drawn positions of row b."""
    return top_mask(jax.random.uniform(key, (counts.shape[0], tokens)), counts)
