"""Random weights for measuring speed, which does not depend on their values."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def random(shapes: Any, seed: int = 0) -> Any:
    """A tree of float32 arrays of those shapes, on the device, that keeps signals finite.

    Drawn on the host: to compile the networks' own initialisers takes longer than to run them.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> jax.Array:
        if leaf.ndim < 2:  # scales of norms, and biases, which may be anything
            return jnp.asarray(rng.uniform(0.5, 1.0, leaf.shape), jnp.float32)
        deviation = np.float32(math.prod(leaf.shape[:-1]) ** -0.5)
        return jnp.asarray(deviation * rng.standard_normal(leaf.shape, np.float32))

    return jax.tree.map(draw, shapes)
