"""Mask schedules γ(r) and the number of tokens that stay masked after each decoding step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Schedule = Callable[..., jax.Array]

SCHEDULES: dict[str, Schedule] = {
    "sqrt": lambda r: 1.0 - jnp.sqrt(r),
    "linear": lambda r: 1.0 - r,
    "cosine": lambda r: jnp.cos(r * (jnp.pi / 2)),
    "square": lambda r: 1.0 - r**2,
    "cubic": lambda r: 1.0 - r**3,
}
"""γ: r in [0, 1] → masked fraction, γ(0) = 1, γ(1) = 0. RealSRT uses ``sqrt``."""


def gamma(name: str) -> Schedule:
    """Returns the schedule of that name.

    Raises:
        ValueError: unknown name.
    """
    if name not in SCHEDULES:
        raise ValueError(f"mask schedule: expected one of {', '.join(SCHEDULES)}, found {name!r}")
    return SCHEDULES[name]


def keep_counts(steps: int, tokens: int, schedule: str) -> np.ndarray:
    """Returns the tokens kept at the beginning of step t = 0 … T−1, ⌊(1 − γ(t/T))·N⌋, int32 [T].

    Float32, as in ITER's released code, which `mask_counts` differs from in the rounding: it keeps
    ⌈·⌉ after the step.

    Raises:
        ValueError: ``steps`` or ``tokens`` below 1.
    """
    _check(steps, tokens)
    with jax.ensure_compile_time_eval():
        ratios = jnp.arange(steps, dtype=jnp.float32) / jnp.float32(steps)
        shares = np.asarray(1 - gamma(schedule)(ratios), np.float32)
    counts = np.floor(shares * np.float32(tokens)).astype(np.int32)
    return np.clip(counts, 0, tokens)


def mask_counts(steps: int, tokens: int, schedule: str = "sqrt") -> np.ndarray:
    """Returns the tokens still masked after step t = 0 … T−1, int32 [T]; the last entry is 0.

    The paper (§3.2) writes ⌈γ((t+1)/T)·N⌉; the released code truncates, which gives
    512, 299, 137, 0 for T = 4, N = 1024. This is the one place where that rounding happens, in
    float32 as in the released code.

    Raises:
        ValueError: ``steps`` or ``tokens`` below 1.
    """
    _check(steps, tokens)
    with jax.ensure_compile_time_eval():  # also called while tracing; the counts are constants
        ratios = jnp.arange(1, steps + 1, dtype=jnp.float32) / jnp.float32(steps)
        fractions = np.asarray(gamma(schedule)(ratios), np.float32)
    counts = np.floor(fractions * np.float32(tokens)).astype(np.int32)
    counts = np.clip(counts, 0, tokens)
    counts[-1] = 0  # cos(π/2) is not exactly zero in float32
    return counts


def _check(steps: int, tokens: int) -> None:
    if steps < 1 or tokens < 1:
        raise ValueError(
            f"mask counts: steps and tokens must be at least 1, found {steps}, {tokens}"
        )
