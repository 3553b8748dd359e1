"""PatchGAN discriminator (Isola et al. 2017; taming-transformers' variant)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image
from maskgit_sr.models.layers import Conv, Feature


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminator.

    Attributes:
        filters: width of the first layer.
        layers: convolutions of stride 2.
    """

    filters: int = 64
    layers: int = 3


class BatchNorm(nnx.Module):
    """Normalises by the statistics of the whole global batch and keeps nothing between steps."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, eps: float = 1e-5):
        self.eps = eps
        self.scale = nnx.Param(1.0 + 0.02 * jax.random.normal(rngs.params(), (channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Feature) -> Feature:
        y = x.astype(jnp.float32)
        y = y - y.mean((0, 1, 2))
        y = y * jax.lax.rsqrt(jnp.square(y).mean((0, 1, 2)) + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class PatchDiscriminator(nnx.Module):
    """Image [B, H, W, 3] → realness logits of overlapping patches [B, h', w', 1], float32."""

    def __init__(self, config: DiscriminatorConfig, *, dtype: Any, rngs: nnx.Rngs):
        def conv(inputs: int, outputs: int, stride: int, bias: bool) -> Conv:
            return Conv(
                inputs,
                outputs,
                4,
                stride=stride,
                padding=(1, 1),
                bias=bias,
                std=0.02,
                dtype=dtype,
                rngs=rngs,
            )

        widths = [config.filters * min(2**i, 8) for i in range(config.layers + 1)]
        convs = [conv(3, widths[0], 2, True)]
        for i in range(1, len(widths)):
            convs.append(conv(widths[i - 1], widths[i], 2 if i < config.layers else 1, False))
        convs.append(conv(widths[-1], 1, 1, True))
        self.convs = nnx.List(convs)
        self.norms = nnx.List([BatchNorm(w, rngs=rngs) for w in widths[1:]])

    def __call__(self, image: Image) -> Float[Array, "B h w 1"]:
        x = jax.nn.leaky_relu(self.convs[0](image), 0.2)
        for conv, norm in zip(list(self.convs)[1:-1], self.norms, strict=True):
            x = jax.nn.leaky_relu(norm(conv(x)), 0.2)
        return self.convs[-1](x).astype(jnp.float32)
