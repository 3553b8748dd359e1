"""Iterative masked decoding: one ``lax.fori_loop`` for every masked-token method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Confidence, Keys, TokenLogits, TokenMask, Tokens
from maskgit_sr.decoding.policies import Policy
from maskgit_sr.ops.masking import top_mask
from maskgit_sr.ops.schedules import mask_counts

Generate = Callable[[Tokens, TokenMask], TokenLogits]
Doubt = Callable[[Tokens], Confidence]


class Decoded(NamedTuple):
    """Finished tokens [B, N] and, if the policy scores them, confidence in [0, 1] [B, N]."""

    tokens: Tokens
    confidence: Confidence | None


class _Carry(NamedTuple):
    tokens: Tokens  # [B, N]; the value under the mask is ignored by `generate`
    mask: TokenMask  # [B, N]; true: still to be generated
    chosen: Confidence  # [B, N]; probability each token was chosen with


def decode(
    generate: Generate, doubt: Doubt | None, batch: int, tokens: int, policy: Policy, keys: Keys
) -> Decoded:
    """Generates ``tokens`` tokens for each of ``batch`` tiles from a blank canvas.

    Whatever does not change from step to step (LR memory, cross-attention keys and values) belongs
    in the closures; the loop carries tokens and mask only. ``generate`` is called T times and
    ``doubt`` T − 1 times, once more if ``policy.score``.

    Args:
        generate: (tokens [B, N], mask [B, N]) → logits [B, N, K].
        doubt: tokens [B, N] → critic logits [B, N], larger for less plausible tokens; required for
            the ``critic`` policy.
        keys: one PRNG key a tile, [B]; only used at temperatures above 0, so that a tile's samples
            depend on its own key and not on its place in the batch.

    Raises:
        ValueError: the policy needs a critic and there is none.
    """
    if policy.asks_critic and doubt is None:
        raise ValueError("confidence: the bundle has no critic; use confidence='generator'")
    counts = jnp.asarray(mask_counts(policy.steps, tokens, policy.schedule))

    def fill(step: jax.Array | int, carry: _Carry) -> _Carry:
        logits = generate(carry.tokens, carry.mask)
        predicted = _choose(logits, policy.temperature, keys, step)
        filled = jnp.where(carry.mask, predicted, carry.tokens)
        probability = jax.nn.softmax(logits, axis=-1)
        probability = jnp.take_along_axis(probability, filled[..., None], axis=-1)[..., 0]
        return _Carry(filled, carry.mask, jnp.where(carry.mask, probability, carry.chosen))

    def body(step: jax.Array, carry: _Carry) -> _Carry:
        carry = fill(step, carry)
        if policy.confidence == "critic":
            assert doubt is not None
            scores = doubt(carry.tokens)
        else:  # tokens kept so far never come first
            scores = jnp.where(carry.mask, -carry.chosen, -jnp.inf)
        return carry._replace(mask=top_mask(scores, counts[step]))

    carry = _Carry(
        jnp.zeros((batch, tokens), jnp.int32),
        jnp.ones((batch, tokens), bool),
        jnp.zeros((batch, tokens), jnp.float32),
    )
    if policy.steps > 1:  # a loop of no turns would still trace, and need, the critic
        carry = jax.lax.fori_loop(0, policy.steps - 1, body, carry)
    carry = fill(policy.steps - 1, carry)
    if not policy.score:
        return Decoded(carry.tokens, None)
    if policy.confidence == "critic":
        assert doubt is not None
        return Decoded(carry.tokens, jax.nn.sigmoid(-doubt(carry.tokens)))
    return Decoded(carry.tokens, carry.chosen)


def _choose(logits: TokenLogits, temperature: float, keys: Keys, step: jax.Array | int) -> Tokens:
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def sample(key: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, step), logits / temperature)

    return jax.vmap(sample)(keys, logits).astype(jnp.int32)
