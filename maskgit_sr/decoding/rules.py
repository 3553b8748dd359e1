"""Decoding rules: which tokens of a step are kept, and which are masked again.

A rule gives every position a priority; the loop masks exactly as many of the highest as its
schedule says (`maskgit_sr.decoding.masked`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Confidence, Keys, TokenMask, Tokens


class Drawn(NamedTuple):
    """Input of a rule: the canvas after the tokens of a step were drawn.

    Attributes:
        tokens: [B, N], none of them masked.
        mask: [B, N], true where the token was drawn in this step.
        probability: [B, N] in [0, 1], of each token when it was drawn; 1 for given tokens.
        step: t, which may be traced; ``steps`` is T.
    """

    tokens: Tokens
    mask: TokenMask
    probability: Confidence
    step: jax.Array | int
    steps: int


class Rule(Protocol):
    """Ranks the positions of a step for masking, and rates finished tokens."""

    def priority(self, drawn: Drawn, keys: Keys) -> Confidence:
        """Returns [B, N]: the larger, the sooner a position is masked again; −inf: it is not."""

    def confidence(self, tokens: Tokens, probability: Confidence) -> Confidence:
        """Returns the confidence of finished tokens, [B, N] in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class CriticRule:
    """Masks the tokens of the highest critic logits; accepted ones can be revoked (RealSRT §3.2).

    Attributes:
        critic_logits: tokens [B, N] → [B, N], larger for less plausible tokens.
    """

    critic_logits: Callable[[Tokens], Confidence]

    def priority(self, drawn: Drawn, keys: Keys) -> Confidence:
        """Returns the critic's logits."""
        # Not σ of them: it keeps their order, but in float32 large logits would become ties.
        return self.critic_logits(drawn.tokens)

    def confidence(self, tokens: Tokens, probability: Confidence) -> Confidence:
        """Returns σ(−critic logits), at the price of one more call of the critic."""
        return jax.nn.sigmoid(-self.critic_logits(tokens))


@dataclasses.dataclass(frozen=True)
class ConfidenceRule:
    """Masks the least probable tokens of a step; accepted ones stay (MaskGIT).

    Attributes:
        noise: factor of the Gumbel noise on log p, annealed by 1 − (t + 1)/T; MaskGIT has 4.5, the
            ablation (a) of RealSRT has none.
    """

    noise: float = 0.0

    def priority(self, drawn: Drawn, keys: Keys) -> Confidence:
        """Returns −p, or −(log p + annealed noise), of the tokens drawn in this step."""
        confidence = drawn.probability
        if self.noise:
            annealed = self.noise * (1 - (drawn.step + 1) / drawn.steps)
            confidence = jnp.log(confidence) + annealed * _gumbel(keys, drawn)
        return jnp.where(drawn.mask, -confidence, -jnp.inf)

    def confidence(self, tokens: Tokens, probability: Confidence) -> Confidence:
        """Returns the probability with which each token was drawn."""
        return probability


@dataclasses.dataclass(frozen=True)
class SamplingRule:
    """Samples the positions to keep by how likely each is right (ITER §3.3).

    The largest log-probabilities plus Gumbel noise are exactly a sample without replacement.

    Attributes:
        probability_right: tokens [B, N] → [B, N] in [0, 1].
        noise: factor of the Gumbel noise: 1 samples, 0 keeps the most probable positions.
    """

    probability_right: Callable[[Tokens], Confidence]
    noise: float = 1.0

    def priority(self, drawn: Drawn, keys: Keys) -> Confidence:
        """Returns −(log p + Gumbel noise) of the masked positions; kept ones stay kept."""
        # The 1e-8 of ITER's released code: log 0 would stay the lowest whatever the noise.
        weight = jnp.log(self.probability_right(drawn.tokens) + 1e-8)
        if self.noise:
            weight = weight + self.noise * _gumbel(keys, drawn)
        return jnp.where(drawn.mask, -weight, -jnp.inf)

    def confidence(self, tokens: Tokens, probability: Confidence) -> Confidence:
        """Returns the probability that each token is right."""
        return self.probability_right(tokens)


def _gumbel(keys: Keys, drawn: Drawn) -> Confidence:
    """Returns Gumbel noise [B, N], independent of the tokens drawn in the step."""
    shape = drawn.tokens.shape[1:]

    # Tokens are drawn by fold_in(key, step) (`masked.decode`), hence one more fold. One draw a key,
    # so that an example's noise does not depend on its batch.
    def draw(key: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(jax.random.fold_in(key, drawn.step), 1), shape)

    return jax.vmap(draw)(keys)
