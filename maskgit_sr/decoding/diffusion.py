"""Samplers of diffusion models as one loop over a table of coefficients.

Every step is y_{t−1} = a·y_t + b·ŷ + c·ŷ_{t+1} + d·z, where ŷ is the estimate of the clean image at
step t, ŷ_{t+1} that of the step before and z noise. Samplers differ in their coefficients alone,
which `table` computes in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SAMPLERS = ("ancestral", "ddim", "dpm")
VARIANCES = ("large", "small")

Image = Float[Array, "B H W C"]
Denoise = Callable[[Image, jax.Array], Image]
"""(y_t, index of the step from 0, the noisiest) → estimate of the noise in y_t, float32."""


class Table(NamedTuple):
    """Coefficients of every step, noisiest first.

    Attributes:
        levels: √γ_t, what the network is told of a step; float32 [T].
        steps: float32 [T, 6]: 1/√γ_t and √(1/γ_t − 1), by which ŷ follows from the noise; then
            a, b, c, d.
    """

    levels: np.ndarray
    steps: np.ndarray


def table(gammas: np.ndarray, sampler: str, *, variance: str = "large", eta: float = 0.0) -> Table:
    """Returns the coefficients of a sampler.

    Args:
        gammas: γ_0 = 1, γ_1, …, γ_T, float64, falling.
        sampler: ``ancestral`` (SR3, Algorithm 2), ``ddim`` (arXiv:2010.02502 §4.1) or ``dpm``
            (DPM-Solver++(2M), arXiv:2211.01095, Algorithm 2, of first order in its last step).
        variance: of ``ancestral``: ``large``, 1 − α_t, or ``small``, that of the posterior.
        eta: of ``ddim``: 0 draws no noise, 1 as much as the posterior has.

    Raises:
        ValueError: an unknown sampler or variance.
    """
    for name, value, known in (("sampler", sampler, SAMPLERS), ("variance", variance, VARIANCES)):
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
    now, after = gammas[:0:-1], gammas[-2::-1]  # γ_t and γ_{t−1}
    alpha = now / after
    left, right = 1 - now, 1 - after
    c = np.zeros(len(now))
    if sampler == "ancestral":
        a, b = np.sqrt(alpha) * right / left, (1 - alpha) * np.sqrt(after) / left
        small = (1 - alpha) * right / left
        d = np.sqrt(1 - alpha if variance == "large" else small)
    elif sampler == "ddim":
        drawn = eta**2 * (1 - alpha) * right / left
        # √(1 − γ_{t−1} − σ²) of the noise's direction (y_t − √γ_t ŷ) / √(1 − γ_t).
        a = np.sqrt(np.maximum(right - drawn, 0) / left)
        b, d = np.sqrt(after) - a * np.sqrt(now), np.sqrt(drawn)
    else:
        a = np.sqrt(right / left)
        b = np.sqrt(after) - a * np.sqrt(now)  # −√γ_{t−1}·(e^{−h} − 1)
        d = np.zeros(len(now))
        # λ, half the logarithm of the signal-to-noise ratio; infinite at γ_0.
        known = np.log(gammas[1:] / (1 - gammas[1:]))[::-1] / 2
        # Neither the first step, before which there is nothing, nor the last, where h is infinite.
        h = np.diff(known)
        share = h[1:] / (2 * h[:-1])
        b[1:-1], c[1:-1] = b[1:-1] * (1 + share), -b[1:-1] * share
    d[-1] = 0  # the last step draws nothing
    columns = [1 / np.sqrt(now), np.sqrt(1 / now - 1), a, b, c, d]
    return Table(np.sqrt(now).astype(np.float32), np.stack(columns, 1).astype(np.float32))


def sample(
    denoise: Denoise,
    noise: Callable[[jax.Array], Image],
    table: Table,
    project: Callable[[Image, jax.Array], Image] = lambda clean, step: clean,
) -> Image:
    """Returns the clean image of the last step, float32 [B, H, W, C].

    Args:
        denoise: the network; what does not depend on y belongs into its closure, computed once.
        noise: index from 0 to T → standard normal [B, H, W, C]; 0 is what sampling starts from,
            k + 1 what step k adds.
        project: (ŷ, step) → ŷ as the sampler is to take it, such as clipped.
    """
    steps = jnp.asarray(table.steps)
    drawn = bool((table.steps[:, 5] > 0).any())
    start = noise(jnp.int32(0))

    def body(step: jax.Array, carry: tuple[Image, Image]) -> tuple[Image, Image]:
        y, before = carry
        scale, share, a, b, c, d = steps[step]
        clean = project(scale * y - share * denoise(y, step), step)
        y = a * y + b * clean + c * before
        if drawn:
            y += d * noise(step + 1)
        return y, clean

    found: tuple[Image, Image] = jax.lax.fori_loop(
        0, len(steps), body, (start, jnp.zeros_like(start))
    )
    return found[0]
