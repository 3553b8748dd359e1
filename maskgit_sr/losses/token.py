"""Losses of the token networks."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from maskgit_sr.arrays import Confidence, Scalar, TokenLogits, TokenMask, Tokens


def masked_cross_entropy(logits: TokenLogits, targets: Tokens, mask: TokenMask) -> Scalar:
    """Cross-entropy in nats, mean over the masked positions of the whole batch (RealSRT Eq. 1)."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    return jnp.sum(losses * mask) / jnp.maximum(jnp.sum(mask), 1)


def critic_cross_entropy(logits: Confidence, mask: TokenMask) -> Scalar:
    """Binary cross-entropy over all positions; the label is "this token was generated" (Eq. 2)."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, mask.astype(jnp.float32)))


def accuracy(logits: TokenLogits, targets: Tokens, mask: TokenMask) -> Scalar:
    """Share of masked positions whose most likely token is right."""
    right = jnp.argmax(logits, -1) == targets
    return jnp.sum(right * mask) / jnp.maximum(jnp.sum(mask), 1)
