"""Dimension letters, array aliases and the precision policy, used in every annotation.

Letters: ``B`` batch, ``H W`` image height and width, ``h w`` token grid, ``N = h·w`` tokens,
``K`` codebook size, ``C`` code width, ``D`` model width, ``T`` decoding steps.
Images are RGB float in [0, 1], channels last, unless a docstring says otherwise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Image = Float[Array, "B H W 3"]
Latent = Float[Array, "B h w C"]
TokenGrid = Int[Array, "B h w"]
Tokens = Int[Array, "B N"]
TokenMask = Bool[Array, "B N"]
TokenLogits = Float[Array, "B N K"]
Confidence = Float[Array, "B N"]
Scalar = Float[Array, ""]
Keys = Key[Array, "B"]
Params = dict[str, Any]
"""A nested dict with string keys whose leaves are arrays."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """Settings of execution; no part of a bundle, since they do not change what a network is.

    Attributes:
        dtype: compute dtype of the layers. Parameters, logits, softmax, normalisation statistics,
            losses and codebook distances stay float32 whatever it is; the modules cast themselves.
        remat: rematerialisation: the backward pass recomputes each block from its input instead of
            keeping its activations.
    """

    dtype: Any = jnp.float32
    remat: bool = False


def default_compute_dtype(platform: str | None = None) -> Any:
    """Returns bfloat16 where the hardware multiplies it natively (TPU, GPU), float32 on CPU."""
    platform = platform or jax.default_backend()
    return jnp.float32 if platform == "cpu" else jnp.bfloat16


def parse_dtype(name: str | None, platform: str | None = None) -> Any:
    """Returns the dtype called ``"float32"`` or ``"bfloat16"``; None: the platform's default.

    Raises:
        ValueError: any other name.
    """
    if name is None:
        return default_compute_dtype(platform)
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"dtype: expected float32 or bfloat16, found {name!r}")
    return jnp.dtype(name)
