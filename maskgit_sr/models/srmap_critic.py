"""SRMAP's critic: one number for an image of a fixed size, numerically that of the public code."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image
from maskgit_sr.models.fields import Range, Width
from maskgit_sr.models.layers import Feature
from maskgit_sr.models.srmap_generator import Blocks, Levels
from maskgit_sr.models.srmap_layers import ACTIVATION_GAIN, Activation, Conv
from maskgit_sr.ops.resample import blur, halve_bilinear, pixel_unshuffle

Scores = Float[Array, "B"]


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """Shape of the critic; the defaults are those of the published run, for 192-pixel crops.

    Attributes:
        widths: of the image's features, and behind each stage, which halves the sides.
        blocks: blocks of each stage, the halving one included.
        compression: width of a layer over that of its bottleneck.
        kernel: side of what is left of the image behind the stages: crop / 2^stages.
        latent: width before the score.
        levels: what the intensity 1 is to the network, such as 255.

    Raises:
        ValueError: stages of no number of blocks, or a width that the compression does not divide.
    """

    widths: tuple[Width, ...] = (256, 256, 512, 512, 512, 1024, 1024)
    blocks: tuple[Blocks, ...] = (1, 1, 2, 2, 2, 1)
    compression: Annotated[int, Range(1, 64)] = 4
    kernel: Annotated[int, Range(1, 64)] = 3
    latent: Width = 512
    levels: Levels = 255.0

    def __post_init__(self) -> None:
        if len(self.blocks) != len(self.widths) - 1 or not self.blocks:
            raise ValueError(
                f"critic.blocks: expected a number for each width but the first of {self.widths},"
                f" found {self.blocks}"
            )
        for width in self.widths[1:]:
            if width % self.compression:
                raise ValueError(
                    f"critic.compression: expected a divisor of {width}, found {self.compression}"
                )

    @property
    def side(self) -> int:
        """Returns the side of the images that it takes."""
        return int(self.kernel * 2 ** len(self.blocks))


class Residual(nnx.Module):
    """Bottleneck of two 3×3 convolutions, activated first, added to its input."""

    def __init__(self, width: int, inner: int, **options: Any):
        self.activation1, self.activation2 = Activation(width), Activation(inner)
        self.conv1 = Conv(width, inner, gain=ACTIVATION_GAIN, **options)
        self.conv2 = Conv(inner, width, gain=0, **options)

    def __call__(self, x: Feature) -> Feature:
        y = self.conv1(self.activation1(x))
        return x + self.conv2(self.activation2(y))


class Downsampler(nnx.Module):
    """Halves the sides: a bottleneck, blurred and unshuffled, beside a bilinear shortcut."""

    def __init__(self, inputs: int, outputs: int, inner: int, **options: Any):
        gain = ACTIVATION_GAIN
        self.activation1 = Activation(inputs)
        self.activation2, self.activation3 = Activation(inner), Activation(inner)
        self.conv1 = Conv(inputs, inner, gain=gain, **options)
        self.conv2 = Conv(4 * inner, inner, 1, gain=gain, **options)
        self.conv3 = Conv(inner, outputs, gain=0, **options)
        self.shortcut = Conv(inputs, outputs, 1, gain=1, **options) if inputs != outputs else None

    def __call__(self, x: Feature) -> Feature:
        y = self.activation2(self.conv1(self.activation1(x)))
        y = self.activation3(self.conv2(pixel_unshuffle(blur(y))))
        y = self.conv3(y)
        x = halve_bilinear(x)
        return y + (x if self.shortcut is None else self.shortcut(x))


class Critic(nnx.Module):
    """The network: images [B, side, side, 3] in [0, 1] → float32 scores [B]."""

    def __init__(self, config: CriticConfig, *, dtype: Any, rngs: nnx.Rngs):
        options: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.stem = Conv(3, config.widths[0], gain=ACTIVATION_GAIN, **options)
        stages = []
        for (i, o), blocks in zip(itertools.pairwise(config.widths), config.blocks, strict=True):
            inner = o // config.compression
            rest = [Residual(o, inner, **options) for _ in range(blocks - 1)]
            stages.append(nnx.List([Downsampler(i, o, inner, **options), *rest]))
        self.stages = nnx.List(stages)
        width, latent, side = config.widths[-1], config.latent, config.kernel

        def normal(gain: float, fan_in: int, *shape: int) -> nnx.Param[jax.Array]:
            return nnx.Param(gain * fan_in**-0.5 * jax.random.normal(rngs.params(), shape))

        self.activation1, self.activation2 = Activation(width), Activation(latent)
        # Depthwise over all that is left of the image: a weighted sum of each channel.
        self.pool = normal(1, side * side, side, side, width)
        self.latent = normal(ACTIVATION_GAIN, width, width, latent)
        self.score = normal(1, latent, latent)
        self.score_bias = nnx.Param(jnp.zeros((), jnp.float32))
        self.config = config

    def __call__(self, image: Image) -> Scores:
        """Returns the scores; one of them does not depend on the other images."""
        x = self.stem(image * self.config.levels)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        x = self.activation1(x).astype(jnp.float32)  # losses are float32
        x = jnp.einsum("bhwc,hwc->bc", x, self.pool[...])
        x = self.activation2(x @ self.latent[...])
        return x @ self.score[...] + self.score_bias[...]
