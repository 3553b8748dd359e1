"""The conditional controlling module: LR features steer decoding of HR tokens (RealSRT §3.3)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx

from maskgit_sr.arrays import Image, Latent
from maskgit_sr.models.layers import AttentionBlock, Conv, Feature, ResidualBlock
from maskgit_sr.models.vqgan import Encoder, VQGANConfig


class Control(nnx.Module):
    """A trainable copy of the tokenizer's encoder, a fusion block and a zero convolution.

    The zero convolution makes a fresh module change nothing.
    """

    def __init__(self, config: VQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        width = 2 * config.code_width
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs, remat=remat)
        self.fuse_in = ResidualBlock(width, width, groups=config.groups, dtype=dtype, rngs=rngs)
        self.attention = AttentionBlock(width, groups=config.groups, dtype=dtype, rngs=rngs)
        self.fuse_out = ResidualBlock(width, width, groups=config.groups, dtype=dtype, rngs=rngs)
        self.zero = Conv(width, config.code_width, 1, zero=True, dtype=dtype, rngs=rngs)

    def features(self, latent: Latent, upsampled: Image) -> Feature:
        """Fused features [B, h, w, 2C] of the decoder's input and the upsampled LR image."""
        x = self.encoder(upsampled)
        x = jnp.concatenate([latent.astype(x.dtype), x], axis=-1)
        return self.fuse_out(self.attention(self.fuse_in(x)))

    def __call__(self, latent: Latent, upsampled: Image) -> Latent:
        """The decoder's input with the learned residual added."""
        return latent + self.zero(self.features(latent, upsampled))
