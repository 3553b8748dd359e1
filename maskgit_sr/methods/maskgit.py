"""Base of methods on MaskGIT's VQGAN and transformer at ×2: tokens, logits, tokenizer and prior.

Groups: ``tokenizer`` (its codebook included), ``transformer``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import (
    Execution,
    Image,
    Keys,
    Params,
    Scalar,
    TokenGrid,
    TokenLogits,
    TokenMask,
    Tokens,
)
from maskgit_sr.decoding.masked import Canvas, Decoded, decode
from maskgit_sr.decoding.rules import ConfidenceRule
from maskgit_sr.losses import adversarial as gan
from maskgit_sr.losses import token as token_losses
from maskgit_sr.losses.codebook import entropy
from maskgit_sr.losses.perceptual import build_perceptual
from maskgit_sr.methods.base import (
    Batch,
    LossResult,
    Phase,
    Reference,
    Restored,
    RestoreOptions,
    Stage,
    TileSpec,
)
from maskgit_sr.methods.image import ImageLossConfig, ImageMethod, reconstruction_loss
from maskgit_sr.models import codebook
from maskgit_sr.models.discriminator import DiscriminatorConfig
from maskgit_sr.models.fields import Factor, Range
from maskgit_sr.models.functional import Network
from maskgit_sr.models.maskgit_transformer import (
    MaskGITTransformer,
    MaskGITTransformerConfig,
    prepend,
)
from maskgit_sr.models.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANConfig
from maskgit_sr.ops.masking import random_mask
from maskgit_sr.ops.resize import upsample_nearest
from maskgit_sr.ops.schedules import gamma


@dataclasses.dataclass(frozen=True)
class MaskGITConfig:
    """Networks and windows; the defaults are the published ones for 512×512 pixels ("base").

    Attributes:
        tokenizer: shape of the VQGAN.
        transformer: shape of the transformer; its positions set the token grid.
        class_token: a row stands at position 0 before the tokens, which keeps the positions that
            MaskGIT's prior was trained at. The public correction and inpainting have none.
        overlap: LR pixels that neighbouring windows share.

    Raises:
        ValueError: codes of the networks differ, or the positions are not those of a square grid
            of whole LR pixels, at most 1,024 of them a side.
    """

    tokenizer: MaskGITVQGANConfig = MaskGITVQGANConfig()
    transformer: MaskGITTransformerConfig = MaskGITTransformerConfig()
    class_token: bool = True
    overlap: Annotated[int, Range(0, 1023)] = 64

    def __post_init__(self) -> None:
        if self.transformer.codes != self.tokenizer.codes:
            raise ValueError(
                f"transformer.codes: expected the tokenizer's {self.tokenizer.codes},"
                f" found {self.transformer.codes}"
            )
        side, rest = divmod(self.grid * self.tokenizer.factor, 2)
        if self.grid**2 + 1 != self.transformer.positions or rest or side > 1024:
            raise ValueError(
                "transformer.positions: expected 1 + those of a square grid of windows up to"
                f" 1024 LR pixels, found {self.transformer.positions}"
            )
        self.tile  # raises for an overlap that does not fit  # noqa: B018

    @property
    def grid(self) -> int:
        """Returns the side of the token grid."""
        return math.isqrt(self.transformer.positions - 1)

    @property
    def tile(self) -> TileSpec:
        """Returns the windows: those of one token grid, because positions are learned."""
        side = self.grid * self.tokenizer.factor // 2
        return TileSpec((side,), self.overlap, variance=0.0)


@dataclasses.dataclass(frozen=True)
class MaskGITLosses(ImageLossConfig):
    """Training losses; the defaults are those of MaskGIT's configurations.

    Attributes:
        adversarial_weight: factor of the non-saturating GAN loss; 0 leaves the GAN out.
        codebook: factor of the squared distance that moves the codes.
        commitment: factor of the squared distance that moves the encoder's vectors.
        entropy: factor of the entropy loss of the codes.
        entropy_temperature: temperature of its distances.
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
    r1: Factor = 10.0
    smoothing: Annotated[float, Range(0, 0.99)] = 0.1
    least_masked: Annotated[float, Range(0, 1)] = 0.5
    joined: Annotated[float, Range(0, 1)] = 0.0


