"""U-Net of SR3 (arXiv:2104.07636), conditioned on an image and on a continuous noise level.

Layers are those of the public re-implementation (Janspiry), in its order. What does not depend on
the noisy image is apart: `context` is the condition's share of the first convolution, `shifts` what
all blocks add for a noise level, so that a sampler computes both before its loop.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image
from maskgit_sr.models.fields import Count, Factor, Range, Width
from maskgit_sr.models.layers import Feature, GroupNorm, Upsample, conv, convolve3x3, run_layer
from maskgit_sr.ops.positions import sincos

Level = Float[Array, "B"]
Shifts = Float[Array, "B S"]


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Shape of the network; the defaults are those of the re-implementation for 16→128 pixels.

    Attributes:
        width: channels of the finest level.
        multipliers: of the width, by level, finest first; each level halves the sides.
        blocks: residual blocks of a level on the way down; one more on the way up.
        attention: levels with self-attention after each block; 0 is the finest.
        middle_attention: self-attention between the two blocks of the coarsest level.
        groups: of every group norm, a divisor of ``width``. Fewer than 8 channels a group come
            close to instance norm, which wipes out an image's colour.
        dropout: rate before the second convolution of a block, in training.
        level_scale: factor of √γ before its sine embedding: 1 in the re-implementation, where
            neighbouring levels embed almost alike; 1000 spreads them over the sines' periods.

    Raises:
        ValueError: settings that do not fit each other.
    """

    width: Width = 64
    multipliers: tuple[Width, ...] = (1, 2, 4, 8, 8)
    blocks: Annotated[int, Range(1, 64)] = 2
    attention: tuple[Count, ...] = (3,)
    middle_attention: bool = True
    groups: Annotated[int, Range(1, 1024)] = 32
    dropout: Annotated[float, Range(0, 0.99)] = 0.2
    level_scale: Factor = 1000.0

    def __post_init__(self) -> None:
        # At most 11, since no side of a window is a multiple of more than 1,024 pixels.
        if not 1 <= len(self.multipliers) <= 11:
            found = len(self.multipliers)
            raise ValueError(f"unet.multipliers: expected 1 to 11 levels, found {found}")
        if self.width % self.groups or self.width % 2:
            raise ValueError(
                f"unet.width: expected an even multiple of unet.groups {self.groups},"
                f" found {self.width}"
            )
        if not set(self.attention) <= set(range(len(self.multipliers))):
            raise ValueError(
                f"unet.attention: expected levels below {len(self.multipliers)},"
                f" found {self.attention}"
            )

    @property
    def arrays(self) -> int:
        """Returns the least number of arrays; 1×1 shortcuts and attention are not counted."""
        levels = len(self.multipliers)
        blocks = levels * (2 * self.blocks + 1) + 2
        return 10 * blocks + 4 * (levels - 1) + 10

    @property
    def factor(self) -> int:
        """Returns what both sides of an image must be multiples of."""
        return 2 ** (len(self.multipliers) - 1)


def _product(x: Feature, kernel: jax.Array, *_: Any, **__: Any) -> Feature:
    return x @ kernel[0, 0]


def pointwise(inputs: int, outputs: int, **options: Any) -> nnx.Conv:
    """Returns a 1×1 convolution, as a product of matrices: with its gradients, a third of the time.

    On CPUs: 17 ms in place of 56 on [16, 64, 64, 48].
    """
    return nnx.Conv(inputs, outputs, (1, 1), conv_general_dilated=_product, **options)


class Attention(nnx.Module):
    """GN, single-head self-attention over all positions, plus the input; queries without bias."""

    def __init__(self, channels: int, *, groups: int, dtype: Any, rngs: nnx.Rngs):
        make = partial(pointwise, dtype=dtype, rngs=rngs)
        self.norm = GroupNorm(channels, groups=groups, eps=1e-5)
        self.qkv = make(channels, 3 * channels, use_bias=False)
        self.out = make(channels, channels)

    def __call__(self, x: Feature) -> Feature:
        b, h, w, c = x.shape
        q, k, v = jnp.split(self.qkv(self.norm(x)).reshape(b, h * w, 1, 3 * c), 3, axis=-1)
        y = jax.nn.dot_product_attention(q, k, v, scale=c**-0.5)
        return x + self.out(y.reshape(b, h, w, c))


