"""Base of methods over a vector-quantised tokenizer: codebook, image losses, GAN phase, panels.

Groups: ``tokenizer``, ``codebook``; in training also ``discriminator`` and ``perceptual``, which
are not part of a bundle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Execution, Image, Latent, Params, Scalar, TokenGrid, Tokens
from maskgit_sr.losses import adversarial as gan
from maskgit_sr.losses.perceptual import (
    PERCEPTUAL_LOSSES,
    build_perceptual,
    perceptual_loss,
    random_window,
)
from maskgit_sr.losses.pixel import PIXEL_LOSSES
from maskgit_sr.methods.base import Batch, LossResult, MethodBase, Phase, Stage, check_choice
from maskgit_sr.models import codebook
from maskgit_sr.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from maskgit_sr.models.functional import Network
from maskgit_sr.models.vqgan import VQGAN, VQGANConfig
from maskgit_sr.ops.resize import upsample_bicubic


@dataclasses.dataclass(frozen=True)
class ImageLossConfig:
    """Losses on images, with an optional GAN (RealSRT §4.1).

    Attributes:
        pixel: pixel loss: ``l1`` or ``l2``.
        perceptual: perceptual net: ``vgg19``, ``lpips_squeeze``, ``lpips_alex`` or ``none``.
        perceptual_weight: factor of the perceptual loss.
        perceptual_shift: pixels by which the square that the perceptual net sees is smaller than
            the image. Its place is random in every step, which moves the image against the net's
            strides. Against fixed ones a decoder learns patterns of their period, which lower the
            loss and not the error (Kettunen et al., E-LPIPS, arXiv:1906.03973). 0 in the paper.
        adversarial_weight: factor on top of the adaptive weight; 0 leaves the GAN out.
        adversarial_start: step from which the GAN takes part.
        commitment: factor of the commitment loss.
        discriminator: shape of the PatchGAN discriminator.
    """

    pixel: str = "l2"
    perceptual: str = "vgg19"
    perceptual_weight: float = 0.1
    perceptual_shift: int = 0
    adversarial_weight: float = 1.0
    adversarial_start: int = 0
    commitment: float = 0.25
    discriminator: DiscriminatorConfig = DiscriminatorConfig()

    def __post_init__(self) -> None:
        """Raises ValueError for a loss that does not exist."""
        check_choice("losses.pixel", self.pixel, tuple(PIXEL_LOSSES))
        check_choice("losses.perceptual", self.perceptual, PERCEPTUAL_LOSSES)


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


class VQMethod(MethodBase):
    """Base of methods whose images pass through a VQGAN's tokens.

    The configuration has a field ``tokenizer``. Subclasses add their own networks, as attributes
    named like their groups.
    """

    scale = 4
    groups: tuple[str, ...] = ("tokenizer", "codebook")
    exact = frozenset({"codebook"})  # a rounded code vector changes which token an image gets
    provides = frozenset({"confidence", "tokens"})
    losses_class: Any = ImageLossConfig

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        super().__init__(config, losses, execution)
        tokenizer: VQGANConfig = self.config.tokenizer
        self.codes, self.code_width = tokenizer.codes, tokenizer.code_width
        self.factor = tokenizer.factor
        self.run = dataclasses.asdict(self.execution)
        self.tokenizer = Network(lambda rngs: VQGAN(tokenizer, **self.run, rngs=rngs))
        # Shaped by the losses, not by the configuration: it only trains, and no bundle has it.
        self.discriminator = Network(
            lambda rngs: PatchDiscriminator(
                self.losses.discriminator, dtype=self.execution.dtype, rngs=rngs
            )
        )

    # ------------------------------------------------------------ parameters

    def shapes(self) -> Params:
        """Returns the shapes of the bundle's groups."""
        embedding = jax.ShapeDtypeStruct((self.codes, self.code_width), jnp.float32)
        networks = {g: getattr(self, g).shapes for g in self.groups if g != "codebook"}
        return networks | {"codebook": {"embedding": embedding}}

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Returns fresh parameters and statistics of ``groups``; each group has its own key."""
        params: Params = {}
        stats: Params = {}
        for group in groups:
            # By its place in the method: stages that start apart give the same parameters as one
            # start of all groups.
            index = (*self.groups, "discriminator").index(group)
            group_key = jax.random.fold_in(key, index)
            if group == "codebook":
                stats[group] = codebook.init(group_key, self.codes, self.code_width)._asdict()
                params[group] = {"embedding": stats[group]["embedding"]}
            else:
                params[group] = getattr(self, group).init(group_key)
        return params, stats

    def continued_stats(self, params: Params) -> Params:
        """Returns the codebook's statistics from a trained codebook."""
        if "codebook" not in params:
            return {}
        return {"codebook": codebook.continued(params["codebook"]["embedding"])._asdict()}

    # ------------------------------------------------------------ tokens and images

    def upsample(self, lr: Image) -> Image:
        """Returns the bicubically enlarged image that the networks see."""
        return upsample_bicubic(lr, self.scale)

    def tokenize(self, params: Params, image: Image) -> TokenGrid:
        """Returns the codebook indices [B, H/f, W/f] of an image [B, H, W, 3]."""
        vectors = self.tokenizer.apply(params["tokenizer"], lambda m: m.encode(image))
        return codebook.nearest(vectors, params["codebook"]["embedding"])

    def embed(self, params: Params, tokens: TokenGrid | Tokens) -> Latent:
        """Returns the code vectors [..., C] of codebook indices [...]."""
        return jnp.take(params["codebook"]["embedding"], tokens, axis=0)

    def decode_tokens(self, params: Params, tokens: TokenGrid) -> Image:
        """Returns the image [B, h·f, w·f, 3], not clipped, of tokens [B, h, w]."""
        vectors = self.embed(params, tokens)
        return self.tokenizer.apply(params["tokenizer"], lambda m: m.decode(vectors))

    def training_latent(self, vectors: Latent, quantized: Latent, key: jax.Array) -> Latent:
        """Returns the input of the tokenizer's decoder in training: straight-through codes."""
        return codebook.straight_through(vectors, quantized)

    # ------------------------------------------------------------ training

    def image_stage(self, groups: tuple[str, ...], loss: Callable[..., Any], **more: Any) -> Stage:
        """Returns a stage of image losses on ``groups``, with the GAN's phase where there is one.

        Args:
            loss: of the first phase; its ``carry`` holds ``fake``, the discriminator's input.
            more: fields of `Stage`.
        """
        phases = [Phase(groups, loss)]
        if self.losses.adversarial_weight > 0:
            phases.append(Phase(("discriminator",), partial(discriminator_loss, self)))
        frozen = {"perceptual": partial(build_perceptual, self.losses.perceptual)}
        return Stage(phases=tuple(phases), frozen=frozen, **more)

    def tokenizer_stage(self) -> Stage:
        """Returns the stage that learns the tokenizer and its codebook from HR images alone."""
        return self.image_stage(
            ("tokenizer",),
            partial(tokenizer_loss, self),
            exports=("tokenizer", "codebook"),
            panel=partial(tokenizer_panel, self),
            batch=("hr",),
            fresh_stats=("codebook",),
            finish=keep_codebook,
        )


