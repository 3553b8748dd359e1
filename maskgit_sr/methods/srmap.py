"""SRMAP: super-resolution as explicit MAP optimisation, with noise injection and a critic.

An L1 net first. Then the same network, with noise before every activation, is trained to keep the
LR image (fidelity, the likelihood) and to please a relativistic critic (the prior). It is made for
LR images of clean bicubic reductions: others contradict the fidelity. docs/parity.md has the public
code's values. Groups: ``generator``, ``noise``; in training ``critic`` and ``perceptual``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Execution, Image, Keys, Params, Scalar
from maskgit_sr.errors import UserError
from maskgit_sr.losses.adversarial import r1_penalty
from maskgit_sr.losses.perceptual import PERCEPTUAL_LOSSES, build_perceptual, perceptual_loss
from maskgit_sr.losses.relativistic import fidelity, relativistic
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
)
from maskgit_sr.models.fields import Factor, Range
from maskgit_sr.models.functional import Network
from maskgit_sr.models.srmap_critic import Critic, CriticConfig
from maskgit_sr.models.srmap_generator import Generator, GeneratorConfig, Noise, NoiseScales
from maskgit_sr.ops.color import correct
from maskgit_sr.ops.noise import Windows, channels_of, words_at


@dataclasses.dataclass(frozen=True)
class SRMAPConfig:
    """Network and windows; the defaults are the published ×4 network.

    Attributes:
        tile: windows in LR pixels.
        generator: the network, which sets the scale.
    """

    tile: TileSpec = TileSpec((48, 128), 16, 0.0)
    generator: GeneratorConfig = GeneratorConfig()


@dataclasses.dataclass(frozen=True)
class SRMAPLosses:
    """Training losses; images count in [0, 1], where the published run counts to 255.

    Attributes:
        fidelity: factor of the fidelity, α: 10 · 255.
        adversarial: factor of the generator's relativistic loss; 0 leaves the critic out.
        r1: factor γ of half the critic's squared gradient at HR images: 10 / 255².
        r2: the same at the generator's images; 0 in the published run.
        penalty_every: steps from one gradient penalty to the next, which then counts as many times.
            1 in the published run; others save most of what it costs.
        noise_scale: noise scales at the begin of the stage ``map``. 0 in the published run, whose
            authors miss diversity.
        diversity: factor of the perceptual distance between two outputs for one input, which is
            rewarded; 0 in the published run.
        perceptual: net of that distance, as `ImageLossConfig.perceptual`.
        critic: shape of the critic.
    """

    fidelity: Factor = 2550.0
    adversarial: Factor = 1.0
    r1: Factor = 10 / 255**2
    r2: Factor = 0.0
    penalty_every: Annotated[int, Range(1, 1024)] = 1
    noise_scale: Factor = 0.05
    diversity: Factor = 0.0
    perceptual: str = "lpips_alex"
    critic: CriticConfig = CriticConfig()

    def __post_init__(self) -> None:
        """Raises ValueError for a distance that does not exist."""
        for name in self.perceptual.split("+"):
            check_choice("losses.perceptual", name, PERCEPTUAL_LOSSES)


@dataclasses.dataclass(frozen=True)
class SRMAPOptions(RestoreOptions):
    """Options of restoration.

    Attributes:
        noise: factor of the noise; 0: none, and the same image for every seed.
    """

    noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise <= 10:
            raise ValueError(f"noise: expected 0 to 10, found {self.noise}")

    @property
    def stochastic(self) -> bool:
        """True unless there is no noise."""
        return self.noise > 0


class SRMAP(MethodBase):
    """The method: one pass of the generator."""

    name = "srmap"
    groups: tuple[str, ...] = ("generator", "noise")
    config_class, losses_class, options_class = SRMAPConfig, SRMAPLosses, SRMAPOptions
    studies: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
        "noise": tuple((f"noise {x:g}", {"noise": x}) for x in (0.0, 0.5, 1.0, 2.0)),
    }

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        super().__init__(config, losses, execution)
        shape, run = self.config.generator, dataclasses.asdict(self.execution)
        self.scale: int = shape.scale
        self.generator = Network(lambda rngs: Generator(shape, **run, rngs=rngs))
        initial = self.losses.noise_scale
        self.noise = Network(lambda rngs: NoiseScales(shape, initial))

    @cached_property
    def critic(self) -> Network[Critic]:
        """The critic, made at its first use: it only trains, and no bundle has it."""
        shape, dtype = self.losses.critic, self.execution.dtype
        return Network(lambda rngs: Critic(shape, dtype=dtype, rngs=rngs))

    def shapes(self) -> Params:
        """Returns the shapes of the generator's parameters and noise scales."""
        return {"generator": self.generator.shapes, "noise": self.noise.shapes}

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Returns fresh parameters."""
        known = ("generator", "noise", "critic")
        return {
            group: getattr(self, group).init(jax.random.fold_in(key, known.index(group)))
            for group in groups
        }, {}

    def generate(self, params: Params, lr: Image, noise: Noise | None = None) -> Image:
        """Returns the generator's image [B, sH, sW, 3], not clipped."""
        found: Image = self.generator.apply(params["generator"], lambda net: net(lr, noise))
        return found

    def generate_drawn(
        self, params: Params, lr: Image, windows: Windows, factor: float = 1.0
    ) -> Image:
        """Returns `generate` with the noise of ``windows``, times ``factor``."""
        height, width = lr.shape[1:3]

        def draw(number: int, zoom: int) -> Callable[[int, int], jax.Array]:
            shape = (zoom * height, zoom * width)
            words = words_at(windows.keys, windows.origins * zoom, shape, number)
            return lambda start, channels: factor * channels_of(words, start, channels)

        noise = self.noise.apply(params["noise"], lambda scales: scales(draw))
        return self.generate(params, lr, noise)

    def restore(self, params: Params, lr: Image, keys: Keys, options: SRMAPOptions) -> Restored:
        """Restores LR windows, each as the corner of an image of its own."""
        return self.restore_windows(params, lr, Windows.alone(keys), options)

    def restore_windows(
        self, params: Params, lr: Image, windows: Windows, options: SRMAPOptions
    ) -> Restored:
        """Restores LR windows; where those of one image overlap, their noise is the same."""
        if options.noise:
            image = self.generate_drawn(params, lr, windows, options.noise)
        else:
            image = self.generate(params, lr)
        return Restored(correct(image, lr, options.color_fix))

    @property
    def stages(self) -> dict[str, Stage]:
        """Returns the stages ``l1`` and ``map``, which goes on from the first one's generator."""
        losses, frozen = self.losses, {}
        if losses.diversity > 0:
            frozen["perceptual"] = partial(build_perceptual, losses.perceptual)
        phases = [Phase(("generator", "noise"), partial(map_loss, self))]
        if losses.adversarial > 0:
            phases.insert(0, Phase(("critic",), partial(critic_loss, self)))
        panel = partial(_panel, self)
        return {
            "l1": Stage(
                (Phase(("generator",), partial(l1_loss, self)),),
                exports=self.groups,
                panel=panel,
                finish=self._silence,
            ),
            "map": Stage(
                tuple(phases),
                exports=self.groups,
                panel=panel,
                continues=("generator",),
                frozen=frozen,
            ),
        }

    def _silence(self, params: Params, stats: Params) -> Params:
        """Returns the parameters with noise scales of 0: the first stage trains without noise."""
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.noise.shapes)
        return params | {"noise": zeros}


