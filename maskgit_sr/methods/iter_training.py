"""Training of ITER: the tokenizer alone, then E_l, φ_r and φ_e together (§3.3 and appendix A)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maskgit_sr.arrays import Params, Scalar, TokenGrid
from maskgit_sr.losses import adversarial as gan
from maskgit_sr.losses import pixel
from maskgit_sr.losses.perceptual import build_perceptual
from maskgit_sr.losses.token import balanced_cross_entropy
from maskgit_sr.methods.base import Batch, LossResult, Phase, Stage
from maskgit_sr.methods.image import ImageLossConfig, reconstruction_loss
from maskgit_sr.methods.iter import ITERNetworks
from maskgit_sr.methods.vq import tokenizer_panel
from maskgit_sr.models import codebook
from maskgit_sr.models.fields import Factor
from maskgit_sr.models.functional import Network
from maskgit_sr.models.unet_discriminator import UNetDiscriminator, UNetDiscriminatorConfig
from maskgit_sr.ops.masking import random_mask
from maskgit_sr.ops.resize import upsample_nearest
from maskgit_sr.ops.schedules import gamma


@dataclasses.dataclass(frozen=True)
class ITERLosses(ImageLossConfig):
    """Training losses.

    Attributes:
        structure: factor of 1 − SSIM.
        adversarial_weight: factor of the hinge loss; 0 leaves the GAN out.
        discriminator: shape of the U-Net discriminator.
        codebook: factor of the squared distance that moves the codes.
        commitment: factor of the squared distance that moves the encoder's vectors. As in the
            paper; the released code has the two factors the other way round.
    """

    pixel: str = "l1"
    perceptual: str = "lpips_vgg"
    perceptual_weight: float = 1.0
    structure: Factor = 1.0
    adversarial_weight: float = 0.1
    discriminator: UNetDiscriminatorConfig = UNetDiscriminatorConfig()  # type: ignore[assignment]
    codebook: Factor = 1.0
    commitment: Factor = 0.25


class TokenStage(ITERNetworks):
    """ITER over any tokenizer: the stage of its three token networks."""

    def token_stage(self) -> Stage:
        """Returns the stage that trains E_l, φ_r and φ_e by one sum of losses."""
        trained = ("encoder", "refinement", "evaluation")
        return Stage(
            phases=(Phase(trained, partial(token_loss, self)),),
            exports=trained,
            panel=partial(token_panel, self),
            needs=("tokenizer", "codebook"),
        )


class ITER(TokenStage):
    """ITER as released."""

    name = "iter"
    losses_class: Any = ITERLosses

    @cached_property
    def discriminator(self) -> Network[Any]:
        """The discriminator, made at its first use: it only trains, and no bundle has it."""
        shape, dtype = self.losses.discriminator, self.execution.dtype
        return Network(lambda rngs: UNetDiscriminator(shape, dtype=dtype, rngs=rngs))

    def fresh(self, group: str, key: jax.Array) -> tuple[Params, Params | None]:
        """Returns fresh parameters of one group; of the discriminator its norms' vectors too."""
        if group == "codebook":
            # Trained by gradients, so it has no statistics; the released code's initial range.
            shape, edge = (self.codes, self.code_width), 1 / self.codes
            return {"embedding": jax.random.uniform(key, shape, minval=-edge, maxval=edge)}, None
        params, stats = super().fresh(group, key)
        if group == "discriminator":
            key = jax.random.fold_in(key, 1)
            stats = self.discriminator.apply(params, lambda m: m.vectors(key))
        return params, stats

    def continued_stats(self, params: Params) -> Params:
        """Returns none: the codebook has no statistics."""
        return {}

    def tokenizer_stage(self) -> Stage:
        """Returns the stage that learns the Swin-VQGAN and its codes from HR images alone."""
        trained = ("tokenizer", "codebook")
        adversarial = self.losses.adversarial_weight > 0
        phases = [Phase(trained, partial(tokenizer_loss, self))]
        if adversarial:
            phases.append(Phase(("discriminator",), partial(discriminator_loss, self)))
        return Stage(
            phases=tuple(phases),
            exports=trained,
            panel=partial(tokenizer_panel, self),
            batch=("hr",),
            frozen={"perceptual": partial(build_perceptual, self.losses.perceptual)},
            fresh_stats=("discriminator",) if adversarial else (),
        )

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Returns the stages in order: tokenizer, tokens."""
        return {"tokenizer": self.tokenizer_stage(), "tokens": self.token_stage()}


def tokenizer_loss(
    method: ITER, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns L1, LPIPS, SSIM, codebook and hinge losses of the reconstruction (appendix A)."""
    hr, losses = batch["hr"], method.losses
    network = method.tokenizer.bind(params["tokenizer"])
    vectors = network.encode(hr)
    tokens = codebook.nearest(
        jax.lax.stop_gradient(vectors), jax.lax.stop_gradient(params["codebook"]["embedding"])
    )
    quantized = method.embed(params, tokens)
    image = network.decode(codebook.straight_through(vectors, quantized))
    metrics = {
        "reconstruction": reconstruction_loss(method, params, image, hr, key),
        "structure": pixel.structure(image, hr),
        # The same number twice, whose gradients go to the codes and to the encoder.
        "codebook": codebook.commitment(quantized, vectors),
        "commitment": codebook.commitment(vectors, quantized),
        "perplexity": codebook.perplexity(tokens, method.codes),
    }
    loss = metrics["reconstruction"]
    for name in ("structure", "codebook", "commitment"):
        loss += getattr(losses, name) * metrics[name]
    if losses.adversarial_weight > 0:
        fake = method.discriminator.apply(
            params["discriminator"], lambda m: m(image, stats["discriminator"])
        )
        metrics["adversarial"] = gan.hinge_generator(fake)
        begun = (step >= losses.adversarial_start).astype(jnp.float32)
        loss += losses.adversarial_weight * begun * metrics["adversarial"]
    return loss, LossResult(metrics, stats, {"fake": image})


