"""A ×2 sub-pixel filter: the worked example of `docs/adding_a_method.md`, small enough to read.

One 3×3 convolution predicts the four sub-pixels of every LR pixel as a residual on its nearest
enlargement (Shi et al., ESPCN, arXiv:1609.05158, with a single layer). No tokens, no confidence.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.arrays import Image, Keys, Params, Scalar
from maskgit_sr.losses.pixel import PIXEL_LOSSES
from maskgit_sr.methods.base import (
    Batch,
    LossResult,
    MethodBase,
    Phase,
    Restored,
    RestoreOptions,
    Stage,
    TileSpec,
    check_choice,
)  # fmt: skip
from maskgit_sr.methods.convolutional import Chain, Convolution
from maskgit_sr.ops.color import correct
from maskgit_sr.ops.resize import depth_to_space, upsample_nearest


@dataclasses.dataclass(frozen=True)
class SubpixelConfig:
    """The network.

    Attributes:
        tile: windows in LR pixels.
    """

    tile: TileSpec = TileSpec(sides=(16, 64), overlap=4)


@dataclasses.dataclass(frozen=True)
class SubpixelLosses:
    """Training losses.

    Attributes:
        second: pixel loss of the second stage, ``l1`` or ``l2``.
    """

    second: str = "l2"

    def __post_init__(self) -> None:
        check_choice("losses.second", self.second, tuple(PIXEL_LOSSES))


@dataclasses.dataclass(frozen=True)
class SubpixelOptions(RestoreOptions):
    """Options: ``strength`` multiplies the residual, ``noise`` is the deviation of added grain."""

    strength: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("strength", "noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")

    @property
    def stochastic(self) -> bool:
        """True if there is noise."""
        return self.noise > 0


class Subpixel(MethodBase):
    """The method: one group, ``filter``, a kernel [3, 3, 3, 12] without bias."""

    name, scale, groups = "subpixel", 2, ("filter",)
    config_class, losses_class, options_class = SubpixelConfig, SubpixelLosses, SubpixelOptions

    def shapes(self) -> Params:
        return {"filter": {"kernel": jax.ShapeDtypeStruct((3, 3, 3, 12), jnp.float32)}}

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        return {"filter": {"kernel": 0.01 * jax.random.normal(key, (3, 3, 3, 12))}}, {}

    def enlarge(self, params: Params, lr: Image, strength: float = 1.0) -> Image:
        """Returns the enlarged image [B, 2H, 2W, 3], not clipped, of ``lr`` [B, H, W, 3]."""
        padded = jnp.pad(lr, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        layout = ("NHWC", "HWIO", "NHWC")
        x, kernel = (a.astype(self.execution.dtype) for a in (padded, params["filter"]["kernel"]))
        drawn = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
        # Added in float32: bfloat16 steps near 1 are as coarse as the grey levels of 8 bits.
        drawn = depth_to_space(drawn.astype(jnp.float32), self.scale)
        return upsample_nearest(lr, self.scale) + strength * drawn

    def restore(self, params: Params, lr: Image, keys: Keys, options: SubpixelOptions) -> Restored:
        image = self.enlarge(params, lr, options.strength)
        if options.noise:
            shape = image.shape[1:]
            image += options.noise * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        return Restored(correct(image, lr, options.color_fix))

    def chain(self, params: Params, options: SubpixelOptions) -> Chain | None:
        """Returns the filter as its only layer; None with noise or colour correction."""
        if options.noise or options.color_fix != "none":
            return None
        kernel = options.strength * np.asarray(params["filter"]["kernel"], np.float32)
        bias = np.zeros(kernel.shape[-1], np.float32)
        return Chain((Convolution(kernel, bias, edge=True),), self.scale)

    @property
    def stages(self) -> dict[str, Stage]:
        """Returns L1 pre-training and a second stage that continues with the same filter."""

        def stage(pixel: str, **more: Any) -> Stage:
            phase = Phase(("filter",), partial(self._loss, PIXEL_LOSSES[pixel]))
            return Stage((phase,), exports=("filter",), panel=self._panel, **more)

        second = stage(self.losses.second, continues=("filter",))
        return {"pretrain": stage("l1"), "finetune": second}

    def _loss(
        self, pixel: Any, params: Params, stats: Params, batch: Batch, key: Any, step: Any
    ) -> tuple[Scalar, LossResult]:
        loss = pixel(self.enlarge(params, batch["lr"]), batch["hr"])
        return loss, LossResult({"pixel": loss}, stats, {})

    def _panel(self, params: Params, batch: Batch, key: Any) -> dict[str, jax.Array]:
        return {"output": self.enlarge(params, batch["lr"]), "hr": batch["hr"]}
