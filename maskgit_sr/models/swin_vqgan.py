"""Swin-VQGAN, the tokenizer of ITER (Chen et al., AAAI 2024, appendix A)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax.numpy as jnp
from flax import nnx

from maskgit_sr.arrays import Image, Latent
from maskgit_sr.models.fields import Count, Range, Width, short
from maskgit_sr.models.layers import (
    Downsample,
    Feature,
    ResidualBlock,
    Upsample,
    conv,
    make_norm,
    run_layer,
)
from maskgit_sr.models.swin import SwinConfig, SwinStack


@dataclasses.dataclass(frozen=True)
class SwinVQGANConfig:
    """Shape of the tokenizer. The defaults are the published network (71.0 M parameters).

    Attributes:
        channels: width of each level, finest first; the number of levels sets the downsampling.
        blocks: residual blocks per level.
        swin: attention groups at the coarsest level, of encoder and decoder.
        code_width: C, width of a code vector.
        codes: K, codebook size.
        groups: number of groups of the group norms (0: no norms).

    Raises:
        ValueError: no level or too many, or a width that ``groups`` does not divide.
    """

    channels: tuple[Width, ...] = (128, 256, 256, 512)
    blocks: Annotated[int, Range(1, 64)] = 2
    swin: SwinConfig = SwinConfig()
    code_width: Width = 128
    codes: Width = 512
    groups: Count = 32

    def __post_init__(self) -> None:
        # At most 11, since no side of an image is a multiple of more than a window's 1,024 pixels.
        if not 1 <= len(self.channels) <= 11:
            found = len(self.channels)
            raise ValueError(f"tokenizer.channels: expected 1 to 11 levels, found {found}")
        if self.groups and any(width % self.groups for width in self.channels):
            raise ValueError(
                f"tokenizer.groups: expected a divisor of {short(self.channels)},"
                f" found {self.groups}"
            )

    @property
    def arrays(self) -> int:
        """Returns the least number of arrays; shortcuts of blocks are not counted."""
        levels = len(self.channels)
        blocks = 2 * (levels * self.blocks + 2) * (8 if self.groups else 4)
        return blocks + 2 * self.swin.arrays + 4 * (levels - 1) + 8 + (4 if self.groups else 0)

    @property
    def factor(self) -> int:
        """Returns f: image side over token grid side."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def window(self) -> int:
        """Returns the number that both sides of a token grid must be multiples of."""
        return self.swin.window


class SwinEncoder(nnx.Module):
    """Encoder of images [B, H, W, 3] to features [B, H/f, W/f, C].

    The layers are one list in the order of a pass, as in the released file.
    """

    def __init__(self, config: SwinVQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        self.remat = remat
        block = partial(ResidualBlock, groups=config.groups, dtype=dtype, rngs=rngs)
        width = config.channels[0]
        layers: list[Any] = [conv(3, width, dtype=dtype, rngs=rngs)]
        for level, channels in enumerate(config.channels):
            for _ in range(config.blocks):
                layers.append(block(width, channels))
                width = channels
            if level < len(config.channels) - 1:
                layers.append(Downsample(width, dtype=dtype, rngs=rngs))
        layers += _bottom(width, config, dtype=dtype, rngs=rngs, remat=remat)
        # The public network has no activation behind its last norm, and neither has ours.
        layers.append(make_norm(width, config.groups))
        layers.append(conv(width, config.code_width, dtype=dtype, rngs=rngs))
        self.blocks = nnx.List(layers)

    def __call__(self, image: Image) -> Latent:
        return _run(list(self.blocks), image, self.remat)


class SwinDecoder(nnx.Module):
    """Decoder of code vectors [B, h, w, C] to images [B, h·f, w·f, 3] in [−1, 1], not clipped."""

    def __init__(self, config: SwinVQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        self.remat = remat
        block = partial(ResidualBlock, groups=config.groups, dtype=dtype, rngs=rngs)
        width = config.channels[-1]
        layers: list[Any] = [conv(config.code_width, width, dtype=dtype, rngs=rngs)]
        layers += _bottom(width, config, dtype=dtype, rngs=rngs, remat=remat)
        for level in reversed(range(len(config.channels))):
            for _ in range(config.blocks):
                layers.append(block(width, config.channels[level]))
                width = config.channels[level]
            if level > 0:
                layers.append(Upsample(width, width, dtype=dtype, rngs=rngs))
        layers.append(make_norm(width, config.groups))
        layers.append(conv(width, 3, dtype=dtype, rngs=rngs))
        self.blocks = nnx.List(layers)

    def __call__(self, latent: Latent) -> Image:
        # Float32: bfloat16 steps near 1 are as coarse as the grey levels of 8 bits.
        return _run(list(self.blocks), latent, self.remat).astype(jnp.float32)


class SwinVQGAN(nnx.Module):
    """Encoder and decoder; the codebook between them is a group of its own."""

    def __init__(self, config: SwinVQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        self.encoder = SwinEncoder(config, dtype=dtype, rngs=rngs, remat=remat)
        self.decoder = SwinDecoder(config, dtype=dtype, rngs=rngs, remat=remat)

    def encode(self, image: Image) -> Latent:
        """Returns the vectors to be quantized, float32 [B, h, w, C], of an image in [0, 1]."""
        # Float32 whatever the compute dtype, for distances to the codes.
        return self.encoder(jnp.clip(image, 0, 1) * 2 - 1).astype(jnp.float32)

    def decode(self, vectors: Latent) -> Image:
        """Returns the image [B, h·f, w·f, 3] of code vectors, about [0, 1] and not clipped."""
        return (self.decoder(vectors) + 1) / 2


def _bottom(width: int, config: SwinVQGANConfig, remat: bool, **options: Any) -> list[Any]:
    """Returns the layers at the coarsest resolution: residual block, attention, residual block."""
    block = partial(ResidualBlock, width, width, groups=config.groups, **options)
    return [block(), SwinStack(width, config.swin, remat=remat, **options), block()]


def _run(layers: list[Any], x: Feature, remat: bool) -> Feature:
    for layer in layers:
        # An attention stack rematerialises each of its own blocks.
        x = layer(x) if isinstance(layer, SwinStack) else run_layer(layer, x, remat=remat)
    return x
