"""SR3's network, what it is given and predicts, and the loss of its diffusion."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.arrays import Execution, Image, Params, Scalar
from maskgit_sr.losses.diffusion import LEVELS, diffuse, draw_levels
from maskgit_sr.losses.pixel import PIXEL_LOSSES
from maskgit_sr.methods.base import Batch, LossResult, MethodBase, TileSpec, check_choice
from maskgit_sr.models.fields import Range, Scale
from maskgit_sr.models.functional import Network
from maskgit_sr.models.sr3_unet import UNet, UNetConfig
from maskgit_sr.ops import diffusion as schedules
from maskgit_sr.ops.resize import downsample_bicubic

TARGETS = ("image", "residual")
MAX_STEPS = 4000
PROJECTIONS = 3
"""Times that LR is projected back in a step: each leaves about a tenth of the difference."""


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Noise schedule of the training.

    Attributes:
        kind: as in `maskgit_sr.ops.diffusion.betas`.
        steps: T, the number of noise levels.
        start: β_1, the re-implementation's, as the paper gives none.
        end: β_T, the last of the schedule.

    Raises:
        ValueError: an unknown kind, an end out of range, or a schedule that does not end in noise.
    """

    kind: str = "linear"
    steps: Annotated[int, Range(1, MAX_STEPS)] = 2000
    start: float = 1e-6
    end: float = 1e-2

    def __post_init__(self) -> None:
        schedules.check_end(self.gammas, "schedule")

    @property
    def gammas(self) -> np.ndarray:
        """Returns γ_0 = 1, …, γ_T, float64."""
        return schedules.gammas(self.kind, self.steps, self.start, self.end)


@dataclasses.dataclass(frozen=True)
class SR3Config:
    """Network, target and windows; the defaults are those of the re-implementation for 16→128.

    Attributes:
        scale: output side over input side.
        tile: windows in LR pixels; their sides at HR are multiples of the network's factor.
        unet: the network.
        schedule: what noise levels it is trained for.
        target: what noise is added to: ``image``, in [−1, 1] as in the paper; ``residual``, what
            the enlarged LR image lacks, which has the mean 0 and so cannot shift a hue.
        deviation: of that residual, in [0, 1]; it is divided by it, to have the variance 1.

    Raises:
        ValueError: settings that do not fit each other.
    """

    scale: Scale = 8
    tile: TileSpec = TileSpec(sides=(16,), overlap=8, variance=0.0)
    unet: UNetConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    target: str = "image"
    deviation: Annotated[float, Range(1e-3, 1)] = 0.05

    def __post_init__(self) -> None:
        check_choice("target", self.target, TARGETS)
        for side in self.tile.sides:
            if side * self.scale % self.unet.factor:
                raise ValueError(
                    f"tile.sides: expected HR sides that are multiples of {self.unet.factor},"
                    f" found {side} at scale {self.scale}"
                )


@dataclasses.dataclass(frozen=True)
class SR3Losses:
    """Training losses.

    Attributes:
        pixel: of the noise, ``l1``, which the paper found slightly better, or ``l2``; the
            regression's is that of the image.
        uniform: what is uniform within a step: ``gamma``, as in the paper, or ``sqrt``, its root,
            as in the re-implementation.
    """

    pixel: str = "l1"
    uniform: str = "gamma"

    def __post_init__(self) -> None:
        check_choice("losses.pixel", self.pixel, tuple(PIXEL_LOSSES))
        check_choice("losses.uniform", self.uniform, LEVELS)


@dataclasses.dataclass(frozen=True)
class RegressionLosses(SR3Losses):
    """Training losses of the regression: the mean squared error, as in the paper."""

    pixel: str = "l2"


class SR3Base(MethodBase):
    """Network of both methods, and what it is given and predicts."""

    groups: tuple[str, ...] = ("unet",)
    config_class = SR3Config
    losses_class: Any = SR3Losses

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        super().__init__(config, losses, execution)
        self.scale: int = self.config.scale
        shape, run = self.config.unet, dataclasses.asdict(self.execution)
        self.unet = Network(lambda rngs: UNet(shape, **run, rngs=rngs))

    def shapes(self) -> Params:
        """Returns the shapes of the network's parameters."""
        return {"unet": self.unet.shapes}

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Returns fresh parameters."""
        return {group: self.unet.init(key) for group in groups}, {}

    def upsample(self, lr: Image) -> Image:
        """Returns the condition: LR enlarged and clipped."""
        return jnp.clip(self.enlarge(lr), 0, 1)

    def enlarge(self, lr: Image) -> Image:
        """Returns LR enlarged as Pillow's bicubic does (to 3e-7)."""
        b, h, w, c = lr.shape
        shape = (b, self.scale * h, self.scale * w, c)
        # "highest": accelerators round the factors of float32 products otherwise.
        return jax.image.resize(lr, shape, "cubic", antialias=False, precision="highest")

    def encode(self, image: Image, condition: Image) -> Image:
        """Returns what noise is added to, of an image in [0, 1]; see `SR3Config.target`."""
        if self.config.target == "image":
            return 2 * image - 1
        return (image - condition) / self.config.deviation

    def decode(self, clean: Image, condition: Image) -> Image:
        """Returns the image in [0, 1]: the inverse of `encode`."""
        if self.config.target == "image":
            return (clean + 1) / 2
        return condition + self.config.deviation * clean

    def make_consistent(self, image: Image, lr: Image) -> Image:
        """Returns the image with what its bicubic reduction lacks of LR added, enlarged."""
        for _ in range(PROJECTIONS):
            lacking = lr - downsample_bicubic(image, self.scale)
            image = image + self.enlarge(lacking)
        return image


def diffusion_loss(
    method: SR3Base, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the loss of the predicted noise, at a noise level for each example (Equation 6)."""
    hr, condition = batch["hr"], method.upsample(batch["lr"])
    level_key, noise_key, dropout_key = jax.random.split(key, 3)
    losses = method.losses
    level = draw_levels(level_key, method.config.schedule.gammas, hr.shape[0], losses.uniform)
    noise = jax.random.normal(noise_key, hr.shape)
    noisy = diffuse(method.encode(hr, condition), level, noise)
    network = method.unet.bind(params["unet"])
    context = network.context(2 * condition - 1)
    found = network(noisy, context, network.shifts(level.signal), dropout_key)
    loss = PIXEL_LOSSES[losses.pixel](found, noise)
    return loss, LossResult({"noise": loss}, stats, {})
