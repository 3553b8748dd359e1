"""Losses of the token networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from maskgit_sr.arrays import Confidence, Scalar, TokenLogits, TokenMask, Tokens


def masked_cross_entropy(
    logits: TokenLogits, targets: Tokens, mask: TokenMask, smoothing: float = 0.0
) -> Scalar:
    """Returns the mean cross-entropy of a batch's masked positions, in nats (RealSRT Eq. 1).

    Args:
        smoothing: share of the target that all K tokens have alike (label smoothing).
    """
    # Float32: the log-sum-exp of bfloat16 logits has two to three digits.
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if smoothing:
        even = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
        losses = (1 - smoothing) * losses + smoothing * even
    return _masked_mean(losses, mask)


def critic_cross_entropy(logits: Confidence, mask: TokenMask) -> Scalar:
    """Returns the mean binary cross-entropy of critic logits, in nats (RealSRT Eq. 2).

    The label is ``mask``: true where the token was generated.
    """
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, mask.astype(jnp.float32)))


def balanced_cross_entropy(logits: Float[Array, "*n 2"], labels: Bool[Array, "*n"]) -> Scalar:
    """Returns the class-balanced cross-entropy of two logits, in nats (Cui et al. 2019).

    Each of the n_y tokens of a class has the weight (1 − β)/(1 − β^n_y), β = 0.9999; weighted mean
    over the batch (ITER Eq. 9). A class without tokens takes no part.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels.astype(jnp.int32)
    )
    right = jnp.sum(labels, dtype=jnp.float32)
    counts = jnp.stack([labels.size - right, right])
    # −expm1: 1 − β^n of few tokens would lose its digits in float32.
    weights = 1 / jnp.maximum(-jnp.expm1(counts * np.float32(np.log(0.9999))), 1e-8)
    weight = jnp.where(labels, weights[1], weights[0])
    return jnp.sum(weight * losses) / jnp.sum(weight)


def accuracy(logits: TokenLogits, targets: Tokens, mask: TokenMask) -> Scalar:
    """Returns the share of masked positions whose most likely token is right, 0 to 1."""
    right = jnp.argmax(logits, -1) == targets
    return _masked_mean(right.astype(jnp.float32), mask)


def _masked_mean(values: Float[Array, "B N"], mask: TokenMask) -> Scalar:
    """Returns the mean of the values under the mask, 0 where nothing is masked."""
    return jnp.sum(values, where=mask) / jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1)
