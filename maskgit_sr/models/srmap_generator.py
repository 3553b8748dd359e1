"""SRMAP's generator: residual features of LR, enlarged in steps; noise enters at every activation.

Numerically that of the public code (docs/parity.md). Its kernels begin such that the output is the
bilinearly enlarged input.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from maskgit_sr.arrays import Image
from maskgit_sr.models.fields import Range, Width
from maskgit_sr.models.layers import Feature, run_layer
from maskgit_sr.models.srmap_layers import ACTIVATION_GAIN, Activation, Conv
from maskgit_sr.ops.resample import blur, enlarge_bilinear, pixel_shuffle

MEAN = (0.4488, 0.4371, 0.4040)
"""Mean intensity of DIV2K, which the network does not see."""

Blocks = Annotated[int, Range(1, 256)]
Levels = Annotated[float, Range(1e-3, 1e5)]
Draw = Callable[[int, int], Callable[[int, int], Feature]]
"""(number of the draw, factor) → (first channel, channels) → standard normal [B, f·h, f·w, C]."""


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Shape of the generator; the defaults are the published ×4 network.

    Attributes:
        stem: width of the residual blocks.
        features: widths of the features at LR, ×2, ×4 …: one more than enlargements.
        blocks: residual blocks of each stage.
        compression: width of a layer over that of its bottleneck.
        levels: what the intensity 1 is to the network, such as 255.

    Raises:
        ValueError: nothing to enlarge, no stage, or a width that the compression does not divide.
    """

    stem: Width = 256
    features: tuple[Width, ...] = (512, 256, 128)
    blocks: tuple[Blocks, ...] = (16, 16, 16, 16)
    compression: Annotated[int, Range(1, 64)] = 4
    levels: Levels = 255.0

    def __post_init__(self) -> None:
        if not 2 <= len(self.features) <= 5:
            found = len(self.features)
            raise ValueError(f"generator.features: expected 2 to 5 widths, found {found}")
        if not self.blocks:
            raise ValueError("generator.blocks: expected at least one stage, found none")
        for width in (self.stem, *self.features[:-1]):
            if width % self.compression:
                raise ValueError(
                    f"generator.compression: expected a divisor of {width}, found"
                    f" {self.compression}"
                )

    @property
    def scale(self) -> int:
        """Returns output side over input side."""
        return int(2 ** (len(self.features) - 1))

    @property
    def arrays(self) -> int:
        """Returns the number of the network's arrays, see `fields.least_arrays`."""
        return 4 + sum(4 * n + 1 for n in self.blocks) + 8 * (len(self.features) - 1)


class Noise(NamedTuple):
    """Noise that is added before each activation, scaled.

    Attributes:
        stem: [B, h, w, stem].
        stages: for each block of each stage [B, h, w, bottleneck] and [B, h, w, stem].
        features: [B, h, w, first features].
        upsamplers: for each [B, h, w, bottleneck], [B, 2h, 2w, bottleneck], [B, 2h, 2w, outputs].
    """

    stem: Feature
    stages: tuple[tuple[tuple[Feature, Feature], ...], ...]
    features: Feature
    upsamplers: tuple[tuple[Feature, Feature, Feature], ...]


