"""Base of methods that train on images: pixel and perceptual losses, GAN phase.

Groups in training: ``discriminator`` and ``perceptual``, which are not part of a bundle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Execution, Image, Params, Scalar
from maskgit_sr.losses import adversarial as gan
from maskgit_sr.losses.perceptual import (
    PERCEPTUAL_LOSSES,
    build_perceptual,
    perceptual_loss,
    random_window,
)
from maskgit_sr.losses.pixel import PIXEL_LOSSES, lattice
from maskgit_sr.methods.base import Batch, LossResult, MethodBase, Phase, Stage, check_choice
from maskgit_sr.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from maskgit_sr.models.functional import Network


@dataclasses.dataclass(frozen=True)
class ImageLossConfig:
    """Losses between an image and its target, with an optional GAN (RealSRT §4.1).

    Attributes:
        pixel: pixel loss: ``l1`` or ``l2``.
        lattice: factor of the error that repeats every ``scale`` pixels (`losses.pixel.lattice`).
        perceptual: perceptual net: ``vgg19``, ``lpips_squeeze``, ``lpips_alex``, ``lpips_vgg`` or
            ``none``; several joined by + give the mean of their distances.
        perceptual_weight: factor of the perceptual loss.
        perceptual_shift: pixels by which the square that the perceptual net sees is smaller than
            the image. Its place is random in every step, which moves the image against the net's
            strides. Against fixed ones a decoder learns patterns of their period, which lower the
            loss and not the error (Kettunen et al., E-LPIPS, arXiv:1906.03973). 0 in the paper.
        adversarial_weight: factor on top of the adaptive weight; 0 leaves the GAN out.
        adversarial_start: step from which the GAN takes part.
        discriminator: shape of the PatchGAN discriminator.
    """

    pixel: str = "l2"
    lattice: float = 0.0
    perceptual: str = "vgg19"
    perceptual_weight: float = 0.1
    perceptual_shift: int = 0
    adversarial_weight: float = 1.0
    adversarial_start: int = 0
    discriminator: DiscriminatorConfig = DiscriminatorConfig()

    def __post_init__(self) -> None:
        """Raises ValueError for a loss that does not exist."""
        check_choice("losses.pixel", self.pixel, tuple(PIXEL_LOSSES))
        for name in self.perceptual.split("+"):
            check_choice("losses.perceptual", name, PERCEPTUAL_LOSSES)


@dataclasses.dataclass(frozen=True)
class Tail:
    """Last layers of an image network, arguments of `losses.adversarial.balanced_loss`.

    Attributes:
        features: input of those layers.
        trained: their parameters.
        apply: (trained, features) → image.
        kernel: picks the kernel that sets the adaptive weight from ``trained``.
    """

    features: jax.Array
    trained: Params
    apply: Callable[[Params, jax.Array], Image]
    kernel: Callable[[Params], jax.Array] = lambda trained: trained["kernel"]


class ImageMethod(MethodBase):
    """Base of methods whose losses compare images."""

    scale = 4
    losses_class: Any = ImageLossConfig

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        super().__init__(config, losses, execution)
        self.run = dataclasses.asdict(self.execution)

    @cached_property
    def discriminator(self) -> Network[PatchDiscriminator]:
        """The discriminator, made at its first use: it only trains, and no bundle has it.

        Shaped by the losses, not by the configuration.
        """
        shape, dtype = self.losses.discriminator, self.execution.dtype
        return Network(lambda rngs: PatchDiscriminator(shape, dtype=dtype, rngs=rngs))

    def image_stage(
        self, groups: tuple[str, ...], loss: Callable[..., Any], real: str = "hr", **more: Any
    ) -> Stage:
        """Returns a stage of image losses on ``groups``, with the GAN's phase where there is one.

        Args:
            loss: of the first phase; its ``carry`` holds ``fake``, the discriminator's input.
            real: array of the batch that the discriminator takes for real.
            more: fields of `Stage`.
        """
        phases = [Phase(groups, loss)]
        if self.losses.adversarial_weight > 0:
            phases.append(Phase(("discriminator",), partial(discriminator_loss, self, real)))
        frozen = {"perceptual": partial(build_perceptual, self.losses.perceptual)}
        return Stage(phases=tuple(phases), frozen=frozen, **more)


def reconstruction_loss(
    method: ImageMethod, params: Params, image: Image, target: Image, key: jax.Array
) -> Scalar:
    """Returns pixel + lattice + perceptual loss of an image, each by its factor."""
    config = method.losses
    loss = PIXEL_LOSSES[config.pixel](image, target)
    if config.lattice > 0:
        loss += config.lattice * lattice(image, target, method.scale)
    if config.perceptual_weight > 0:
        # Folded, because the callers split the same key for draws of their own.
        window = jax.random.fold_in(key, 1)
        seen = random_window(window, config.perceptual_shift, image, target)
        loss += config.perceptual_weight * perceptual_loss(params["perceptual"], *seen)
    return loss


def image_loss(
    method: ImageMethod,
    params: Params,
    targets: Sequence[tuple[float, Image]],
    tail: Tail,
    step: jax.Array,
    key: jax.Array,
) -> tuple[gan.Balanced, dict[str, Scalar]]:
    """Returns pixel + perceptual + adaptively weighted adversarial loss of the tail's image.

    The second result holds its terms as metrics.

    Args:
        targets: images that the output is compared with, each behind its weight.
    """
    config = method.losses

    def reconstruction(image: jax.Array) -> Scalar:
        found = (w * reconstruction_loss(method, params, image, t, key) for w, t in targets)
        return sum(found, jnp.float32(0))

    def adversarial(image: jax.Array) -> Scalar:
        fake = method.discriminator.apply(params["discriminator"], lambda m: m(image))
        return gan.hinge_generator(fake)

    scale: jax.Array | float = float(config.adversarial_weight)
    if config.adversarial_start > 0:
        # Traced, so that one compiled step serves both sides of the start.
        scale = scale * (step >= config.adversarial_start).astype(jnp.float32)
    balanced = gan.balanced_loss(
        tail.features,
        tail.trained,
        tail.apply,
        reconstruction,
        adversarial if config.adversarial_weight > 0 else None,
        scale,
        kernel=tail.kernel,
    )
    metrics = {"reconstruction": balanced.reconstruction}
    if balanced.adversarial is not None and balanced.weight is not None:
        metrics |= {"adversarial": balanced.adversarial, "adaptive_weight": balanced.weight}
    return balanced, metrics


def discriminator_loss(
    method: ImageMethod,
    real: str,
    params: Params,
    stats: Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, LossResult]:
    """Returns the hinge loss on the array ``real`` and the first phase's image.

    It is 0 before the GAN starts.
    """

    def judge(image: jax.Array) -> jax.Array:
        return method.discriminator.apply(params["discriminator"], lambda m: m(image))

    def active() -> tuple[Scalar, Scalar, Scalar]:
        good, bad = judge(batch[real]), judge(jax.lax.stop_gradient(batch["fake"]))
        return gan.hinge_discriminator(good, bad), good.mean(), bad.mean()

    def idle() -> tuple[Scalar, Scalar, Scalar]:
        return (jnp.float32(0),) * 3

    start = method.losses.adversarial_start
    # No branch where the GAN begins at once: behind lax.cond a step took 8.4 s on two cores
    # where its parts take 4.1 (docs/performance.md).
    loss, good, bad = active() if start == 0 else jax.lax.cond(step >= start, active, idle)
    metrics = {"discriminator": loss, "real": good, "fake": bad}
    return loss, LossResult(metrics, stats, {})