def _half(batch: Batch, which: int) -> tuple[Image, Image]:
    """Returns LR and HR of the batch's even examples, or of its odd ones.

    Not of its first and second half: every device then holds as many of both.

    Raises:
        UserError: the number of examples is odd.
    """
    count = batch["hr"].shape[0]
    if count % 2:
        raise UserError(
            f"stage map: expected an even number of examples for a device and microbatch, half of"
            f" them for the critic, found {count}"
        )
    return batch["lr"][which::2], batch["hr"][which::2]


def _check_crop(method: SRMAP, hr: Image) -> None:
    """Raises UserError for crops of another size than the critic's stages reduce to its kernel."""
    shape = method.losses.critic
    if hr.shape[1:3] != (shape.side, shape.side):
        raise UserError(
            f"losses.critic: {len(shape.blocks)} stages and a kernel of {shape.kernel} take HR"
            f" crops of {shape.side}x{shape.side}, found {hr.shape[1]}x{hr.shape[2]}"
        )


def _draw(method: SRMAP, params: Params, lr: Image, key: jax.Array) -> Image:
    """Returns the generator's images with noise of ``key``."""
    windows = Windows.alone(jax.random.split(key, lr.shape[0]))
    return method.generate_drawn(params, lr, windows)


def l1_loss(
    method: SRMAP, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the mean absolute error of the image without noise (Equation 3)."""
    error = jnp.abs(method.generate(params, batch["lr"]) - batch["hr"]).mean()
    return error, LossResult({"l1": error}, stats, {})


def critic_loss(
    method: SRMAP, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the critic's relativistic loss and gradient penalties (Equation 7)."""
    losses = method.losses
    _check_crop(method, batch["hr"])
    lr, hr = _half(batch, 0)
    fake = jax.lax.stop_gradient(_draw(method, params, lr, key))
    critic = method.critic.bind(params["critic"])
    real_scores, fake_scores = critic(hr), critic(fake)
    loss = relativistic(real_scores, fake_scores)
    metrics = {"relativistic": loss, "gap": (real_scores - fake_scores).mean()}

    def penalties() -> Scalar:
        found = jnp.float32(0)
        for factor, images in ((losses.r1, hr), (losses.r2, fake)):
            if factor > 0:
                found += factor / 2 * r1_penalty(critic, images)
        return found

    if losses.r1 > 0 or losses.r2 > 0:
        every = losses.penalty_every
        if every > 1:
            due = step % every == 0
            found = jax.lax.cond(due, lambda: every * penalties(), lambda: jnp.float32(0))
        else:
            found = penalties()
        metrics["penalty"] = found
        loss += found
    return loss, LossResult(metrics, stats, {})


def map_loss(
    method: SRMAP, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the generator's fidelity and relativistic loss (Equation 6)."""
    losses = method.losses
    lr, hr = _half(batch, 1)
    first, second = jax.random.split(key)
    image = _draw(method, params, lr, first)
    metrics = {"fidelity": fidelity(image, lr)}
    loss = losses.fidelity * metrics["fidelity"]
    if losses.adversarial > 0:
        critic = method.critic.bind(params["critic"])
        metrics["relativistic"] = relativistic(critic(image), critic(hr))
        loss += losses.adversarial * metrics["relativistic"]
    if losses.diversity > 0:
        other = _draw(method, params, lr, second)
        metrics["diversity"] = perceptual_loss(params["perceptual"], image, other)
        loss -= losses.diversity * metrics["diversity"]
    return loss, LossResult(metrics, stats, {})


def _panel(method: SRMAP, params: Params, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    """Returns the bilinearly enlarged LR image, the output of a seed, and HR."""
    keys = jax.random.split(key, batch["lr"].shape[0])
    found = method.restore(params, batch["lr"], keys, method.options())
    shape = batch["hr"].shape
    bilinear = jax.image.resize(batch["lr"], shape, "linear", antialias=False)
    return {"bilinear": bilinear, "output": found.image, "hr": batch["hr"]}
