"""Noise schedules of diffusion models: β and γ, in float64 on the host.

γ_t = ∏(1 − β), t = 1 … T, is the share of an image's variance that is left after step t (SR3 §2.2);
γ_0 = 1. Samplers turn these into tables of a step's coefficients (`maskgit_sr.decoding.diffusion`).
"""

from __future__ import annotations

import numpy as np

KINDS = ("linear", "quad", "cosine", "const", "jsd", "warmup10", "warmup50")
ENDLESS = ("cosine", "jsd")
"""Kinds that have no ends to choose."""
LARGEST_END = 0.005
"""Largest γ_T of a schedule to sample from: samplers start from noise alone, and an image leaves
√γ_T of itself in what the network was trained to see there."""
SMALLEST_END = 1e-12
"""Smallest γ_T: noise is taken from an image by a division by √γ."""


def betas(kind: str, steps: int, start: float, end: float) -> np.ndarray:
    """Returns β_1 … β_T, float64 [T], of the kinds that the re-implementation of SR3 has.

    Args:
        kind: ``linear``; ``quad``, linear in √β; ``warmup10`` and ``warmup50``, linear for that
            percentage of the steps, then ``end``; ``const``, ``end`` alone; ``cosine``
            (arXiv:2102.09672 §3.2, β at most 0.999) and ``jsd``, 1/(T − t + 1), which have no ends.
        start: the first β.
        end: the last β.

    Raises:
        ValueError: an unknown kind, no step, or ends outside 0 … 1.
    """
    if kind not in KINDS:
        raise ValueError(f"schedule: expected one of {', '.join(KINDS)}, found {kind!r}")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, found {steps}")
    for name, value in (("beta_start", start), ("beta_end", end)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected above 0 and below 1, found {value:g}")
    if kind == "linear":
        return np.linspace(start, end, steps)
    if kind == "quad":
        return np.linspace(start**0.5, end**0.5, steps) ** 2
    if kind == "jsd":
        return 1 / np.linspace(steps, 1, steps)
    if kind == "cosine":
        offset = 0.008
        # Not normalised: only quotients of neighbours are used.
        shares = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
        return np.minimum(1 - shares[1:] / shares[:-1], 0.999)
    found = np.full(steps, end)
    if kind != "const":
        rising = steps * int(kind.removeprefix("warmup")) // 100
        found[:rising] = np.linspace(start, end, rising)
    return found


def gammas(kind: str, steps: int, start: float, end: float) -> np.ndarray:
    """Returns γ_0 = 1, γ_1, …, γ_T, float64 [T + 1]; see `betas`."""
    return np.concatenate([[1.0], np.cumprod(1 - betas(kind, steps, start, end))])


def respaced(gammas: np.ndarray, steps: int) -> np.ndarray:
    """Returns γ_0 and ``steps`` others of ``gammas`` [T + 1] at equal distances, γ_T the last.

    Raises:
        ValueError: ``steps`` is not 1 to T.
    """
    last = len(gammas) - 1
    if not 1 <= steps <= last:
        raise ValueError(f"steps: expected 1 to {last}, those of the schedule, found {steps}")
    found: np.ndarray = gammas[np.rint(np.linspace(0, last, steps + 1)).astype(int)]
    return found


def fitting_end(kind: str, steps: int, start: float, gamma: float) -> float:
    """Returns the β_T with which a schedule of ``steps`` ends at γ_T = ``gamma``, to 1e-6 of it.

    Fewer steps need a larger one. Not for `ENDLESS` kinds.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        # γ_T falls as β_T rises.
        if gammas(kind, steps, start, middle)[-1] > gamma:
            low = middle
        else:
            high = middle
    return high


def check_end(gammas: np.ndarray, what: str) -> None:
    """Raises ValueError if a schedule does not end in noise, or ends beyond float32's reach."""
    end = gammas[-1]
    if end > LARGEST_END:
        raise ValueError(
            f"{what} ends at γ {end:.2g}, which is no noise to sample from;"
            f" expected at most {LARGEST_END:g}"
        )
    if end < SMALLEST_END:
        raise ValueError(f"{what} ends at γ {end:.2g}; expected at least {SMALLEST_END:g}")
