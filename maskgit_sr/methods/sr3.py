"""SR3 (arXiv:2104.07636): diffusion of the HR image given the LR one, and its regression baseline.

Both are one U-Net that sees the bicubically enlarged LR image. SR3 removes noise with it in many
steps; the regression predicts the image in one pass, from no noise. docs/parity.md says where the
public re-implementation differs. Group: ``unet``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.arrays import Image, Keys, Params, Scalar
from maskgit_sr.decoding.diffusion import SAMPLERS, VARIANCES, sample, table
from maskgit_sr.losses.pixel import PIXEL_LOSSES
from maskgit_sr.methods.base import (
    Batch,
    LossResult,
    Phase,
    Restored,
    RestoreOptions,
    Stage,
    check_choice,
)
from maskgit_sr.methods.sr3_base import MAX_STEPS, RegressionLosses, SR3Base, diffusion_loss
from maskgit_sr.ops import diffusion as schedules
from maskgit_sr.ops.color import correct
from maskgit_sr.ops.noise import Windows, noise_at

PREVIEW = dict(sampler="dpm", steps=20)
"""Options that images are drawn with in training: five times fewer passes than the default."""


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
