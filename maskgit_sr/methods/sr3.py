"""SR3 (arXiv:2104.07636): diffusion of the HR image given the LR one, and its regression baseline.

Both are one U-Net that sees the bicubically enlarged LR image. SR3 removes noise with it in many
steps; the regression predicts the image in one pass, from no noise. docs/parity.md says where the
public re-implementation differs. Group: ``unet``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.arrays import Execution, Image, Keys, Params, Scalar
from maskgit_sr.decoding.diffusion import SAMPLERS, VARIANCES, sample, table
from maskgit_sr.losses.diffusion import LEVELS, diffuse, draw_levels
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
    Windows,
    check_choice,
)
from maskgit_sr.models.fields import Range, Scale
from maskgit_sr.models.functional import Network
from maskgit_sr.models.sr3_unet import UNet, UNetConfig
from maskgit_sr.ops import diffusion as schedules
from maskgit_sr.ops.color import correct
from maskgit_sr.ops.noise import noise_at
from maskgit_sr.ops.resize import downsample_bicubic

TARGETS = ("image", "residual")
MAX_STEPS = 4000
PROJECTIONS = 3
"""Times that LR is projected back in a step: each leaves about a tenth of the difference."""
PREVIEW = dict(sampler="dpm", steps=20)
"""Options that images are drawn with in training: five times fewer passes than the default."""


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Noise schedule of the training.

    Attributes:
        kind: as in `maskgit_sr.ops.diffusion.betas`.
        steps: T.
        start: β_1, the re-implementation's, as the paper gives none.
        end: β_T.

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


@dataclasses.dataclass(frozen=True)
class SR3Options(RestoreOptions):
    """Options of sampling.

    Attributes:
        sampler: ``ancestral`` (the paper's), ``ddim`` or ``dpm`` (DPM-Solver++(2M)).
        steps: passes of the network.
        variance: of ``ancestral``: ``large`` (the paper's) or ``small`` (the re-implementation's).
        eta: of ``ddim``, 0 to 1: share of the noise that ``small`` ancestral steps draw.
        schedule: ``respaced``, steps of the training's at equal distances, or a kind of its own.
        beta_start: first β of such a kind.
        beta_end: last β of such a kind. Fewer steps need a larger one; 0: the one that ends where
            the training's schedule does.
        clip: clip the estimate to valid intensities in every step.
        consistency: last steps in which the estimate, reduced by the scale, is made to equal LR.
    """

    sampler: str = "ancestral"
    steps: int = 100
    variance: str = "large"
    eta: float = 0.0
    schedule: str = "respaced"
    beta_start: float = 1e-6
    beta_end: float = 0.0
    clip: bool = True
    consistency: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("variance", self.variance, VARIANCES)
        check_choice("schedule", self.schedule, ("respaced", *schedules.KINDS))
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps: expected 1 to {MAX_STEPS}, found {self.steps}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected 0 to 1, found {self.eta}")
        for name, least in (("beta_start", "above 0"), ("beta_end", "0 or more")):
            value = getattr(self, name)
            if not 0 <= value < 1 or (name == "beta_start" and not value):
                raise ValueError(f"{name}: expected {least} and below 1, found {value}")
        if not 0 <= self.consistency <= self.steps:
            raise ValueError(
                f"consistency: expected 0 to {self.steps}, the steps, found {self.consistency}"
            )

    @property
    def stochastic(self) -> bool:
        """True: what every sampler starts from is drawn."""
        return True


class SR3Base(MethodBase):
    """Network of both methods, and what it is given and predicts."""

    groups = ("unet",)
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


class SR3(SR3Base):
    """The method: noise is removed step by step."""

    name = "sr3"
    options_class = SR3Options
    studies: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
        "steps": tuple(
            (f"{sampler} {steps}", {"sampler": sampler, "steps": steps})
            for sampler in SAMPLERS
            for steps in (5, 10, 20, 50, 100)
        ),
        "variance": tuple((kind, {"variance": kind}) for kind in VARIANCES),
    }

    def options(self, /, **given: Any) -> SR3Options:
        """Returns the options, None standing for a default.

        Raises:
            ValueError: as `make_options`, or a schedule that has fewer steps or no noise at its
                end.
        """
        chosen: SR3Options = super().options(**given)
        self.gammas(chosen)
        return chosen

    def gammas(self, options: SR3Options) -> np.ndarray:
        """Returns γ_0 = 1, …, γ_T of the options' schedule, float64.

        Raises:
            ValueError: as :meth:`options`.
        """
        trained, kind, steps = self.config.schedule.gammas, options.schedule, options.steps
        if kind == "respaced":
            return schedules.respaced(trained, steps)
        start, what = options.beta_start, f"schedule: {kind}, {steps} steps,"
        fitting = end = 0.5
        if kind not in schedules.ENDLESS:
            fitting = schedules.fitting_end(kind, steps, start, trained[-1])
            end = options.beta_end or fitting
            what += f" β {start:g} to {end:g} ({fitting:.3g} would fit),"
        found = schedules.gammas(kind, steps, start, end)
        schedules.check_end(found, what)
        return found

    def generate(
        self, params: Params, lr: Image, keys: Keys, origins: jax.Array, options: SR3Options
    ) -> Image:
        """Returns the sampled image [B, sH, sW, 3], not clipped after the last step.

        Args:
            keys: of the windows' images.
            origins: row and column of each window in its image, in LR pixels, int32 [B, 2].
        """
        network = self.unet.bind(params["unet"])
        condition = self.upsample(lr)
        coefficients = table(
            self.gammas(options), options.sampler, variance=options.variance, eta=options.eta
        )
        # Both are constant over the steps.
        context = network.context(2 * condition - 1)
        shifts = network.shifts(jnp.asarray(coefficients.levels))
        first = options.steps - options.consistency
        _, h, w, c = condition.shape

        def denoise(y: Image, step: jax.Array) -> Image:
            shift = jax.lax.dynamic_slice_in_dim(shifts, step, 1)
            found: Image = network(y, context, shift)
            return found

        def noise(step: jax.Array) -> Image:
            return noise_at(keys, origins * self.scale, (h, w, c), step)

        def project(clean: Image, step: jax.Array) -> Image:
            image = self.decode(clean, condition)
            if options.consistency:
                image = jax.lax.cond(
                    step >= first, lambda x: self.make_consistent(x, lr), lambda x: x, image
                )
            if options.clip:
                image = jnp.clip(image, 0, 1)
            return self.encode(image, condition)

        whole = options.clip or options.consistency
        clean = sample(denoise, noise, coefficients, *([project] if whole else []))
        return self.decode(clean, condition)

    def restore(self, params: Params, lr: Image, keys: Keys, options: SR3Options) -> Restored:
        """Restores LR windows, each as the corner of an image of its own."""
        return self.restore_windows(params, lr, Windows.alone(keys), options)

    def restore_windows(
        self, params: Params, lr: Image, windows: Windows, options: SR3Options
    ) -> Restored:
        """Restores LR windows; where those of one image overlap, their noise is the same."""
        image = self.generate(params, lr, windows.keys, windows.origins, options)
        return Restored(correct(image, lr, options.color_fix))

    @property
    def stages(self) -> dict[str, Stage]:
        """Returns the only stage, ``diffusion``."""
        phase = Phase(("unet",), partial(diffusion_loss, self))
        return {"diffusion": Stage((phase,), exports=("unet",), panel=partial(panel, self))}


class SR3Regression(SR3Base):
    """The paper's baseline: the same network, trained to predict the image in one pass."""

    name = "sr3_regression"
    losses_class = RegressionLosses

    def predict(
        self, params: Params, lr: Image, key: jax.Array | None = None
    ) -> tuple[Image, Image]:
        """Returns the predicted target, see `encode`, and the condition.

        Args:
            key: of dropout; None: no dropout.
        """
        network, condition = self.unet.bind(params["unet"]), self.upsample(lr)
        # No noise, and no noisy image.
        shifts = network.shifts(jnp.ones((1,), jnp.float32))
        context = network.context(2 * condition - 1)
        return network(jnp.zeros_like(condition), context, shifts, key), condition

    def restore(self, params: Params, lr: Image, keys: Keys, options: RestoreOptions) -> Restored:
        """Restores LR windows; ``keys`` have no part in it."""
        image = self.decode(*self.predict(params, lr))
        return Restored(correct(image, lr, options.color_fix))

    @property
    def stages(self) -> dict[str, Stage]:
        """Returns the only stage, ``regression``."""
        phase = Phase(("unet",), partial(regression_loss, self))
        return {"regression": Stage((phase,), exports=("unet",), panel=partial(panel, self))}


def diffusion_loss(
    method: SR3, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
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


def regression_loss(
    method: SR3Regression,
    params: Params,
    stats: Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, LossResult]:
    """Returns the loss of the predicted target."""
    found, condition = method.predict(params, batch["lr"], key)
    loss = PIXEL_LOSSES[method.losses.pixel](found, method.encode(batch["hr"], condition))
    return loss, LossResult({"target": loss}, stats, {})


def panel(method: SR3Base, params: Params, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    """Returns the enlarged LR image, the output and HR."""
    keys = jax.random.split(key, batch["lr"].shape[0])
    options = method.options(**(PREVIEW if isinstance(method, SR3) else {}))
    found: Restored = method.restore(params, batch["lr"], keys, options)
    return {"bicubic": method.upsample(batch["lr"]), "output": found.image, "hr": batch["hr"]}
