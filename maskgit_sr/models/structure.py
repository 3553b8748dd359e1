"""Structure path: a plain convolutional network at the resolution of the LR image.

The compact network of Real-ESRGAN's general models (Wang et al., ICCVW 2021, released code:
convolutions of one width with PReLU, sub-pixel output, nearest skip), with every second
convolution residual, so that it can be added to a trained network without changing its output.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image
from maskgit_sr.models.fields import Count, Scale, Width
from maskgit_sr.models.layers import Feature, convolve3x3
from maskgit_sr.ops.resize import depth_to_space, upsample_nearest
from maskgit_sr.ops.strips import Spread, Strip

Strength = Float[Array, "B"]
Vector = Float[Array, "C"]


@dataclasses.dataclass(frozen=True)
class StructureConfig:
    """Shape of the network.

    Attributes:
        scale: output side over input side.
        width: channels of every convolution but the last.
        depth: blocks, each of a plain and a residual convolution.
    """

    scale: Scale = 4
    width: Width = 64
    depth: Count = 16


class Convolutions(nnx.Module):
    """Parameters of `count` convolutions with PReLU, stacked, so that a scan compiles one layer.

    ``keep`` is what a strength of 0 adds to a convolution's bias; at the strength 1 it has no part.
    """

    def __init__(self, count: int, inputs: int, outputs: int, *, zero: bool, rngs: nnx.Rngs):
        shape = (count, 3, 3, inputs, outputs)
        # He et al. 2015, for a leaky slope of 0.25.
        deviation = (2 / (9 * inputs * (1 + 0.25**2))) ** 0.5
        kernel = 0.0 if zero else deviation * jax.random.normal(rngs.params(), shape)
        self.kernel = nnx.Param(jnp.broadcast_to(kernel, shape).astype(jnp.float32))
        self.bias = nnx.Param(jnp.zeros((count, outputs), jnp.float32))
        self.slope = nnx.Param(jnp.full((count, outputs), 0.25, jnp.float32))
        self.keep = nnx.Param(jnp.zeros((count, outputs), jnp.float32))

    def layers(self) -> dict[str, jax.Array]:
        """Returns the parameters by name, the first axis counting the layers."""
        names = ("kernel", "bias", "slope", "keep")
        return {name: getattr(self, name).get_value() for name in names}


@jax.custom_vjp
def activate(
    x: Feature,
    bias: Vector,
    keep: Vector,
    slope: Vector,
    weakness: Spread,
    inside: Spread,
) -> Feature:
    """Returns PReLU (He et al. 2015) of x + bias + weakness·keep, times ``inside``.

    Gradients of the three vectors are taken as matrix products, which CPUs do in a quarter of the
    time of sums over positions; none flows to the last two arguments, which broadcast against x.
    """
    return _activated(x, bias, keep, slope, weakness)[1] * inside


def _activated(
    x: Feature, bias: jax.Array, keep: jax.Array, slope: jax.Array, weakness: jax.Array
) -> tuple[Feature, Feature]:
    bias, keep, slope = (vector[None, None, None] for vector in (bias, keep, slope))
    drive = x + bias + weakness * keep
    return drive, jnp.maximum(drive, 0) + slope * jnp.minimum(drive, 0)


def _activate_forward(*arguments: jax.Array) -> tuple[Feature, tuple[jax.Array, ...]]:
    return activate(*arguments), arguments


def _activate_backward(saved: tuple[jax.Array, ...], grad: Feature) -> tuple[jax.Array | None, ...]:
    x, bias, keep, slope, weakness, inside = saved
    drive, _ = _activated(x, bias, keep, slope, weakness)
    grad = grad * inside
    driven = grad * jnp.where(drive > 0, 1.0, slope[None, None, None])
    # Held apart, because the products would compute them anew for every block.
    driven, bent = jax.lax.optimization_barrier((driven, grad * jnp.minimum(drive, 0)))
    ones = jnp.ones(x.shape[:-1])
    rows = jnp.stack([ones, jnp.broadcast_to(weakness[..., 0], ones.shape)]).reshape(2, -1)
    sums = rows @ driven.reshape(-1, driven.shape[-1])
    slopes = rows[:1] @ bent.reshape(-1, bent.shape[-1])
    return driven, sums[0], sums[1], slopes[0], None, None


activate.defvjp(_activate_forward, _activate_backward)


class Structure(nnx.Module):
    """The network; see the head of the module."""

    def __init__(self, config: StructureConfig, *, dtype: Any, remat: bool, rngs: nnx.Rngs):
        make = partial(Convolutions, rngs=rngs)
        width, self.scale = config.width, config.scale
        self.dtype, self.remat = dtype, remat
        self.head = make(1, 3, width, zero=False)
        self.plain = make(config.depth, width, width, zero=False)
        self.residual = make(config.depth, width, width, zero=True)
        kernel = (
            0.1
            / (9 * width) ** 0.5
            * jax.random.normal(rngs.params(), (3, 3, width, 3 * config.scale**2))
        )
        self.tail = nnx.Dict(
            kernel=nnx.Param(kernel), bias=nnx.Param(jnp.zeros(kernel.shape[-1], jnp.float32))
        )

    def __call__(self, lr: Image, strength: Strength, unroll: bool = False) -> Image:
        """Returns the restored image [B, s·H, s·W, 3], not clipped, of ``lr`` [B, H, W, 3]."""
        return self.draw(self.features(lr, strength, unroll), lr)

    def features(self, lr: Image, strength: Strength, unroll: bool = False) -> Feature:
        """Returns the input of the last convolution, as a `Strip`.

        Args:
            strength: how much noise, blocks and grain are removed, 0 to 1.
            unroll: compile every layer by itself. On CPUs the gradient of a loop takes three times
                as long as that of its layers one by one.
        """
        strip = Strip.of(lr)
        keep, inside = strip.spread(1 - strength), strip.inside()

        def layer(x: Feature, weights: dict[str, jax.Array]) -> Feature:
            x = convolve3x3(x, weights["kernel"].astype(self.dtype)).astype(jnp.float32)
            x = activate(x, weights["bias"], weights["keep"], weights["slope"], keep, inside)
            return x.astype(self.dtype)

        def block(x: Feature, weights: tuple[dict[str, jax.Array], ...]) -> tuple[Feature, None]:
            x = layer(x, weights[0])
            return x + layer(x, weights[1]), None

        head = jax.tree.map(lambda leaf: leaf[0], self.head.layers())
        x = layer(strip.fold(lr).astype(self.dtype), head)
        body = (self.plain.layers(), self.residual.layers())
        step = jax.checkpoint(block) if self.remat else block
        return jax.lax.scan(step, x, body, unroll=unroll)[0]

    def draw(self, features: Feature, lr: Image) -> Image:
        """Returns the image of :meth:`features`."""
        x = convolve3x3(features, self.tail.kernel.get_value().astype(self.dtype))
        # Added in float32: bfloat16 steps near 1 are as coarse as the grey levels of 8 bits.
        drawn = (
            Strip.of(lr).unfold(x).astype(jnp.float32)
            + self.tail.bias.get_value()[None, None, None]
        )
        return upsample_nearest(lr, self.scale) + depth_to_space(drawn, self.scale)
