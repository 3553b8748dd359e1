"""Stages of SR-MaskGIT: MaskGIT's VQGAN, its prior of HR tokens, the controlling module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maskgit_sr.arrays import (
    Image,
    Keys,
    Params,
    Scalar,
    TokenGrid,
    TokenMask,
    Tokens,
)
from maskgit_sr.losses import adversarial as gan
from maskgit_sr.losses import token as token_losses
from maskgit_sr.losses.codebook import entropy
from maskgit_sr.losses.perceptual import build_perceptual
from maskgit_sr.methods.base import (
    Batch,
    LossResult,
    Phase,
    Restored,
    RestoreOptions,
    Stage,
    check_choice,
)
from maskgit_sr.methods.image import ImageLossConfig, reconstruction_loss
from maskgit_sr.methods.maskgit import MaskGITNetworks
from maskgit_sr.methods.maskgit_starts import codes_from_noise, near_alike
from maskgit_sr.models import codebook, control
from maskgit_sr.models.discriminator import DiscriminatorConfig
from maskgit_sr.models.fields import Factor, Range
from maskgit_sr.ops import color
from maskgit_sr.ops.masking import random_mask
from maskgit_sr.ops.resize import upsample_nearest
from maskgit_sr.ops.schedules import gamma


@dataclasses.dataclass(frozen=True)
class MaskGITLosses(ImageLossConfig):
    """Training losses; the defaults are those of MaskGIT's configurations.

    Attributes:
        adversarial_weight: factor of the non-saturating GAN loss; 0 leaves the GAN out.
        codebook: factor of the squared distance that moves the codes.
        commitment: factor of the squared distance that moves the encoder's vectors.
        entropy: factor of the entropy loss of the codes.
        entropy_temperature: temperature of its distances.
        code_start: what the codes are at first: ``uniform``, near 0, as in the public code; or
            ``noise``, the fresh encoder's vectors of `natural_noise`. From the first the encoder
            runs away before the codes follow, which costs a short training its codes.
        transformer_start: what the prior is at first: ``random``, as in the public code; or
            ``alike`` (`near_alike`): near tokens attend to each other and near codes take each
            other's place, which a short training hardly finds by itself.
        r1: cost of the discriminator's gradient penalty at real images.
        smoothing: label smoothing of the prior.
        least_masked: least share of a prior's tokens that is masked.
        joined: share of the correction's examples that predict masked HR tokens from the others
            and from all LR tokens; 0 in the paper, above 0 for the option ``threshold``.
    """

    adversarial_weight: float = 0.1
    discriminator: DiscriminatorConfig = DiscriminatorConfig(norms=False)
    codebook: Factor = 1.0
    commitment: Factor = 0.25
    entropy: Factor = 0.1
    entropy_temperature: Annotated[float, Range(1e-4, 1e4)] = 0.01
    code_start: str = "uniform"
    transformer_start: str = "random"
    r1: Factor = 10.0
    smoothing: Annotated[float, Range(0, 0.99)] = 0.1
    least_masked: Annotated[float, Range(0, 1)] = 0.5
    joined: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("losses.code_start", self.code_start, ("uniform", "noise"))
        check_choice("losses.transformer_start", self.transformer_start, ("random", "alike"))


@dataclasses.dataclass(frozen=True)
class MaskGITOptions(RestoreOptions):
    """Options of both methods.

    Attributes:
        control: the controlling module steers the decoder, in a bundle that has one.
    """

    control: bool = True


class MaskGITMethod(MaskGITNetworks):
    """Base of both methods: restoration through tokens, and the stages that they share."""

    losses_class: Any = MaskGITLosses

    def predict(
        self, params: Params, lr_tokens: TokenGrid, keys: Keys, options: Any
    ) -> tuple[TokenGrid, Float[Array, "B h w"]]:
        """Returns the tokens [B, h, w] from those of the enlarged LR image, and their confidence.

        The confidence [B, h, w] is the tokens' probability. For subclasses.
        """
        raise NotImplementedError

    def restore(self, params: Params, lr: Image, keys: Keys, options: Any) -> Restored:
        """Restores LR windows [B, side, side, 3] in [0, 1] at ×2."""
        upsampled = self.upsample(lr)
        tokens, probability = self.predict(params, self.tokenize(params, upsampled), keys, options)
        steered = options.control and self.config.control
        image = self.render(params, tokens, upsampled if steered else None)
        image = color.correct(image, lr, options.color_fix)
        return Restored(image, probability if options.confidence else None, tokens)

    def gan_stage(self, group: str, loss: Callable[..., Any], **more: Any) -> Stage:
        """Returns a stage of image losses on a group, with the GAN's phase where there is one."""
        phases = [Phase((group,), partial(loss, self))]
        if self.losses.adversarial_weight > 0:
            phases.append(Phase(("discriminator",), partial(discriminator_loss, self)))
        frozen = {"perceptual": partial(build_perceptual, self.losses.perceptual)}
        return Stage(phases=tuple(phases), exports=(group,), frozen=frozen, **more)

    def tokenizer_stage(self) -> Stage:
        """Returns the stage that learns the VQGAN from HR images alone."""
        more: dict[str, Any] = dict(panel=partial(tokenizer_panel, self), batch=("hr",))
        if self.losses.code_start == "noise":
            more["start"] = partial(codes_from_noise, self)
        return self.gan_stage("tokenizer", tokenizer_loss, **more)

    def prior_stage(self) -> Stage:
        """Returns the stage that learns masked tokens of HR images alone."""
        more: dict[str, Any] = {}
        if self.losses.transformer_start == "alike":
            more["start"] = partial(near_alike, self)
        return Stage(
            phases=(Phase(("transformer",), partial(prior_loss, self)),),
            exports=("transformer",),
            panel=partial(prior_panel, self),
            needs=("tokenizer",),
            batch=("hr",),
            **more,
        )

    def control_stage(self) -> Stage:
        """Returns the stage of the controlling module, over the tokens that are predicted."""
        return self.gan_stage(
            "control",
            control_loss,
            panel=partial(restore_panel, self),
            needs=("tokenizer", "transformer"),
            start=lambda params: (
                params | {"control": control.start(params["control"], params["tokenizer"])}
            ),
        )

    def transformer_stages(self) -> dict[str, Stage]:
        """Returns the stages of the transformer, in order."""
        return {"prior": self.prior_stage()}

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Returns the stages in order: tokenizer, the transformer's, control if there is one."""
        stages = {"tokenizer": self.tokenizer_stage(), **self.transformer_stages()}
        return stages | ({"control": self.control_stage()} if self.config.control else {})


