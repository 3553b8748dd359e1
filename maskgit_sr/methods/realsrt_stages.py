"""RealSRT's four training stages: tokenizer → generator → critic → control (§3.1–3.3, §4.1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Image, Latent, Params, Scalar
from maskgit_sr.decoding.policies import Policy
from maskgit_sr.losses import adversarial as gan
from maskgit_sr.losses import token as token_losses
from maskgit_sr.losses.perceptual import perceptual_loss, random_window
from maskgit_sr.losses.pixel import PIXEL_LOSSES
from maskgit_sr.methods.base import Batch, LossResult, Phase, Stage
from maskgit_sr.models import codebook
from maskgit_sr.models import control as control_network
from maskgit_sr.ops.masking import random_mask
from maskgit_sr.ops.resize import upsample_nearest
from maskgit_sr.ops.schedules import gamma

if TYPE_CHECKING:
    from maskgit_sr.methods.realsrt import RealSRT

TailParts = tuple[
    jax.Array, Params, Callable[[Params, jax.Array], jax.Array], Callable[[Params], jax.Array]
]
"""Features, what the tail trains, the tail, W: the arguments of `gan.balanced_loss`."""


def build_stages(method: RealSRT) -> dict[str, Stage]:
    """The stages by name, in training order."""
    uses_gan = method.config.losses.adversarial_weight > 0
    tunes_decoder = method.config.losses.tune_decoder
    discriminator = ("discriminator",) if uses_gan else ()

    def phases(group: str, loss: Callable[..., Any]) -> tuple[Phase, ...]:
        first = Phase(group, partial(loss, method))
        second = Phase("discriminator", partial(discriminator_loss, method))
        return (first, second) if uses_gan else (first,)

    base = ("tokenizer", "codebook")
    return {
        "tokenizer": Stage(
            trains=("tokenizer", *discriminator),
            needs=("perceptual",),
            phases=phases("tokenizer", tokenizer_loss),
            exports=base,
            panel=partial(tokenizer_panel, method),
            finish=_keep_codebook,
            fresh_stats=("codebook",),
        ),
        "generator": Stage(
            trains=("generator",),
            needs=base,
            phases=(Phase("generator", partial(generator_loss, method)),),
            exports=("generator",),
            panel=partial(token_panel, method, "generator"),
        ),
        "critic": Stage(
            trains=("critic",),
            needs=(*base, "generator"),
            phases=(Phase("critic", partial(critic_loss, method)),),
            exports=("critic",),
            panel=partial(token_panel, method, "critic"),
        ),
        "control": Stage(
            trains=("control", *discriminator),
            needs=(*base, "generator", "critic", "perceptual"),
            phases=phases("control", control_loss),
            exports=("control", "tokenizer") if tunes_decoder else ("control",),
            panel=partial(token_panel, method, "control"),
            start=partial(_start_control, method),
            finish=_keep_decoder if tunes_decoder else lambda params, stats: params,
        ),
    }


def _keep_codebook(params: Params, stats: Params) -> Params:
    return params | {"codebook": {"embedding": stats["codebook"]["embedding"]}}


def _start_control(method: RealSRT, params: Params) -> Params:
    """The control group made ready, from the tokenizer where it is as published."""
    control, tokenizer = params["control"], params["tokenizer"]
    if method.config.control.multiscale:
        ready = control_network.start_multiscale(control)
    elif method.config.losses.tune_decoder:
        ready = control_network.start_with_decoder(control, tokenizer)
    else:
        ready = control_network.start(control, tokenizer)
    return params | {"control": ready}


def _keep_decoder(params: Params, stats: Params) -> Params:
    control = dict(params["control"])
    if "decoder" not in control:  # not trained yet
        return params
    tokenizer = params["tokenizer"] | {"decoder": control.pop("decoder")}
    return params | {"control": control, "tokenizer": tokenizer}


def _image_losses(  # type: ignore[no-untyped-def]
    method: RealSRT, params: Params, target: jax.Array, step: jax.Array, key: jax.Array
):
    """(reconstruction, adversarial, scale) as :func:`balanced_loss` takes them."""
    config = method.config.losses
    pixel = PIXEL_LOSSES[config.pixel]
    window = jax.random.fold_in(key, 1)

    def reconstruction(image: jax.Array) -> Scalar:
        loss = pixel(image, target)
        if config.perceptual_weight > 0:
            seen = random_window(window, config.perceptual_shift, image, target)
            distance = perceptual_loss(params["perceptual"], *seen)
            loss += config.perceptual_weight * distance
        return loss

    if config.adversarial_weight == 0:
        return reconstruction, None, 0.0

    def adversarial(image: jax.Array) -> Scalar:
        fake = method.discriminator.apply(params["discriminator"], lambda m: m(image))
        return gan.hinge_generator(fake)

    if config.adversarial_start == 0:
        return reconstruction, adversarial, float(config.adversarial_weight)
    active = (step >= config.adversarial_start).astype(jnp.float32)
    return reconstruction, adversarial, config.adversarial_weight * active


def _report(balanced: gan.Balanced, **extra: Scalar) -> dict[str, Scalar]:
    metrics = {"reconstruction": balanced.reconstruction, **extra}
    if balanced.adversarial is not None and balanced.weight is not None:
        metrics |= {"adversarial": balanced.adversarial, "adaptive_weight": balanced.weight}
    return metrics


def tokenizer_loss(
    method: RealSRT, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Pixel + perceptual + adaptive adversarial + commitment; moves the codebook's EMA."""
    config = method.config.losses
    hr = batch["hr"]
    bypass_key, codebook_key = jax.random.split(key)
    book = codebook.CodebookStats(**stats["codebook"])
    network = method.tokenizer.bind(params["tokenizer"])
    vectors = network.encode(hr)
    indices = codebook.nearest(jax.lax.stop_gradient(vectors), book.embedding)
    quantized = jnp.take(book.embedding, indices, axis=0)
    commitment = codebook.commitment(vectors, quantized)
    latent = codebook.straight_through(vectors, quantized)
    if config.bypass > 0:
        continuous = jax.random.bernoulli(bypass_key, config.bypass, (hr.shape[0], 1, 1, 1))
        latent = jnp.where(continuous, vectors, latent)
    features = network.decoder.body(network.latent(latent))

    def tail(last: Params, features: jax.Array) -> jax.Array:
        decoder = params["tokenizer"]["decoder"] | {"conv_out": last}
        return method.tokenizer.apply(
            params["tokenizer"] | {"decoder": decoder}, lambda m: m.decoder.head(features)
        )

    balanced = gan.balanced_loss(
        features,
        params["tokenizer"]["decoder"]["conv_out"],
        tail,
        *_image_losses(method, params, hr, step, key),
    )
    flat = vectors.reshape(-1, vectors.shape[-1])
    book = codebook.update(book, flat, indices.reshape(-1), codebook_key)
    metrics = _report(
        balanced,
        commitment=commitment,
        perplexity=codebook.perplexity(indices, book.embedding.shape[0]),
    )
    loss = balanced.surrogate + config.commitment * commitment
    return loss, LossResult(metrics, stats | {"codebook": book._asdict()}, {"fake": balanced.image})


