"""PatchGAN discriminator (Isola et al. 2017; taming-transformers' variant)."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image
from maskgit_sr.models.fields import Count, Width
from maskgit_sr.models.layers import conv


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminator.

    Attributes:
        filters: width of the first layer.
        layers: number of convolutions of stride 2.
        norms: batch norms between the convolutions. Without them an image's logits do not depend
            on its neighbours, which a gradient penalty needs.
    """

    filters: Width = 64
    layers: Count = 3
    norms: bool = True


_conv_init = nnx.initializers.normal(0.02)


def _scale_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def batch_norm(channels: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Returns a batch norm by the statistics of the whole global batch, float32.

    `nnx.BatchNorm` also keeps running averages, which are state beside the parameters, and which a
    discriminator never uses: it runs in training only. Without them, batch norm is a layer norm
    over batch and positions.
    """
    return nnx.LayerNorm(
        channels,
        reduction_axes=(0, 1, 2),
        epsilon=1e-5,
        use_fast_variance=False,  # E[x²] − E[x]² loses digits where the mean is large
        scale_init=_scale_init,
        dtype=jnp.float32,
        rngs=rngs,
    )


class PatchDiscriminator(nnx.Module):
    """PatchGAN: float32 logits [B, h', w', 1] of overlapping patches of an image [B, H, W, 3]."""

    def __init__(self, config: DiscriminatorConfig, *, dtype: Any, rngs: nnx.Rngs):
        make = partial(conv, size=4, padding=1, kernel_init=_conv_init, dtype=dtype, rngs=rngs)
        widths = [config.filters * min(2**i, 8) for i in range(config.layers + 1)]
        convs = [make(3, widths[0], strides=2)]
        for i, (narrow, wide) in enumerate(itertools.pairwise(widths), start=1):
            strides = 2 if i < config.layers else 1
            # The batch norm after it would subtract a bias again.
            convs.append(make(narrow, wide, strides=strides, use_bias=not config.norms))
        convs.append(make(widths[-1], 1))
        self.convs = nnx.List(convs)
        normed = widths[1:] if config.norms else []
        self.norms = nnx.List([batch_norm(w, rngs=rngs) for w in normed])

    def __call__(self, image: Image) -> Float[Array, "B h w 1"]:
        x = jax.nn.leaky_relu(self.convs[0](image), 0.2)
        for i, layer in enumerate(list(self.convs)[1:-1]):
            x = layer(x)
            x = jax.nn.leaky_relu(self.norms[i](x) if self.norms else x, 0.2)
        return self.convs[-1](x).astype(jnp.float32)  # losses are float32
