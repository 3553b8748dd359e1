"""Layers that generator and critic of SRMAP share."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.models.layers import Feature, conv3x3_valid
from maskgit_sr.ops.resample import pad_reflect

ACTIVATION_GAIN = math.sqrt(2)
"""Gain of the initial kernels before an activation; 1 before a sum, 0 at the end of a branch."""


class Conv(nnx.Module):
    """1×1 or 3×3 convolution without bias, reflected at the border; kernels N(0, gain²/fan_in)."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, gain: float, dtype: Any, rngs: nnx.Rngs
    ):
        shape = (size, size, inputs, outputs)
        deviation = gain / math.sqrt(size * size * inputs)
        # Nothing is drawn for zeros: half of the kernels begin as such.
        kernel = deviation * jax.random.normal(rngs.params(), shape) if gain else jnp.zeros(shape)
        self.kernel, self.dtype = nnx.Param(kernel), dtype

    def __call__(self, x: Feature) -> Feature:
        kernel = self.kernel[...].astype(self.dtype)
        x = x.astype(self.dtype)
        if kernel.shape[0] == 1:
            # A product: the convolutions of CPUs are slower.
            return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0])
        return conv3x3_valid(pad_reflect(x), kernel)


class Activation(nnx.Module):
    """SiLU(x + bias), a learned bias of each channel, 0 at first."""

    def __init__(self, channels: int):
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        bias = self.bias[...].astype(x.dtype)
        return jax.nn.silu(x + bias.reshape((1,) * (x.ndim - 1) + bias.shape))