def tokenizer_loss(
    method: MaskGITNetworks,
    params: Params,
    stats: Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, LossResult]:
    """Returns reconstruction, codebook, commitment, entropy and non-saturating GAN losses."""
    hr, losses = batch["hr"], method.losses
    network = method.tokenizer.bind(params["tokenizer"])
    vectors, codes = network.encode(hr), network.codebook.embedding[...]
    distances = codebook.distances(vectors, codes)
    tokens = jnp.argmin(distances, axis=-1).reshape(vectors.shape[:-1])
    quantized = network.embed(tokens)
    image = network.decode(codebook.straight_through(vectors, quantized))
    loss, metrics = image_losses(method, params, image, hr, key, step)
    metrics |= {
        # The same number twice, whose gradients go to the codes and to the encoder.
        "codebook": codebook.commitment(quantized, vectors),
        "commitment": codebook.commitment(vectors, quantized),
        "entropy": entropy(distances, losses.entropy_temperature),
        "perplexity": codebook.perplexity(tokens, codes.shape[0]),
    }
    for name in ("codebook", "commitment", "entropy"):
        loss += getattr(losses, name) * metrics[name]
    return loss, LossResult(metrics, stats, {"fake": image})


def image_losses(
    method: MaskGITNetworks,
    params: Params,
    image: Image,
    target: Image,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, dict[str, Scalar]]:
    """Returns reconstruction plus non-saturating GAN loss of an image, and both as metrics."""
    losses = method.losses
    loss = reconstruction_loss(method, params, image, target, key)
    metrics = {"reconstruction": loss}
    if losses.adversarial_weight > 0:
        logits = method.discriminator.apply(params["discriminator"], lambda m: m(image))
        metrics["adversarial"] = gan.nonsaturating_generator(logits)
        loss += losses.adversarial_weight * _begun(losses, step) * metrics["adversarial"]
    return loss, metrics


def discriminator_loss(
    method: MaskGITNetworks,
    params: Params,
    stats: Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, LossResult]:
    """Returns the non-saturating loss on HR and its reconstruction, with the R1 penalty.

    It is 0 before the GAN starts.
    """

    def judge(image: jax.Array) -> jax.Array:
        return method.discriminator.apply(params["discriminator"], lambda m: m(image))

    real, fake = judge(batch["hr"]), judge(batch["fake"])
    loss = gan.nonsaturating_discriminator(real, fake)
    metrics = {"discriminator": loss, "real": real.mean(), "fake": fake.mean()}
    if method.losses.r1 > 0:
        metrics["r1"] = gan.r1_penalty(judge, batch["hr"])
        loss += method.losses.r1 * metrics["r1"]
    return loss * _begun(method.losses, step), LossResult(metrics, stats, {})


