"""MaskGIT's VQGAN (Chang et al., CVPR 2022; google-research/maskgit `vqgan_tokenizer.py`)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image, Latent, TokenGrid, Tokens
from maskgit_sr.models import codebook
from maskgit_sr.models.fields import Count, Range, Side, Width
from maskgit_sr.models.layers import Feature, Upsample, conv, make_norm, run_layer
from maskgit_sr.ops.resize import depth_to_space, space_to_depth


@dataclasses.dataclass(frozen=True)
class MaskGITVQGANConfig:
    """Shape of the tokenizer. The defaults are the published network (54.5 M parameters).

    Attributes:
        width: channels of the first convolution, times ``multipliers`` those of each level.
        multipliers: of each level, finest first; the number of levels sets the downsampling.
        blocks: residual blocks per level, and of the bottom at the coarsest resolution.
        code_width: C, width of a code vector.
        codes: K, codebook size.
        groups: number of groups of the group norms (0: no norms).
        patch: side of the pixel block folded into channels before the first level; 1 (none) in the
            published network. Small networks learn colours and edges sooner behind it.

    Raises:
        ValueError: no level or too many, or a level's width that ``groups`` does not divide.
    """

    width: Width = 128
    multipliers: tuple[Annotated[int, Range(1, 64)], ...] = (1, 1, 2, 2, 4)
    blocks: Annotated[int, Range(1, 1024)] = 2
    code_width: Width = 256
    codes: Width = 1024
    groups: Count = 32
    patch: Side = 1

    def __post_init__(self) -> None:
        # At most 11, since no side of an image is a multiple of more than a window's 1,024 pixels.
        if not 1 <= len(self.multipliers) <= 11:
            found = len(self.multipliers)
            raise ValueError(f"tokenizer.multipliers: expected 1 to 11 levels, found {found}")
        if self.groups and any(width % self.groups for width in (self.width, *self.widths)):
            raise ValueError(
                f"tokenizer.groups: expected a divisor of {self.widths}, found {self.groups}"
            )

    @property
    def arrays(self) -> int:
        """Returns the least number of arrays; shortcuts of blocks are not counted."""
        levels = len(self.multipliers)
        # A block has two convolutions without biases, and two norms of two arrays.
        blocks = 2 * (levels + 1) * self.blocks * (6 if self.groups else 2)
        return blocks + 2 * (levels - 1) + 8 + (4 if self.groups else 0)

    @property
    def widths(self) -> tuple[int, ...]:
        """Returns the channels of each level, finest first."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def factor(self) -> int:
        """Returns f: image side over token grid side."""
        return self.patch * 2 ** (len(self.multipliers) - 1)


class OutputShortcutBlock(nnx.Module):
    """GN – swish – conv3 – GN – swish – conv3 = h, plus the input x; without biases.

    Where the widths differ, the result is h + W·h with a 1×1 convolution W: the shortcut takes the
    block's *output*. The published weights were trained this way (maskgit issue #3), so that a
    shortcut from the input would give other images.
    """

    def __init__(self, inputs: int, outputs: int, *, groups: int, dtype: Any, rngs: nnx.Rngs):
        make = partial(conv, use_bias=False, dtype=dtype, rngs=rngs)
        self.norm1, self.conv1 = make_norm(inputs, groups), make(inputs, outputs)
        self.norm2, self.conv2 = make_norm(outputs, groups), make(outputs, outputs)
        self.shortcut = make(outputs, outputs, 1) if inputs != outputs else None

    def __call__(self, x: Feature) -> Feature:
        y = self.conv1(jax.nn.swish(self.norm1(x)))
        y = self.conv2(jax.nn.swish(self.norm2(y)))
        return y + (x.astype(y.dtype) if self.shortcut is None else self.shortcut(y))


def mean_pool(x: Feature) -> Float[Array, "B h2 w2 C"]:
    """Returns the means of 2×2 cells [B, ⌈h/2⌉, ⌈w/2⌉, C]; odd borders count valid cells only."""
    pooled = nnx.avg_pool(
        x.astype(jnp.float32), (2, 2), (2, 2), padding="SAME", count_include_pad=False
    )
    return pooled.astype(x.dtype)


