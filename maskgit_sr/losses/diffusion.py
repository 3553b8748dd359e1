"""Losses of diffusion models: noise levels drawn for training, noisy images, noise regression."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Vector = Float[Array, "B"]

LEVELS = ("gamma", "sqrt")


class Level(NamedTuple):
    """Noise levels of a batch, float32 [B] each.

    Attributes:
        signal: √γ, what the network is told.
        noise: √(1 − γ).
    """

    signal: Vector
    noise: Vector


def draw_levels(key: jax.Array, gammas: np.ndarray, count: int, uniform: str = "gamma") -> Level:
    """Draws a noise level for each example: a step t, then uniformly between t − 1 and t.

    Stratified: each of ``count`` equal shares of the T steps has one example, so that no batch
    happens to have quiet levels only. Every example by itself is still uniform over all steps.

    Args:
        gammas: γ_0 = 1, γ_1, …, γ_T of the training schedule, float64.
        uniform: ``gamma``: uniform in γ, the paper's p(γ); ``sqrt``: in √γ, as the public
            re-implementation.

    Raises:
        ValueError: another ``uniform``.
    """
    if uniform not in LEVELS:
        raise ValueError(f"losses.uniform: expected one of {', '.join(LEVELS)}, found {uniform!r}")
    # By what is missing to 1: float32 has no digits left of it near γ = 1.
    ends = jnp.asarray(1 - (gammas if uniform == "gamma" else np.sqrt(gammas)), jnp.float32)
    steps = len(gammas) - 1
    place_key, turn_key, inner_key = jax.random.split(key, 3)
    strata = jnp.arange(count, dtype=jnp.float32) + jax.random.uniform(place_key, (count,))
    # Turned by chance: position in the batch must not tell the level, and each level is reached.
    turn = jax.random.uniform(turn_key) * count
    step = jnp.floor((strata + turn) % count * (steps / count)).astype(jnp.int32)
    step = jnp.clip(step, 0, steps - 1)  # rounding can reach the end
    inner = jax.random.uniform(inner_key, (count,))
    missing = ends[step] + inner * (ends[step + 1] - ends[step])
    if uniform == "gamma":
        return Level(jnp.sqrt(1 - missing), jnp.sqrt(missing))
    return Level(1 - missing, jnp.sqrt(missing * (2 - missing)))


def diffuse(
    clean: Float[Array, "B H W C"], level: Level, noise: Float[Array, "B H W C"]
) -> Float[Array, "B H W C"]:
    """Returns √γ·clean + √(1 − γ)·noise (SR3, Equation 4)."""
    signal, share = (part[:, None, None, None] for part in level)
    return signal * clean + share * noise
