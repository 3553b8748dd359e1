"""The conditional controlling module: LR features steer decoding of HR tokens (RealSRT §3.3)."""

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

    The zero convolution makes a fresh module change nothing.
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
        """Returns the same features, given the encoder's output for that LR image."""
        x = jnp.concatenate([latent.astype(encoded.dtype), encoded], axis=-1)
        return self.fuse_out(self.attention(self.fuse_in(x)))

    def __call__(self, latent: Latent, upsampled: Image) -> Latent:
        """Returns the decoder's input with the learned residual added."""
        return latent + self.zero(self.features(latent, upsampled))


class MultiscaleControl(nnx.Module):
    """Steers at every resolution of the decoder, and redraws only what the LR image lacks.

    In the published module all that the LR image knows passes the tokens' resolution, 1/f of the
    image's, and the decoder draws the image anew from it. A wide decoder that was trained for
    long can do that. Here the module also has a decoder of its own, to whose features at each
    finer level those of its encoder are added through zero convolutions, and whose output is added
    to the upsampled LR image. A fresh one returns that image, or its unsharp mask of the amount
    ``sharpen``: photographs that need restoring are blurred, and what undoes a common blur need not
    be learned. The decoder draws patch² pixels at once; what repeats with that period is taken out
    of its output. A Gaussian of sigma ``soften`` pixels goes over it as well: photographs at a
    camera's own pixels have little at the finest frequencies, where a perceptual loss lets dots and
    stairs stand.
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
        return self.decoder.body(latent, skips[::-1])

    def head(self, features: Feature, upsampled: Image) -> Image:
        """Returns the sharpened LR image plus the decoder's output, grid removed and softened."""
        start = unsharp_mask(upsampled, self.sharpen) if self.sharpen else upsampled
        drawn = without_grid(self.decoder.head(features), self.decoder.patch)
        return start + (gaussian_blur(drawn, self.soften) if self.soften else drawn)

    def __call__(self, latent: Latent, upsampled: Image) -> Image:
        """Returns the restored image, not clipped; ``latent`` is the tokens', [B, h, w, C]."""
        return self.head(self.body(latent, upsampled), upsampled)


def start(control: Params, tokenizer: Params) -> Params:
    """Returns fresh parameters of `Control` with a copy of the tokenizer's encoder (§3.3)."""
    return control | {"encoder": jax.tree.map(jnp.copy, tokenizer["encoder"])}


def start_multiscale(control: Params) -> Params:
    """Returns fresh parameters of `MultiscaleControl`, the decoder's last convolution at zero."""
    decoder = control["decoder"]
    last = jax.tree.map(jnp.zeros_like, decoder["conv_out"])
    return control | {"decoder": decoder | {"conv_out": last}}


def start_tuned(control: Params, tokenizer: Params) -> Params:
    """`start` for a stage that trains the tokenizer's decoder too.

    The published start adds nothing to the tokens' latent. This one replaces that latent with the
    autoencoder's own of the LR image: fusion blocks pass through, and the last convolution is −1 on
    the latent and quant_conv followed by post_quant_conv on the encoder's features. From there it
    learns what the tokens are worth.
    """
    control = start(control, tokenizer)
    first, second = tokenizer["quant_conv"], tokenizer["post_quant_conv"]
    through = first["kernel"][0, 0] @ second["kernel"][0, 0]
    kernel = jnp.concatenate([-jnp.eye(through.shape[0]), through])[None, None]
    bias = first["bias"] @ second["kernel"][0, 0] + second["bias"]
    control["zero"] = {"kernel": kernel, "bias": bias}
    for block, layer in (("fuse_in", "conv2"), ("attention", "out"), ("fuse_out", "conv2")):
        nothing = jax.tree.map(jnp.zeros_like, control[block][layer])
        control[block] = control[block] | {layer: nothing}
    return control