def control_loss(
    method: RealSRT, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """The tokenizer's image losses on the steered decoding; adaptive weight at the zero conv."""
    config = method.config
    hr, upsampled = batch["hr"], method.upsample(batch["lr"])
    keys = jax.random.split(key, hr.shape[0])
    policy = Policy(config.losses.control_steps, schedule=config.schedule)
    tokens = method.generate(params, upsampled, keys, policy).tokens.reshape(-1, *method.grid)
    tokens = jax.lax.stop_gradient(tokens)
    tokenizer = method.tokenizer.bind(params["tokenizer"])
    latent = tokenizer.latent(method.embed(params, tokens))
    steered = _multiscale_parts if config.control.multiscale else _control_parts
    features, trained, tail, kernel = steered(method, params, latent, upsampled)
    balanced = gan.balanced_loss(
        features, trained, tail, *_image_losses(method, params, hr, step, key), kernel=kernel
    )
    return balanced.surrogate, LossResult(_report(balanced), stats, {"fake": balanced.image})


def _multiscale_parts(
    method: RealSRT, params: Params, latent: Latent, upsampled: Image
) -> TailParts:
    """The decoder is the module's own, so the adaptive weight is taken at its last convolution."""
    control = params["control"]
    features = method.control.apply(control, lambda m: m.body(latent, upsampled))

    def tail(last: Params, features: jax.Array) -> jax.Array:
        decoder = control["decoder"] | {"conv_out": last}
        return method.control.apply(
            control | {"decoder": decoder}, lambda m: m.head(features, upsampled)
        )

    return features, control["decoder"]["conv_out"], tail, lambda last: last["kernel"]


def _control_parts(method: RealSRT, params: Params, latent: Latent, upsampled: Image) -> TailParts:
    """As published, weight at the zero convolution; the decoder behind it may train along."""
    config = method.config
    control = method.control.bind(params["control"])
    features = control.features(latent, upsampled)

    trained = {"zero": params["control"]["zero"]}
    if config.losses.tune_decoder:
        trained["decoder"] = params["control"]["decoder"]

    def tail(trained: Params, features: jax.Array) -> jax.Array:
        residual = method.control.apply(
            params["control"] | {"zero": trained["zero"]}, lambda m: m.zero(features)
        )
        decoder = trained.get("decoder", params["tokenizer"]["decoder"])
        return method.tokenizer.apply(
            params["tokenizer"] | {"decoder": decoder}, lambda m: m.decoder(latent + residual)
        )

    return features, trained, tail, lambda trained: trained["zero"]["kernel"]


def discriminator_loss(
    method: RealSRT, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Hinge loss on the image that the first phase made; nothing moves before the GAN starts."""

    def judge(image: jax.Array) -> jax.Array:
        return method.discriminator.apply(params["discriminator"], lambda m: m(image))

    def active() -> tuple[Scalar, Scalar, Scalar]:
        real, fake = judge(batch["hr"]), judge(jax.lax.stop_gradient(batch["fake"]))
        return gan.hinge_discriminator(real, fake), real.mean(), fake.mean()

    def idle() -> tuple[Scalar, Scalar, Scalar]:
        return (jnp.float32(0),) * 3

    start = method.config.losses.adversarial_start
    loss, real, fake = active() if start == 0 else jax.lax.cond(step >= start, active, idle)
    metrics = {"discriminator": loss, "real": real, "fake": fake}
    return loss, LossResult(metrics, stats, {})


def _mask_tokens(method: RealSRT, params: Params, batch: Batch, key: jax.Array):  # type: ignore[no-untyped-def]
    """(HR tokens, LR tokens, mask): r ~ U(0,1), max(1, round(γ(r)·N)) uniform positions (§3.2)."""
    size = batch["hr"].shape[0]
    # Pair by pair, not one batch after the other, or a sharded batch would change devices.
    pairs = jnp.stack([batch["hr"], method.upsample(batch["lr"])], axis=1)
    tokens = method.tokenize(params, pairs.reshape(2 * size, *pairs.shape[2:]))
    hr_tokens, lr_tokens = jnp.unstack(tokens.reshape(size, 2, -1), axis=1)
    ratio_key, mask_key = jax.random.split(key)
    ratios = gamma(method.config.schedule)(jax.random.uniform(ratio_key, (size,)))
    counts = jnp.maximum(1, jnp.round(ratios * hr_tokens.shape[1])).astype(jnp.int32)
    return hr_tokens, lr_tokens, random_mask(mask_key, counts, hr_tokens.shape[1])


def generator_loss(
    method: RealSRT, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Cross-entropy of masked HR tokens given the others and all LR tokens."""
    hr_tokens, lr_tokens, mask = _mask_tokens(method, params, batch, key)
    memory = method.memory(params, "generator", lr_tokens)
    logits = method.logits(params, "generator", hr_tokens, mask, memory)
    loss = token_losses.masked_cross_entropy(logits, hr_tokens, mask)
    metrics = {
        "cross_entropy": loss,
        "accuracy": token_losses.accuracy(logits, hr_tokens, mask),
        "copy_accuracy": jnp.mean(hr_tokens == lr_tokens),
    }
    return loss, LossResult(metrics, stats, {})


def critic_loss(
    method: RealSRT, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Which tokens are the frozen generator's? Its argmax at masked positions; label: the mask."""
    hr_tokens, lr_tokens, mask = _mask_tokens(method, params, batch, key)
    memory = method.memory(params, "generator", lr_tokens)
    predicted = jnp.argmax(method.logits(params, "generator", hr_tokens, mask, memory), -1)
    tokens = jax.lax.stop_gradient(jnp.where(mask, predicted, hr_tokens))
    critic_memory = method.memory(params, "critic", lr_tokens)
    logits = method.logits(params, "critic", tokens, None, critic_memory)[..., 0]
    loss = token_losses.critic_cross_entropy(logits, mask)
    metrics = {
        "binary_cross_entropy": loss,
        "accuracy": jnp.mean((logits > 0) == mask),
        "masked_share": jnp.mean(mask.astype(jnp.float32)),
    }
    return loss, LossResult(metrics, stats, {})


def tokenizer_panel(
    method: RealSRT, params: Params, stats: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """HR and its reconstruction through the codebook."""
    params = _keep_codebook(params, stats)
    tokens = method.tokenize(params, batch["hr"])
    vectors = method.embed(params, tokens)
    output = method.tokenizer.apply(params["tokenizer"], lambda m: m.decode(vectors))
    return {"hr": batch["hr"], "output": output}


def token_panel(
    method: RealSRT, stage: str, params: Params, stats: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """LR, restored image, confidence and HR, with what this stage and those before it provide."""
    confidence = "generator" if stage == "generator" else "critic"
    policy = Policy(method.config.steps, confidence, method.config.schedule, score=True)
    upsampled = method.upsample(batch["lr"])
    keys = jax.random.split(key, upsampled.shape[0])
    decoded = method.generate(params, upsampled, keys, policy)
    tokens = decoded.tokens.reshape(-1, *method.grid)
    assert decoded.confidence is not None
    grey = jnp.repeat(decoded.confidence.reshape(*tokens.shape, 1), 3, axis=-1)
    return {
        "lr": upsample_nearest(batch["lr"], method.scale),
        "output": method.render(params, tokens, upsampled, control=stage == "control"),
        "confidence": upsample_nearest(grey, method.config.tokenizer.factor),
        "hr": batch["hr"],
    }
