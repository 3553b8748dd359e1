"""Conditional controlling module: LR features control the decoding of HR tokens (RealSRT §3.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from maskgit_sr.arrays import Image, Latent, Params
from maskgit_sr.models.layers import AttentionBlock, Feature, ResidualBlock, conv
from maskgit_sr.models.maskgit_vqgan import MaskGITVQGANConfig
from maskgit_sr.models.vqgan import Encoder, VQGANConfig

_ZEROS = nnx.initializers.zeros_init()


class Control(nnx.Module):
    """A trainable copy of the tokenizer's encoder, a fusion block and a zero convolution.

    A fresh module changes nothing: its last convolution is zero.

    Args:
        config: shape of the tokenizer.
        encoder: class of the tokenizer's encoder.
    """

    def __init__(
        self,
        config: VQGANConfig | MaskGITVQGANConfig,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        remat: bool = False,
        encoder: Callable[..., Any] = Encoder,
    ):
        width = 2 * config.code_width
        self.encoder = encoder(config, dtype=dtype, rngs=rngs, remat=remat)
        self.fuse_in = ResidualBlock(width, width, groups=config.groups, dtype=dtype, rngs=rngs)
        self.attention = AttentionBlock(width, groups=config.groups, dtype=dtype, rngs=rngs)
        self.fuse_out = ResidualBlock(width, width, groups=config.groups, dtype=dtype, rngs=rngs)
        self.zero = conv(width, config.code_width, 1, kernel_init=_ZEROS, dtype=dtype, rngs=rngs)

    def features(self, latent: Latent, upsampled: Image) -> Feature:
        """Returns the fused features [B, h, w, 2C] of both inputs."""
        encoded = self.encoder(upsampled)
        x = jnp.concatenate([latent.astype(encoded.dtype), encoded], axis=-1)
        return self.fuse_out(self.attention(self.fuse_in(x)))

    def __call__(self, latent: Latent, upsampled: Image) -> Latent:
        """Returns the decoder's input with the learned residual added."""
        return latent + self.zero(self.features(latent, upsampled))


def start(control: Params, tokenizer: Params) -> Params:
    """Returns fresh parameters of `Control` with a copy of the tokenizer's encoder (§3.3)."""
    # A copy, because the trained state's buffers are donated and the tokenizer's must stay.
    return control | {"encoder": jax.tree.map(jnp.copy, tokenizer["encoder"])}


def start_tuned(control: Params, tokenizer: Params) -> Params:
    """Returns parameters like `start`'s for a stage that also trains the tokenizer's decoder.

    The published start adds nothing to the tokens' latent. This one replaces that latent by the
    autoencoder's latent of the LR image: fusion blocks are the identity, and the last convolution
    is −1 on the latent and quant_conv followed by post_quant_conv on the encoder's features. From
    there the module learns how far to trust the tokens.
    """
    control = start(control, tokenizer)
    first, second = tokenizer["quant_conv"], tokenizer["post_quant_conv"]
    # Convolutions of 1×1 compose like matrices.
    through = first["kernel"][0, 0] @ second["kernel"][0, 0]
    kernel = jnp.concatenate([-jnp.eye(through.shape[0]), through])[None, None]
    bias = first["bias"] @ second["kernel"][0, 0] + second["bias"]
    control["zero"] = {"kernel": kernel, "bias": bias}
    # A residual block whose last layer is zero is the identity.
    for block, layer in (("fuse_in", "conv2"), ("attention", "out"), ("fuse_out", "conv2")):
        nothing = jax.tree.map(jnp.zeros_like, control[block][layer])
        control[block] = control[block] | {layer: nothing}
    return control