class Block(nnx.Module):
    """GN – swish – conv3, plus a shift by the noise level, GN – swish – dropout – conv3.

    All of it residual, and followed by attention where there is one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        config: UNetConfig,
        attend: bool,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        make = partial(conv, dtype=dtype, rngs=rngs)
        self.dropout, self.outputs = config.dropout, outputs
        self.norm1 = GroupNorm(inputs, groups=config.groups, eps=1e-5)
        self.conv1 = make(inputs, outputs)
        self.level = nnx.Linear(config.width, outputs, rngs=rngs)
        self.norm2 = GroupNorm(outputs, groups=config.groups, eps=1e-5)
        # Zero, so that a fresh block is its shortcut (DDPM).
        self.conv2 = make(outputs, outputs, kernel_init=nnx.initializers.zeros)
        self.shortcut = (
            None if inputs == outputs else pointwise(inputs, outputs, dtype=dtype, rngs=rngs)
        )
        attention = partial(Attention, groups=config.groups, dtype=dtype, rngs=rngs)
        self.attention = attention(outputs) if attend else None

    def __call__(self, x: Feature, shift: Shifts, key: jax.Array | None) -> Feature:
        y = self.conv1(jax.nn.swish(self.norm1(x)))
        y = y + shift[:, None, None].astype(y.dtype)
        y = jax.nn.swish(self.norm2(y))
        if key is not None:
            keep = jax.random.bernoulli(key, 1 - self.dropout, y.shape)
            y = jnp.where(keep, y / (1 - self.dropout), 0).astype(y.dtype)
        y = self.conv2(y)
        y = y + (x.astype(y.dtype) if self.shortcut is None else self.shortcut(x))
        return y if self.attention is None else self.attention(y)


class Downsample(nnx.Module):
    """Conv3 with stride 2 and zero padding 1 on every side, where "SAME" pads one side only."""

    def __init__(self, channels: int, *, dtype: Any, rngs: nnx.Rngs):
        self.conv = conv(
            channels, channels, strides=2, padding=((1, 1), (1, 1)), dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Feature) -> Feature:
        return self.conv(x)


class UNet(nnx.Module):
    """The network: a noisy image and its condition, both [B, H, W, 3], to the noise's estimate.

    Lists hold the layers in the order of a pass, blocks and resampling alike.
    """

    def __init__(self, config: UNetConfig, *, dtype: Any, rngs: nnx.Rngs, remat: bool = False):
        self.config, self.dtype, self.remat = config, dtype, remat
        width, options = config.width, dict(dtype=dtype, rngs=rngs)
        self.level_in = nnx.Linear(width, 4 * width, rngs=rngs)
        self.level_out = nnx.Linear(4 * width, width, rngs=rngs)
        # The condition's three channels come first.
        self.conv_in = conv(6, width, **options)
        downs: list[Block | Downsample] = []
        skips = [width]
        for level, multiplier in enumerate(config.multipliers):
            attend = level in config.attention
            for _ in range(config.blocks):
                outputs = config.width * multiplier
                downs.append(Block(width, outputs, config, attend, **options))
                width = outputs
                skips.append(width)
            if level + 1 < len(config.multipliers):
                downs.append(Downsample(width, **options))
                skips.append(width)
        self.downs = nnx.List(downs)
        self.middle = nnx.List(
            [
                Block(width, width, config, attend, **options)
                for attend in (config.middle_attention, False)
            ]
        )
        ups: list[Block | Upsample] = []
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for _ in range(config.blocks + 1):
                outputs = config.width * multiplier
                attend = level in config.attention
                ups.append(Block(width + skips.pop(), outputs, config, attend, **options))
                width = outputs
            if level:
                ups.append(Upsample(width, width, **options))
        self.ups = nnx.List(ups)
        self.norm_out = GroupNorm(width, groups=config.groups, eps=1e-5)
        # Zero, so that a fresh network predicts the mean of its target.
        self.conv_out = conv(width, 3, kernel_init=nnx.initializers.zeros, **options)

    def _blocks(self) -> list[Block]:
        layers = [*self.downs, *self.middle, *self.ups]
        return [layer for layer in layers if isinstance(layer, Block)]

    def shifts(self, level: Level) -> Shifts:
        """Returns what each block adds for noise levels √γ [B], all blocks side by side, float32.

        A sampler calls it once with the levels of all its steps.
        """
        # Counted from 0 in units of width/2, as in WaveGrad.
        x = sincos(level * self.config.level_scale, self.config.width)
        x = self.level_out(jax.nn.swish(self.level_in(x)))
        return jnp.concatenate([block.level(x) for block in self._blocks()], axis=-1)

    def context(self, condition: Image) -> Feature:
        """Returns the condition's share [B, H, W, C] of the first convolution, with its bias."""
        kernel = self.conv_in.kernel[...][:, :, :3].astype(self.dtype)
        assert self.conv_in.bias is not None
        bias = self.conv_in.bias[...].astype(self.dtype)
        return convolve3x3(condition.astype(self.dtype), kernel) + bias[None, None, None]

    def __call__(
        self, y: Image, context: Feature, shifts: Shifts, key: jax.Array | None = None
    ) -> Image:
        """Returns the estimate, float32 [B, H, W, 3], for a noisy image [B, H, W, 3].

        Args:
            context: :meth:`context` of the condition.
            shifts: :meth:`shifts` of the noise levels, [B, S], or [1, S] for one level.
            key: of dropout; None: no dropout.
        """
        blocks = self._blocks()
        ends = [block.outputs for block in blocks]
        parts = iter(jnp.split(shifts, [sum(ends[:i]) for i in range(1, len(ends))], axis=-1))
        keys: Any = iter([None] * len(blocks))
        if key is not None and self.config.dropout:
            keys = iter(jax.random.split(key, len(blocks)))

        def run(layer: Any, x: Feature) -> Feature:
            given = (next(parts), next(keys)) if isinstance(layer, Block) else ()
            found: Feature = run_layer(layer, x, *given, remat=self.remat)
            return found

        kernel = self.conv_in.kernel[...][:, :, 3:].astype(self.dtype)
        x = convolve3x3(y.astype(self.dtype), kernel) + context
        skips = [x]
        for down in self.downs:
            x = run(down, x)
            skips.append(x)
        for block in self.middle:
            x = run(block, x)
        for up in self.ups:
            if isinstance(up, Block):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = run(up, x)
        # Float32: the state of a sampler is.
        return self.conv_out(jax.nn.swish(self.norm_out(x))).astype(jnp.float32)
