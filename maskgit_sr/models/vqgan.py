"""Convolutional tokenizer: encoder, decoder and the 1×1 convolutions around the codebook."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from maskgit_sr.arrays import Image, Latent
from maskgit_sr.models.fields import Count, Side, Width, short
from maskgit_sr.models.layers import (
    Downsample,
    Feature,
    ResidualBlock,
    Upsample,
    conv,
    make_norm,
    run_layer,
)
from maskgit_sr.ops.resize import depth_to_space, space_to_depth


@dataclasses.dataclass(frozen=True)
class VQGANConfig:
    """Shape of the tokenizer. The defaults are RealSRT's published network (20.1 M parameters).

    Attributes:
        channels: width of each level, finest first; the number of levels sets the downsampling.
        patch: side of the pixel block folded into channels before the first level (1: none).
        encoder_blocks, decoder_blocks: residual blocks per level.
        encoder_bottom, decoder_bottom: additional residual blocks at the coarsest resolution.
        code_width: C, width of a code vector.
        codes: K, codebook size.
        narrow_up: upsampling convolutions change to the next level's width instead of keeping it.
        groups: number of groups of the group norms (0: no norms).
    """

    channels: tuple[Width, ...] = (128, 128, 256, 256)
    patch: Side = 1
    encoder_blocks: Count = 2
    decoder_blocks: Count = 2
    encoder_bottom: Count = 2
    decoder_bottom: Count = 2
    code_width: Width = 256
    codes: Width = 512
    narrow_up: bool = False
    groups: Count = 32

    def __post_init__(self) -> None:
        """Raises ValueError for no level, or a width that the groups do not divide."""
        if not self.channels:
            raise ValueError("tokenizer.channels: expected at least one level, found none")
        # The controlling module norms code vectors of two images.
        widths = (*self.channels, 2 * self.code_width)
        if self.groups and any(width % self.groups for width in widths):
            raise ValueError(
                f"tokenizer.groups: expected a divisor of {short(widths)}, found {self.groups}"
            )

    @property
    def arrays(self) -> int:
        """Returns the least number of arrays; shortcuts of blocks are not counted."""
        levels = len(self.channels)
        blocks = levels * (self.encoder_blocks + self.decoder_blocks)
        blocks += self.encoder_bottom + self.decoder_bottom
        # A convolution has two arrays: two in a block, one between levels, six at the ends.
        return blocks * (8 if self.groups else 4) + 4 * (levels - 1) + 12

    @property
    def factor(self) -> int:
        """Returns f: image side over token grid side."""
        return self.patch * 2 ** (len(self.channels) - 1)


class Encoder(nnx.Module):
    """Encoder of images [B, H, W, 3] to features [B, H/f, W/f, C]."""

    def __init__(self, config: VQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        block = partial(ResidualBlock, groups=config.groups, dtype=dtype, rngs=rngs)
        self.patch, self.remat = config.patch, remat
        widths = config.channels
        layers: list[Any] = []
        width = widths[0]
        self.conv_in = conv(3 * config.patch**2, width, dtype=dtype, rngs=rngs)
        for level, channels in enumerate(widths):
            for _ in range(config.encoder_blocks):
                layers.append(block(width, channels))
                width = channels
            if level < len(widths) - 1:
                layers.append(Downsample(width, dtype=dtype, rngs=rngs))
        layers += [block(width, width) for _ in range(config.encoder_bottom)]
        self.layers = nnx.List(layers)
        self.norm_out = make_norm(width, config.groups)
        self.conv_out = conv(width, config.code_width, dtype=dtype, rngs=rngs)

    def __call__(self, image: Image) -> Latent:
        x = self.conv_in(space_to_depth(image, self.patch))
        for layer in self.layers:
            x = run_layer(layer, x, remat=self.remat)
        return self.conv_out(jax.nn.swish(self.norm_out(x)))


class Decoder(nnx.Module):
    """Decoder of features [B, h, w, C] to images [B, h·f, w·f, 3], float32, not clipped."""

    def __init__(self, config: VQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        block = partial(ResidualBlock, groups=config.groups, dtype=dtype, rngs=rngs)
        self.patch, self.remat = config.patch, remat
        widths = config.channels
        width = widths[-1]
        self.conv_in = conv(config.code_width, width, dtype=dtype, rngs=rngs)
        layers: list[Any] = [block(width, width) for _ in range(config.decoder_bottom)]
        for level in reversed(range(len(widths))):
            for _ in range(config.decoder_blocks):
                layers.append(block(width, widths[level]))
                width = widths[level]
            if level > 0:
                wide, width = width, widths[level - 1] if config.narrow_up else width
                layers.append(Upsample(wide, width, dtype=dtype, rngs=rngs))
        self.layers = nnx.List(layers)
        self.norm_out = make_norm(width, config.groups)
        self.conv_out = conv(width, 3 * config.patch**2, dtype=dtype, rngs=rngs)

    def body(self, latent: Latent) -> Feature:
        """Returns the last convolution's input."""
        x = self.conv_in(latent)
        for layer in self.layers:
            x = run_layer(layer, x, remat=self.remat)
        return jax.nn.swish(self.norm_out(x))

    def head(self, features: Feature) -> Image:
        """Applies the last convolution, whose gradient sets the adaptive adversarial weight."""
        # Float32: bfloat16 steps near 1 are as coarse as the grey levels of 8 bits.
        return depth_to_space(self.conv_out(features).astype(jnp.float32), self.patch)

    def __call__(self, latent: Latent) -> Image:
        return self.head(self.body(latent))


class VQGAN(nnx.Module):
    """Encoder and decoder; the codebook between them is plain arrays, not trained by gradients."""

    def __init__(self, config: VQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        width = config.code_width
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs, remat=remat)
        self.quant_conv = conv(width, width, 1, dtype=dtype, rngs=rngs)
        self.post_quant_conv = conv(width, width, 1, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs, remat=remat)

    def encode(self, image: Image) -> Latent:
        """Returns the vectors to be quantized, float32 [B, h, w, C]."""
        # Float32 whatever the compute dtype, for distances to the codes.
        return self.quant_conv(self.encoder(image)).astype(jnp.float32)

    def latent(self, vectors: Latent) -> Latent:
        """Returns the decoder's input, to which the controlling module adds its residual."""
        return self.post_quant_conv(vectors)

    def decode(self, vectors: Latent) -> Image:
        """Returns the image [B, h·f, w·f, 3] of code vectors [B, h, w, C]."""
        return self.decoder(self.latent(vectors))