class MaskGITMethod(ImageMethod):
    """Base of both methods; a subclass adds `restore` and its stages.

    Images are in [0, 1], as the VQGAN takes and gives them.
    """

    scale = 2
    groups: tuple[str, ...] = ("tokenizer", "transformer")
    # Rounded code vectors, or a rounded encoder, would change which tokens an image gets.
    exact = frozenset({"tokenizer"})
    provides = frozenset({"confidence", "tokens"})
    config_class: Any = MaskGITConfig
    losses_class: Any = MaskGITLosses

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        super().__init__(config, losses, execution)
        config, run = self.config, self.run
        self.grid: int = config.grid
        self.mask: int = config.transformer.mask
        self.tokenizer = Network(lambda rngs: MaskGITVQGAN(config.tokenizer, **run, rngs=rngs))
        self.transformer = Network(
            lambda rngs: MaskGITTransformer(config.transformer, **run, rngs=rngs)
        )

    def shapes(self) -> Params:
        """Returns the shapes of the bundle's groups."""
        return {group: getattr(self, group).shapes for group in self.groups}

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Returns fresh parameters of ``groups``; each has a key of its own."""
        known = (*self.groups, "discriminator")
        keys = {group: jax.random.fold_in(key, known.index(group)) for group in groups}
        return {group: getattr(self, group).init(k) for group, k in keys.items()}, {}

    @property
    def references(self) -> tuple[Reference, ...]:
        """Returns the VQGAN alone: of LR, what the transformer starts from; of HR, its ceiling."""
        return (
            Reference("VQGAN of LR", Autoencoder(self, 2), "lr"),
            Reference("VQGAN of HR", Autoencoder(self, 1), "hr"),
        )

    # ------------------------------------------------------------ tokens and images

    def upsample(self, lr: Image) -> Image:
        """Returns the image enlarged as Pillow's bicubic does (to 3e-7), clipped to [0, 1]."""
        b, h, w, c = lr.shape
        shape = (b, self.scale * h, self.scale * w, c)
        # "highest": accelerators round the factors of float32 products otherwise.
        image = jax.image.resize(lr, shape, "cubic", antialias=False, precision="highest")
        return jnp.clip(image, 0, 1)

    def tokenize(self, params: Params, image: Image) -> TokenGrid:
        """Returns the tokens [B, H/f, W/f] of an image [B, H, W, 3]."""
        network = self.tokenizer.bind(params["tokenizer"])
        return network.quantize(network.encode(image))

    def render(self, params: Params, tokens: TokenGrid) -> Image:
        """Returns the image [B, h·f, w·f, 3], not clipped, of tokens [B, h, w]."""
        network = self.tokenizer.bind(params["tokenizer"])
        return network.decode(network.embed(tokens))

    def logits(
        self,
        params: Params,
        tokens: Tokens,
        mask: TokenMask | None = None,
        lr_tokens: Tokens | None = None,
        key: jax.Array | None = None,
    ) -> TokenLogits:
        """Returns the logits [B, N, K] of a whole grid's tokens in raster order.

        Args:
            mask: [B, N], true where the token is not known; None: all are.
            lr_tokens: [B, N]; their embeddings are added where tokens are masked.
            key: of dropout; None: no dropout.
        """
        network = self.transformer.bind(params["transformer"])
        rows = tokens if mask is None else jnp.where(mask, self.mask, tokens)
        added = None
        if lr_tokens is not None and mask is not None:
            added = jnp.where(mask[..., None], network.words(lr_tokens), 0)
        if not self.config.class_token:
            return network(rows, added=added, key=key)
        if added is not None:
            added = jnp.pad(added, ((0, 0), (1, 0), (0, 0)))
        rows = prepend(rows, self.config.transformer.no_class)
        return network(rows, added=added, key=key)[:, 1:]

    def fill(
        self,
        params: Params,
        tokens: Tokens,
        known: TokenMask,
        keys: Keys,
        steps: int,
        lr_tokens: Tokens | None = None,
        **options: Any,
    ) -> Decoded:
        """Returns the tokens with the unknown ones predicted in ``steps`` passes, by confidence.

        Each example's number of masked tokens follows the cosine schedule of its own unknown ones.

        Args:
            lr_tokens: as `logits` takes them.
            options: of `decode`.
        """
        ratios = jnp.arange(1, steps + 1, dtype=jnp.float32) / steps
        unknown = (~known).sum(-1, dtype=jnp.float32)
        counts = jnp.floor(gamma("cosine")(ratios)[None] * unknown[:, None]).astype(jnp.int32)
        start = jnp.zeros(tokens.shape[:1], jnp.int32)
        return decode(
            lambda tokens, mask: self.logits(params, tokens, mask, lr_tokens),
            ConfidenceRule(),
            Canvas(tokens, known, start),
            counts,
            keys,
            **options,
        )

    # ------------------------------------------------------------ training

    def tokenizer_stage(self) -> Stage:
        """Returns the stage that learns the VQGAN from HR images alone."""
        phases = [Phase(("tokenizer",), partial(tokenizer_loss, self))]
        if self.losses.adversarial_weight > 0:
            phases.append(Phase(("discriminator",), partial(discriminator_loss, self)))
        return Stage(
            phases=tuple(phases),
            exports=("tokenizer",),
            panel=partial(tokenizer_panel, self),
            batch=("hr",),
            frozen={"perceptual": partial(build_perceptual, self.losses.perceptual)},
        )

    def prior_stage(self) -> Stage:
        """Returns the stage that learns masked tokens of HR images alone."""
        return Stage(
            phases=(Phase(("transformer",), partial(prior_loss, self)),),
            exports=("transformer",),
            panel=partial(prior_panel, self),
            needs=("tokenizer",),
            batch=("hr",),
        )

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Returns the stages in order: tokenizer, prior."""
        return {"tokenizer": self.tokenizer_stage(), "prior": self.prior_stage()}


class Autoencoder(MaskGITMethod):
    """The VQGAN alone, over a method's parameters: an image through its tokens and back.

    Args:
        scale: 2 takes LR windows, enlarged bicubically; 1 takes windows of HR.
    """

    provides = frozenset({"tokens"})
    references: tuple[Reference, ...] = ()

    def __init__(self, whole: MaskGITMethod, scale: int):
        super().__init__(whole.config, whole.losses, whole.execution)
        self.name, self.scale = f"{whole.name}/tokenizer", scale
        spec, by = whole.tile, whole.scale // scale
        self.tile = TileSpec((spec.sides[0] * by,), spec.overlap * by, spec.variance)

    def restore(self, params: Params, lr: Image, keys: Keys, options: RestoreOptions) -> Restored:
        """Returns the windows through the tokenizer."""
        tokens = self.tokenize(params, lr if self.scale == 1 else self.upsample(lr))
        return Restored(self.render(params, tokens), tokens=tokens)


def tokenizer_loss(
    method: MaskGITMethod,
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
    metrics = {
        "reconstruction": reconstruction_loss(method, params, image, hr, key),
        # The same number twice, whose gradients go to the codes and to the encoder.
        "codebook": codebook.commitment(quantized, vectors),
        "commitment": codebook.commitment(vectors, quantized),
        "entropy": entropy(distances, losses.entropy_temperature),
        "perplexity": codebook.perplexity(tokens, codes.shape[0]),
    }
    loss = metrics["reconstruction"] + sum(
        (getattr(losses, name) * metrics[name] for name in ("codebook", "commitment", "entropy")),
        jnp.float32(0),
    )
    if losses.adversarial_weight > 0:
        logits = method.discriminator.apply(params["discriminator"], lambda m: m(image))
        metrics["adversarial"] = gan.nonsaturating_generator(logits)
        begun = (step >= losses.adversarial_start).astype(jnp.float32)
        loss += losses.adversarial_weight * begun * metrics["adversarial"]
    return loss, LossResult(metrics, stats, {"fake": image})


def discriminator_loss(
    method: MaskGITMethod,
    params: Params,
    stats: Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, LossResult]:
    """Returns the non-saturating loss on HR and its reconstruction, with the R1 penalty."""

    def judge(image: jax.Array) -> jax.Array:
        return method.discriminator.apply(params["discriminator"], lambda m: m(image))

    real, fake = judge(batch["hr"]), judge(batch["fake"])
    loss = gan.nonsaturating_discriminator(real, fake)
    metrics = {"discriminator": loss, "real": real.mean(), "fake": fake.mean()}
    if method.losses.r1 > 0:
        metrics["r1"] = gan.r1_penalty(judge, batch["hr"])
        loss += method.losses.r1 * metrics["r1"]
    return loss, LossResult(metrics, stats, {})


def cosine_mask(tokens: Tokens, key: jax.Array, least: float) -> TokenMask:
    """Returns a mask [B, N] of max(least, cos(π/2·r))·N positions, r ~ U(0, 1), 1 at least."""
    ratio_key, mask_key = jax.random.split(key)
    batch, count = tokens.shape
    ratios = jnp.maximum(least, gamma("cosine")(jax.random.uniform(ratio_key, (batch,))))
    counts = jnp.maximum(1, jnp.round(ratios * count)).astype(jnp.int32)
    return random_mask(mask_key, counts, count)


def prior_loss(
    method: MaskGITMethod,
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


def tokenizer_panel(
    method: MaskGITMethod, params: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Returns HR and its reconstruction."""
    return {
        "hr": batch["hr"],
        "output": method.render(params, method.tokenize(params, batch["hr"])),
    }


def prior_panel(
    method: MaskGITMethod, params: Params, batch: Batch, key: jax.Array
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
