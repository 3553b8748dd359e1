"""Iterative masked decoding: one ``lax.fori_loop`` for every masked-token method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from maskgit_sr.arrays import Confidence, Keys, TokenLogits, TokenMask, Tokens
from maskgit_sr.decoding.rules import Drawn, Rule
from maskgit_sr.ops.masking import top_mask

Generate = Callable[[Tokens, TokenMask], TokenLogits]


class Canvas(NamedTuple):
    """Initial state of decoding.

    Attributes:
        tokens: [B, N]; the value is ignored where the token is not known.
        known: [B, N], true where the token is given. Given tokens never change.
        start: [B], the first step of each example; an example whose start is T or more keeps its
            tokens as they are.
        mask: [B, N], true where the first step does not know the token; None: where it is not
            ``known``. A token that is neither is seen, and may be drawn again.
    """

    tokens: Tokens
    known: TokenMask
    start: Int[Array, " B"]
    mask: TokenMask | None = None


class Decoded(NamedTuple):
    """Finished tokens [B, N] and, if requested, their confidence in [0, 1], [B, N]."""

    tokens: Tokens
    confidence: Confidence | None


class _Carry(NamedTuple):
    tokens: Tokens  # [B, N]; the value under the mask is ignored by `generate`
    mask: TokenMask  # [B, N]; true: still to be generated
    probability: Confidence  # [B, N]; with which each token was drawn


def blank(batch: int, tokens: int) -> Canvas:
    """Returns a canvas without any known token."""
    shape = (batch, tokens)
    return Canvas(
        jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool), jnp.zeros((batch,), jnp.int32)
    )


def decode(
    generate: Generate,
    rule: Rule,
    canvas: Canvas,
    counts: Int[Array, "*b T"],
    keys: Keys,
    *,
    temperature: float = 0.0,
    redraw: bool = False,
    first: int | jax.Array = 0,
    confidence: bool = False,
) -> Decoded:
    """Returns the canvas filled in T steps.

    Whatever does not change from step to step (LR memory, cross-attention keys and values) belongs
    in the closures; the loop carries tokens, mask and probabilities only. ``generate`` is called
    T − ``first`` times and ``rule.priority`` once less.

    Args:
        generate: (tokens [B, N], mask [B, N]) → logits [B, N, K].
        counts: tokens still masked after each step, [T] or [B, T] (`ops.schedules.mask_counts`).
            The last step fills whatever is masked, so its entry is not read.
        keys: one PRNG key per example, [B], so that its samples depend neither on its place in
            the batch nor on its neighbours.
        temperature: 0 takes the most likely token; above 0 samples softmax(logits / temperature).
        first: step t before which no example begins, below T; earlier ones are not run, which
            saves their passes. An array is found at run time (the least of `Canvas.start`); such
            a loop has no gradient.
        redraw: draw kept tokens again in every step too (ITER's released code); known ones stay.
        confidence: also return the confidence of the finished tokens.
    """
    counts = jnp.asarray(counts)
    steps = counts.shape[-1]
    free = ~canvas.known
    most = free.sum(-1)

    def fill(step: jax.Array | int, carry: _Carry) -> _Carry:
        logits = generate(carry.tokens, carry.mask)
        drawn = free if redraw else carry.mask
        tokens = jnp.where(drawn, _choose(logits, temperature, keys, step), carry.tokens)
        probability = jax.nn.softmax(logits, axis=-1)
        probability = jnp.take_along_axis(probability, tokens[..., None], axis=-1)[..., 0]
        probability = jnp.where(drawn, probability, carry.probability)
        return _Carry(tokens, carry.mask, probability)

    def body(step: jax.Array, carry: _Carry) -> _Carry:
        filled = fill(step, carry)
        priority = rule.priority(Drawn(*filled, step, steps), keys)
        # The schedule counts on an empty canvas: known tokens leave fewer positions to mask.
        count = jnp.minimum(counts[..., step], most)
        # Ranks, not a threshold: ties would mask another number of tokens than the schedule's.
        mask = top_mask(jnp.where(free, priority, -jnp.inf), count)
        return _begun(step, canvas.start, filled._replace(mask=mask), carry)

    mask = free if canvas.mask is None else canvas.mask
    carry = _Carry(canvas.tokens, mask, jnp.ones(free.shape, jnp.float32))
    # A loop of no turns would still trace, and need, the rule's network.
    if isinstance(first, jax.Array) or steps - first > 1:
        carry = jax.lax.fori_loop(first, steps - 1, body, carry)
    # The last step masks nothing, so it stands outside and spares a pass of the rule's network.
    carry = _begun(steps - 1, canvas.start, fill(steps - 1, carry), carry)
    scores = rule.confidence(carry.tokens, carry.probability) if confidence else None
    return Decoded(carry.tokens, scores)


def _begun(step: jax.Array | int, start: Int[Array, " B"], after: _Carry, before: _Carry) -> _Carry:
    """Returns ``after`` for examples that have started by this step, else ``before``."""
    begun = (step >= start)[:, None]
    return _Carry(*(jnp.where(begun, a, b) for a, b in zip(after, before, strict=True)))


def _choose(logits: TokenLogits, temperature: float, keys: Keys, step: jax.Array | int) -> Tokens:
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    # A subkey for each step: one key would draw the same noise in all of them.
    def sample(key: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, step), logits / temperature)

    return jax.vmap(sample)(keys, logits).astype(jnp.int32)
