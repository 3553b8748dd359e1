"""Conditional controlling module: LR features control the decoding of HR tokens (RealSRT §3.3)."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from maskgit_sr.arrays import Image, Latent, Params
from maskgit_sr.models.layers import AttentionBlock, Feature, ResidualBlock, conv
from maskgit_sr.models.vqgan import Decoder, Encoder, VQGANConfig
from maskgit_sr.ops.filters import gaussian_blur, unsharp_mask, without_grid

_ZEROS = nnx.initializers.zeros_init()


class Control(nnx.Module):
    """A trainable copy of the tokenizer's encoder, a fusion block and a zero convolution.

    A fresh module changes nothing: its last convolution is zero.
    """

    def __init__(self, config: VQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        width = 2 * config.code_width
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs, remat=remat)
        self.fuse_in = ResidualBlock(width, width, groups=config.groups, dtype=dtype, rngs=rngs)
        self.attention = AttentionBlock(width, groups=config.groups, dtype=dtype, rngs=rngs)
        self.fuse_out = ResidualBlock(width, width, groups=config.groups, dtype=dtype, rngs=rngs)
        self.zero = conv(width, config.code_width, 1, kernel_init=_ZEROS, dtype=dtype, rngs=rngs)

    def features(self, latent: Latent, upsampled: Image) -> Feature:
        """Returns the fused features [B, h, w, 2C] of both inputs."""
        return self.fuse(latent, self.encoder(upsampled))

    def fuse(self, latent: Latent, encoded: Latent) -> Feature:
        """Returns the features [B, h, w, 2C], given the encoder's output for the LR image."""
        x = jnp.concatenate([latent.astype(encoded.dtype), encoded], axis=-1)
        return self.fuse_out(self.attention(self.fuse_in(x)))

    def __call__(self, latent: Latent, upsampled: Image) -> Latent:
        """Returns the decoder's input with the learned residual added."""
        return latent + self.zero(self.features(latent, upsampled))


class MultiscaleControl(nnx.Module):
    """Controls every resolution of the decoder and predicts a residual on the LR image.

    In the published module everything known of the LR image passes the tokens' resolution, 1/f of
    the image's, and the decoder draws the whole image from it, which takes a wide decoder and long
    training. This module has a decoder of its own: features of its encoder are added to each finer
    level through zero convolutions, and its output is added to the upsampled LR image. A fresh
    module returns that image, or its unsharp mask of the amount ``sharpen``: photographs that need
    restoration are blurred, and undoing a common blur need not be learned. The decoder draws
    patch² pixels at once; patterns of that period are removed from its output. The output is also
    blurred by a Gaussian of sigma ``soften`` HR pixels: photographs at a camera's own resolution
    have little at the finest frequencies, where perceptual losses tolerate dots and stairs.
    """

    def __init__(
        self,
        config: VQGANConfig,
        *,
        sharpen: float = 0.0,
        soften: float = 0.0,
        dtype: Any,
        rngs: nnx.Rngs,
        remat: bool = False,
    ):
        self.sharpen, self.soften = sharpen, soften
        run = dict(dtype=dtype, rngs=rngs)
        self.residual = Control(config, remat=remat, **run)
        self.decoder = Decoder(config, remat=remat, **run)
        widths = config.channels
        self.skips = nnx.List(
            conv(width, width if config.narrow_up else wider, 1, kernel_init=_ZEROS, **run)
            for width, wider in itertools.pairwise(widths)
        )

    def body(self, latent: Latent, upsampled: Image) -> Feature:
        """Returns the last convolution's input [B, H/patch, W/patch, C of the finest level]."""
        *finer, features = self.residual.encoder.levels(upsampled)
        skips = [skip(level) for skip, level in zip(self.skips, finer, strict=True)]
        latent = latent + self.residual.zero(self.residual.fuse(latent, features))
        # The encoder's levels come finest first; the decoder begins at the coarsest.
        return self.decoder.body(latent, skips[::-1])

    def head(self, features: Feature, upsampled: Image) -> Image:
        """Returns the sharpened LR image plus the decoder's output, grid removed and softened."""
        start = unsharp_mask(upsampled, self.sharpen) if self.sharpen else upsampled
        # LPIPS reads a grid of the blocks' period as texture and rewards it (docs/training_log.md).
        drawn = without_grid(self.decoder.head(features), self.decoder.patch)
        return start + (gaussian_blur(drawn, self.soften) if self.soften else drawn)

    def __call__(self, latent: Latent, upsampled: Image) -> Image:
        """Returns the restored image, not clipped; ``latent`` is the tokens', [B, h, w, C]."""
        return self.head(self.body(latent, upsampled), upsampled)


def start(control: Params, tokenizer: Params) -> Params:
    """Returns fresh parameters of `Control` with a copy of the tokenizer's encoder (§3.3)."""
    # A copy, because the trained state's buffers are donated and the tokenizer's must stay.
    return control | {"encoder": jax.tree.map(jnp.copy, tokenizer["encoder"])}


def start_multiscale(control: Params) -> Params:
    """Returns fresh parameters of `MultiscaleControl` with a zero last convolution: no residual."""
    decoder = control["decoder"]
    last = jax.tree.map(jnp.zeros_like, decoder["conv_out"])
    return control | {"decoder": decoder | {"conv_out": last}}


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