def _begun(losses: MaskGITLosses, step: jax.Array) -> Scalar:
    """Returns 1 where the GAN takes part, else 0."""
    return (step >= losses.adversarial_start).astype(jnp.float32)


def cosine_mask(tokens: Tokens, key: jax.Array, least: float) -> TokenMask:
    """Returns a mask [B, N] of max(least, cos(π/2·r))·N positions, r ~ U(0, 1), 1 at least."""
    ratio_key, mask_key = jax.random.split(key)
    batch, count = tokens.shape
    ratios = jnp.maximum(least, gamma("cosine")(jax.random.uniform(ratio_key, (batch,))))
    counts = jnp.maximum(1, jnp.round(ratios * count)).astype(jnp.int32)
    return random_mask(mask_key, counts, count)


def prior_loss(
    method: MaskGITNetworks,
    params: Params,
    stats: Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, LossResult]:
    """Returns the cross-entropy of masked HR tokens given the others (MaskGIT §3.2)."""
    tokens = method.tokenize(params, batch["hr"]).reshape(batch["hr"].shape[0], -1)
    mask_key, dropout_key = jax.random.split(key)
    mask = cosine_mask(tokens, mask_key, method.losses.least_masked)
    logits = method.logits(params, tokens, mask, key=dropout_key)
    loss = token_losses.masked_cross_entropy(logits, tokens, mask, method.losses.smoothing)
    metrics = {
        "cross_entropy": token_losses.masked_cross_entropy(logits, tokens, mask),
        "accuracy": token_losses.accuracy(logits, tokens, mask),
        # Of a prior that knows nothing but how often each token is used in the batch.
        "unigram_entropy": jnp.log(codebook.perplexity(tokens, method.config.tokenizer.codes)),
    }
    return loss, LossResult(metrics, stats, {})


def control_loss(
    method: MaskGITMethod,
    params: Params,
    stats: Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, LossResult]:
    """Returns the image losses of the controlled image of the method's own tokens."""
    hr, upsampled = batch["hr"], method.upsample(batch["lr"])
    keys = jax.random.split(key, hr.shape[0])
    # Predicted tokens, not those of HR: at inference the module gets no others.
    tokens, _ = method.predict(params, method.tokenize(params, upsampled), keys, method.options())
    image = method.render(params, jax.lax.stop_gradient(tokens), upsampled)
    loss, metrics = image_losses(method, params, image, hr, key, step)
    return loss, LossResult(metrics, stats, {"fake": image})


def restore_panel(
    method: MaskGITMethod, params: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Returns the VQGAN of LR, the restoration, the VQGAN of HR, and HR."""
    # Without control before its stage: the group does not exist yet.
    options = method.options(control="control" in params)
    keys = jax.random.split(key, batch["lr"].shape[0])
    return {
        "lr_tokens": method.render(params, method.tokenize(params, method.upsample(batch["lr"]))),
        "output": method.restore(params, batch["lr"], keys, options).image,
        "hr_tokens": method.render(params, method.tokenize(params, batch["hr"])),
        "hr": batch["hr"],
    }


def tokenizer_panel(
    method: MaskGITNetworks, params: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Returns HR and its reconstruction."""
    return {
        "hr": batch["hr"],
        "output": method.render(params, method.tokenize(params, batch["hr"])),
    }


def prior_panel(
    method: MaskGITNetworks, params: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Returns HR, its reconstruction, and half of its tokens with the others predicted."""
    grid = method.tokenize(params, batch["hr"])
    tokens = grid.reshape(grid.shape[0], -1)
    counts = jnp.full(grid.shape[:1], tokens.shape[1] // 2)
    mask = random_mask(key, counts, tokens.shape[1])
    keys = jax.random.split(key, grid.shape[0])
    found = method.fill(params, tokens, ~mask, keys, 8).tokens.reshape(grid.shape)
    shown = upsample_nearest(
        jnp.repeat(mask.reshape(*grid.shape, 1), 3, -1).astype(jnp.float32),
        method.config.tokenizer.factor,
    )
    return {
        "masked": batch["hr"] * (1 - shown),
        "output": method.render(params, found),
        "reconstruction": method.render(params, grid),
        "hr": batch["hr"],
    }