class NoiseScales(nnx.Module):
    """Learned scale of every channel's noise.

    Args:
        scale: initial value; 0 in the public code.
    """

    def __init__(self, config: GeneratorConfig, scale: float):
        def full(*shape: int) -> nnx.Param[jax.Array]:
            return nnx.Param(jnp.full(shape, scale, jnp.float32))

        bottleneck = config.stem // config.compression
        self.stem = full(config.stem)
        self.stages = nnx.List([full(n, bottleneck + config.stem) for n in config.blocks])
        self.features = full(config.features[0])
        narrow = [width // config.compression for width in config.features]
        self.before = nnx.List([full(width) for width in narrow[:-1]])
        pairs = zip(narrow, config.features[1:], strict=False)
        self.after = nnx.List([full(inner + out) for inner, out in pairs])
        self.config = config

    def __call__(self, draw: Draw) -> Noise:
        """Returns the noise of an image. What is at one place of the network is one draw."""
        numbers = iter(range(1 << 16))

        def scaled(scale: jax.Array, factor: int, *widths: int) -> list[Feature]:
            take, flat, first, found = draw(next(numbers), factor), scale.reshape(-1), 0, []
            for width in widths:
                part = flat[first : first + width].reshape(1, 1, 1, -1)
                found.append(take(first, width) * part)
                first += width
            return found

        shape = self.config
        inner = shape.stem // shape.compression
        [stem] = scaled(self.stem[...], 1, shape.stem)
        stages = []
        for scale, blocks in zip(self.stages, shape.blocks, strict=True):
            parts = iter(scaled(scale[...], 1, *(inner, shape.stem) * blocks))
            stages.append(tuple(zip(parts, parts, strict=True)))
        [features] = scaled(self.features[...], 1, shape.features[0])
        upsamplers = []
        for i, (width, out) in enumerate(itertools.pairwise(shape.features)):
            inner = width // shape.compression
            [before] = scaled(self.before[i][...], 2**i, inner)
            after, last = scaled(self.after[i][...], 2 ** (i + 1), inner, out)
            upsamplers.append((before, after, last))
        return Noise(stem, tuple(stages), features, tuple(upsamplers))


def _add(x: Feature, noise: Feature | None) -> Feature:
    # In the layers' dtype: what is drawn is float32, so that the seeds mean the same in all.
    return x if noise is None else x + noise.astype(x.dtype)


class Block(nnx.Module):
    """Bottleneck of two 3×3 convolutions on the activations, added to the features."""

    def __init__(self, width: int, bottleneck: int, *, dtype: Any, rngs: nnx.Rngs):
        self.conv1 = Conv(width, bottleneck, gain=ACTIVATION_GAIN, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(bottleneck, width, gain=0, dtype=dtype, rngs=rngs)
        self.activation1, self.activation2 = Activation(bottleneck), Activation(width)

    def __call__(
        self, x: Feature, activated: Feature, noise: tuple[Feature | None, Feature | None]
    ) -> tuple[Feature, Feature]:
        """Returns the next features and their activations."""
        first, second = noise
        y = self.activation1(_add(self.conv1(activated), first))
        x = x + self.conv2(y)
        return x, self.activation2(_add(x, second))


class Stage(nnx.Module):
    """Residual blocks, and what their last activations add to the features to be enlarged."""

    def __init__(self, config: GeneratorConfig, blocks: int, **options: Any):
        inner = config.stem // config.compression
        self.blocks = nnx.List([Block(config.stem, inner, **options) for _ in range(blocks)])
        self.out = Conv(config.stem, config.features[0], 1, gain=0, **options)


class Upsampler(nnx.Module):
    """Enlarges by 2: a blurred pixel shuffle of a bottleneck beside a bilinear shortcut."""

    def __init__(self, inputs: int, outputs: int, inner: int, **options: Any):
        gain = ACTIVATION_GAIN
        self.conv1 = Conv(inputs, inner, gain=gain, **options)
        self.conv2 = Conv(inner, 4 * inner, 1, gain=gain, **options)
        self.conv3 = Conv(inner, outputs, gain=0, **options)
        self.activation1, self.activation2 = Activation(inner), Activation(inner)
        self.activation3 = Activation(outputs)
        self.shortcut = Conv(inputs, outputs, 1, gain=1, **options) if inputs != outputs else None

    def __call__(
        self, x: Feature, activated: Feature, noise: tuple[Feature | None, ...]
    ) -> tuple[Feature, Feature]:
        """Returns the enlarged features and their activations."""
        first, second, third = noise
        y = self.activation1(_add(self.conv1(activated), first))
        y = blur(pixel_shuffle(self.conv2(y)))
        y = self.conv3(self.activation2(_add(y, second)))
        x = x if self.shortcut is None else self.shortcut(x)
        x = enlarge_bilinear(x) + y
        return x, self.activation3(_add(x, third))


class Generator(nnx.Module):
    """The network: LR [B, h, w, 3] in [0, 1] → [B, scale·h, scale·w, 3], float32, not clipped."""

    def __init__(self, config: GeneratorConfig, *, dtype: Any, remat: bool, rngs: nnx.Rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        features = config.features
        self.stem = Conv(3, config.stem, gain=ACTIVATION_GAIN, **options)
        self.activation = Activation(config.stem)
        self.out = Conv(config.stem, features[0], 1, gain=ACTIVATION_GAIN, **options)
        self.stages = nnx.List([Stage(config, n, **options) for n in config.blocks])
        self.features = Activation(features[0])
        pairs = list(itertools.pairwise(features))
        self.upsamplers = nnx.List(
            [Upsampler(i, o, i // config.compression, **options) for i, o in pairs]
        )
        # The image itself is summed in float32.
        exact: dict[str, Any] = dict(dtype=jnp.float32, rngs=rngs)
        self.to_rgb = nnx.List([Conv(width, 3, 1, gain=0, **exact) for _, width in pairs])
        self.config, self.remat = config, remat

    def __call__(self, lr: Image, noise: Noise | None = None) -> Image:
        image, _ = self.trace(lr, noise)
        return image

    def trace(self, lr: Image, noise: Noise | None = None) -> tuple[Image, list[Feature]]:
        """Returns the image, and the features to be enlarged after the stem and each stage."""
        levels, mean = self.config.levels, jnp.asarray(MEAN, jnp.float32).reshape(1, 1, 1, 3)
        image = (lr.astype(jnp.float32) - mean) * levels
        x = self.stem(image)
        activated = self.activation(_add(x, noise.stem if noise else None))
        features = [self.out(activated)]
        for index, stage in enumerate(self.stages):
            for i, block in enumerate(stage.blocks):
                drawn = noise.stages[index][i] if noise else (None, None)
                x, activated = run_layer(block, x, activated, drawn, remat=self.remat)
            features.append(features[-1] + stage.out(activated))
        x = features[-1]
        activated = self.features(_add(x, noise.features if noise else None))
        for index, (upsample, rgb) in enumerate(zip(self.upsamplers, self.to_rgb, strict=True)):
            given = noise.upsamplers[index] if noise else (None, None, None)
            x, activated = run_layer(upsample, x, activated, given, remat=self.remat)
            image = enlarge_bilinear(image) + rgb(activated)
        return image / levels + mean, features