def discriminator_loss(
    method: ITER, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the hinge loss on HR and its reconstruction; iterates the spectral norms."""
    network = method.discriminator.bind(params["discriminator"])
    vectors = stats["discriminator"]
    good, bad = network(batch["hr"], vectors), network(batch["fake"], vectors)
    loss = gan.hinge_discriminator(good, bad)
    metrics = {"discriminator": loss, "real": good.mean(), "fake": bad.mean()}
    stats = stats | {"discriminator": network.iterate(vectors)[0]}
    begun = (step >= method.losses.adversarial_start).astype(jnp.float32)
    return loss * begun, LossResult(metrics, stats, {})


def token_loss(
    method: ITERNetworks,
    params: Params,
    stats: Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, LossResult]:
    """Returns the cross-entropies of E_l, φ_r and φ_e (Eq. 2, 4 and 9), their sum.

    ⌊cos(πr/2)·N⌋ HR tokens are masked for φ_r, one at least, r ~ U(0, 1), drawn uniformly.
    """
    tokens = method.tokenize(params, batch["hr"])
    ratio_key, mask_key = jax.random.split(key)
    size, count = tokens.shape[0], tokens[0].size
    ratios = gamma("cosine")(jax.random.uniform(ratio_key, (size,)))
    counts = jnp.maximum(1, jnp.floor(ratios * count)).astype(jnp.int32)
    mask = random_mask(mask_key, counts, count).reshape(tokens.shape)
    losses, metrics = token_losses(method, params, batch["lr"], tokens, mask)
    loss = sum(losses.values(), jnp.float32(0))
    metrics |= losses
    # Of networks that know nothing but how often each token is used in the batch.
    metrics["unigram_entropy"] = jnp.log(codebook.perplexity(tokens, method.codes))
    return loss, LossResult(metrics, stats, {})


def token_losses(
    method: ITERNetworks, params: Params, lr: jax.Array, tokens: TokenGrid, mask: jax.Array
) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """Returns (the four losses by name, metrics) for given HR tokens and mask, both [B, h, w].

    φ_r's loss is over all positions; an example counts by its masked share.
    """
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    logits = method.predict(params, lr)
    lr_tokens = jax.lax.stop_gradient(jnp.argmax(logits, -1)).astype(jnp.int32)
    evaluation = method.evaluation.bind(params["evaluation"])
    rated = evaluation.condition(lr_tokens)
    first = evaluation(lr_tokens, rated)
    # E_l's tokens that φ_e takes for wrong; a decision, which has no gradient.
    wrong = jax.lax.stop_gradient(jnp.argmax(first, -1)) == 0
    refinement = method.refinement.bind(params["refinement"])
    refined = refinement(tokens, refinement.condition(lr_tokens, wrong), mask)
    found = jax.lax.stop_gradient(jnp.argmax(refined, -1)).astype(jnp.int32)
    second = evaluation(found, rated)
    good, right = lr_tokens == tokens, found == tokens
    share = mask.mean((1, 2), dtype=jnp.float32)
    refined_losses = cross_entropy(refined, tokens)
    losses = {
        "removal": jnp.mean(cross_entropy(logits, tokens)),
        "evaluation_lr": balanced_cross_entropy(first, good),
        "evaluation": jnp.mean(cross_entropy(second, right.astype(jnp.int32))),
        "refinement": jnp.mean(refined_losses * share[:, None, None]),
    }
    masked = jnp.sum(mask, dtype=jnp.float32)
    metrics = {
        "accuracy": jnp.mean(good, dtype=jnp.float32),
        "masked_cross_entropy": jnp.sum(refined_losses, where=mask) / masked,
        "masked_accuracy": jnp.sum(right, where=mask, dtype=jnp.float32) / masked,
        # Means of φ_e where E_l is right and where it is wrong: apart, if it has learned anything.
        "kept_share": 1 - jnp.mean(wrong, dtype=jnp.float32),
        "evaluation_accuracy": jnp.mean(wrong != good, dtype=jnp.float32),
    }
    return losses, metrics


def token_panel(
    method: ITERNetworks, params: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Returns images of LR, E_l's tokens, the refined tokens, HR's tokens, and HR."""
    lr, hr = batch["lr"], batch["hr"]
    lr_tokens = jnp.argmax(method.predict(params, lr), -1).astype(jnp.int32)
    keys = jax.random.split(key, lr.shape[0])
    return {
        "lr": upsample_nearest(lr, method.scale),
        "removal": method.decode_tokens(params, lr_tokens),
        "output": method.restore(params, lr, keys, method.options()).image,
        "hr_tokens": method.decode_tokens(params, method.tokenize(params, hr)),
        "hr": hr,
    }