def keep_codebook(params: Params, stats: Params) -> Params:
    """Returns ``params`` with the codebook of ``stats``."""
    return params | {"codebook": {"embedding": stats["codebook"]["embedding"]}}


def image_loss(
    method: VQMethod, params: Params, target: Image, tail: Tail, step: jax.Array, key: jax.Array
) -> tuple[gan.Balanced, dict[str, Scalar]]:
    """Returns pixel + perceptual + adaptively weighted adversarial loss of the tail's image.

    The second result holds its terms as metrics.
    """
    config = method.losses
    pixel = PIXEL_LOSSES[config.pixel]
    # Folded, because the callers split the same key for draws of their own.
    window = jax.random.fold_in(key, 1)

    def reconstruction(image: jax.Array) -> Scalar:
        loss = pixel(image, target)
        if config.perceptual_weight > 0:
            seen = random_window(window, config.perceptual_shift, image, target)
            loss += config.perceptual_weight * perceptual_loss(params["perceptual"], *seen)
        return loss

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


def tokenizer_loss(
    method: VQMethod, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the reconstruction's image losses plus commitment; updates the codebook's EMA."""
    hr = batch["hr"]
    latent_key, codebook_key = jax.random.split(key)
    book = codebook.CodebookStats(**stats["codebook"])
    network = method.tokenizer.bind(params["tokenizer"])
    vectors = network.encode(hr)
    # The codes of before the EMA step below: tokens, latent and commitment belong together.
    indices = codebook.nearest(jax.lax.stop_gradient(vectors), book.embedding)
    quantized = jnp.take(book.embedding, indices, axis=0)
    commitment = codebook.commitment(vectors, quantized)
    latent = network.latent(method.training_latent(vectors, quantized, latent_key))

    # The last layer is an argument, because its gradients set the adaptive weight.
    def head(last: Params, features: jax.Array) -> jax.Array:
        decoder = params["tokenizer"]["decoder"] | {"conv_out": last}
        return method.tokenizer.apply(
            params["tokenizer"] | {"decoder": decoder}, lambda m: m.decoder.head(features)
        )

    tail = Tail(network.decoder.body(latent), params["tokenizer"]["decoder"]["conv_out"], head)
    balanced, metrics = image_loss(method, params, hr, tail, step, key)
    flat = vectors.reshape(-1, vectors.shape[-1])
    book = codebook.update(book, flat, indices.reshape(-1), codebook_key)
    metrics |= {
        "commitment": commitment,
        "perplexity": codebook.perplexity(indices, book.embedding.shape[0]),
    }
    loss = balanced.surrogate + method.losses.commitment * commitment
    return loss, LossResult(metrics, stats | {"codebook": book._asdict()}, {"fake": balanced.image})


def discriminator_loss(
    method: VQMethod, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the hinge loss on HR and the first phase's image; 0 before the GAN starts."""

    def judge(image: jax.Array) -> jax.Array:
        return method.discriminator.apply(params["discriminator"], lambda m: m(image))

    def active() -> tuple[Scalar, Scalar, Scalar]:
        real, fake = judge(batch["hr"]), judge(jax.lax.stop_gradient(batch["fake"]))
        return gan.hinge_discriminator(real, fake), real.mean(), fake.mean()

    def idle() -> tuple[Scalar, Scalar, Scalar]:
        return (jnp.float32(0),) * 3

    start = method.losses.adversarial_start
    # No branch where the GAN begins at once: behind lax.cond a step took 8.4 s on two cores
    # where its parts take 4.1 (docs/performance.md).
    loss, real, fake = active() if start == 0 else jax.lax.cond(step >= start, active, idle)
    metrics = {"discriminator": loss, "real": real, "fake": fake}
    return loss, LossResult(metrics, stats, {})


def tokenizer_panel(
    method: VQMethod, params: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Returns HR and its reconstruction through the codebook."""
    tokens = method.tokenize(params, batch["hr"])
    return {"hr": batch["hr"], "output": method.decode_tokens(params, tokens)}