class MaskGITEncoder(nnx.Module):
    """Encoder of images [B, H, W, 3], sides multiples of ``patch``, to [B, ⌈H/f⌉, ⌈W/f⌉, C]."""

    def __init__(
        self, config: MaskGITVQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False
    ):
        self.config, self.remat = config, remat
        inputs = 3 * config.patch**2
        self.conv_in = conv(inputs, config.width, use_bias=False, dtype=dtype, rngs=rngs)
        levels = (*config.widths, config.widths[-1])
        self.blocks = _blocks(config.width, levels, config, dtype=dtype, rngs=rngs)
        self.norm_out = make_norm(levels[-1], config.groups)
        self.conv_out = conv(levels[-1], config.code_width, 1, dtype=dtype, rngs=rngs)

    def __call__(self, image: Image) -> Latent:
        # After the last block of every level but the coarsest, which the bottom's blocks follow.
        count, levels = self.config.blocks, len(self.config.multipliers)
        pools = range(count, count * levels, count)
        x = self.conv_in(space_to_depth(image, self.config.patch))
        for done, block in enumerate(self.blocks, 1):
            x = run_layer(block, x, remat=self.remat)
            if done in pools:
                x = mean_pool(x)
        return self.conv_out(jax.nn.swish(self.norm_out(x)))


class MaskGITDecoder(nnx.Module):
    """Decoder of code vectors [B, h, w, C] to images [B, h·f, w·f, 3], float32, not clipped."""

    def __init__(
        self, config: MaskGITVQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False
    ):
        self.config, self.remat = config, remat
        coarse_first = config.widths[::-1]
        self.conv_in = conv(config.code_width, coarse_first[0], dtype=dtype, rngs=rngs)
        levels = (coarse_first[0], *coarse_first)
        self.blocks = _blocks(coarse_first[0], levels, config, dtype=dtype, rngs=rngs)
        self.ups = nnx.List(
            [Upsample(width, width, dtype=dtype, rngs=rngs) for width in coarse_first[:-1]]
        )
        self.norm_out = make_norm(levels[-1], config.groups)
        self.conv_out = conv(levels[-1], 3 * config.patch**2, dtype=dtype, rngs=rngs)

    def body(self, latent: Latent) -> Feature:
        """Returns the last convolution's input."""
        count = self.config.blocks
        x = self.conv_in(latent)
        for done, block in enumerate(self.blocks, 1):
            x = run_layer(block, x, remat=self.remat)
            # The first `count` blocks are the bottom's; the finest level is not enlarged.
            level, rest = divmod(done, count)
            if not rest and 2 <= level <= len(self.ups) + 1:
                x = run_layer(self.ups[level - 2], x, remat=self.remat)
        return jax.nn.swish(self.norm_out(x))

    def head(self, features: Feature) -> Image:
        """Applies the last convolution, whose gradient sets the adaptive adversarial weight."""
        # Float32: bfloat16 steps near 1 are as coarse as the grey levels of 8 bits.
        return depth_to_space(self.conv_out(features).astype(jnp.float32), self.config.patch)

    def __call__(self, latent: Latent) -> Image:
        return self.head(self.body(latent))


class Codebook(nnx.Module):
    """The K code vectors; MaskGIT trains them by gradients, not by moving averages."""

    def __init__(self, config: MaskGITVQGANConfig, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")
        shape = (config.codes, config.code_width)
        self.embedding = nnx.Param(init(rngs.params(), shape, jnp.float32))


class MaskGITVQGAN(nnx.Module):
    """Encoder, codebook and decoder. Images are in [0, 1], neither scaled nor clamped."""

    def __init__(
        self, config: MaskGITVQGANConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False
    ):
        self.encoder = MaskGITEncoder(config, dtype=dtype, rngs=rngs, remat=remat)
        self.codebook = Codebook(config, rngs=rngs)
        self.decoder = MaskGITDecoder(config, dtype=dtype, rngs=rngs, remat=remat)

    def encode(self, image: Image) -> Latent:
        """Returns the vectors to be quantized, float32 [B, ⌈H/f⌉, ⌈W/f⌉, C]."""
        # Float32 whatever the compute dtype, for distances to the codes.
        return self.encoder(image).astype(jnp.float32)

    def quantize(self, vectors: Latent) -> TokenGrid:
        """Returns the indices [B, h, w] of the nearest codes of vectors [B, h, w, C]."""
        return codebook.nearest(vectors, self.codebook.embedding[...])

    def embed(self, tokens: TokenGrid | Tokens) -> Float[Array, "*n C"]:
        """Returns the code vectors [..., C] of codebook indices [...], float32."""
        return jnp.take(self.codebook.embedding[...], tokens, axis=0)

    def decode(self, vectors: Latent) -> Image:
        """Returns the image [B, h·f, w·f, 3] of code vectors [B, h, w, C]."""
        return self.decoder(vectors)


def _blocks(
    width: int, levels: tuple[int, ...], config: MaskGITVQGANConfig, **options: Any
) -> nnx.List:
    """Returns ``config.blocks`` residual blocks for each of ``levels``, in the order of a pass."""
    blocks: list[OutputShortcutBlock] = []
    for outputs in levels:
        for _ in range(config.blocks):
            blocks.append(OutputShortcutBlock(width, outputs, groups=config.groups, **options))
            width = outputs
    return nnx.List(blocks)
