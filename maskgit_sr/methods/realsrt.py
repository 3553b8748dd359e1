"""RealSRT (Peng et al., ECCV 2024): networks, restoration and the four training stages.

Groups: ``tokenizer``, ``codebook``, ``generator``, ``critic``, ``control``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Execution, Image, Keys, Latent, Params, Scalar, TokenGrid, Tokens
from maskgit_sr.decoding.masked import Decoded, blank, decode
from maskgit_sr.decoding.rules import ConfidenceRule, CriticRule, Rule
from maskgit_sr.losses import token as token_losses
from maskgit_sr.methods import vq
from maskgit_sr.methods.base import (
    Batch,
    LossResult,
    Phase,
    Restored,
    RestoreOptions,
    Stage,
    TileSpec,
    check_choice,
)
from maskgit_sr.methods.image import Tail, image_loss
from maskgit_sr.models import control
from maskgit_sr.models.fields import MAX_STEPS, Steps
from maskgit_sr.models.functional import Network
from maskgit_sr.models.transformer import Memory, TokenTransformer, TransformerConfig
from maskgit_sr.models.vqgan import VQGANConfig
from maskgit_sr.ops import color
from maskgit_sr.ops.masking import random_mask
from maskgit_sr.ops.resize import upsample_nearest
from maskgit_sr.ops.schedules import gamma, mask_counts

RULES = ("critic", "confidence")


@dataclasses.dataclass(frozen=True)
class RealSRTConfig:
    """Networks and decoding; the defaults are the published ones ("base").

    Attributes:
        tokenizer: shape of the VQGAN.
        generator: shape of the transformer that predicts HR tokens.
        critic: shape of the transformer that tells generated tokens from real ones.
        tile: windows in LR pixels; the token grid is fixed, so there is one side.
        schedule: mask schedule γ of training and decoding.
        steps: decoding steps T.
    """

    tokenizer: VQGANConfig = VQGANConfig()
    generator: TransformerConfig = TransformerConfig()
    critic: TransformerConfig = TransformerConfig(outputs=1, masked=False, decoder_depth=12)
    tile: TileSpec = TileSpec()
    schedule: str = "sqrt"
    steps: Steps = 4

    def __post_init__(self) -> None:
        gamma(self.schedule)  # raises for an unknown name


@dataclasses.dataclass(frozen=True)
class RealSRTLosses(vq.VQLossConfig):
    """Training losses.

    Attributes:
        control_steps: decoding steps T of the tokens that the control stage trains on.
    """

    control_steps: Steps = 4


@dataclasses.dataclass(frozen=True)
class RealSRTOptions(RestoreOptions):
    """Options of restoration.

    Attributes:
        steps: decoding steps T, from 1 to 1024.
        schedule: name of the mask schedule γ.
        rule: ``critic``: the critic rates all tokens, and accepted ones can be revoked (§3.2).
            ``confidence``: the probability of a token decides, accepted ones stay (ablation a).
        temperature: 0 takes the most likely token; above 0 samples softmax(logits / temperature).
        control: steer the decoder by the LR image; off in ablations (a) and (b).
    """

    color_fix: str = "adain"
    steps: int = 4
    schedule: str = "sqrt"
    rule: str = "critic"
    temperature: float = 0.0
    control: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, found {self.steps}")
        if self.steps > MAX_STEPS:
            raise ValueError(f"steps: expected at most {MAX_STEPS}, found {self.steps}")
        check_choice("rule", self.rule, RULES)
        # Written so that NaN, which fails every comparison, is refused too.
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: expected 0 or more, found {self.temperature}")
        gamma(self.schedule)  # raises for an unknown name

    @property
    def stochastic(self) -> bool:
        """True if ``temperature`` is above 0."""
        return self.temperature > 0


class RealSRT(vq.VQMethod):
    """RealSRT as published."""

    name = "realsrt"
    groups: tuple[str, ...] = ("tokenizer", "codebook", "generator", "critic", "control")
    # Parts of other groups that the control stage trains along; none in the paper.
    control_parts: tuple[str, ...] = ()
    studies: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
        "parts": (
            ("generator confidence", {"rule": "confidence", "control": False}),
            ("+ critic", {"rule": "critic", "control": False}),
            ("+ control", {"rule": "critic", "control": True}),
        ),
        "steps": tuple(
            (f"{rule} T={steps}", {"rule": rule, "steps": steps})
            for rule in RULES
            for steps in (1, 2, 3, 4, 6, 8, 12, 16)
        ),
    }
    config_class: Any = RealSRTConfig
    losses_class: Any = RealSRTLosses
    options_class = RealSRTOptions

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        """Checks that the parts fit together.

        Raises:
            ValueError: the token grid, the tile and the tokenizer's factor disagree.
        """
        super().__init__(config, losses, execution)
        config = self.config
        # One side, because positions and grid of the transformers are fixed.
        if len(config.tile.sides) != 1 or (config.tile.sides[0] * self.scale) % self.factor:
            raise ValueError(
                f"tile.sides: expected one side, which × {self.scale} is a multiple of "
                f"{self.factor}, found {config.tile.sides}"
            )
        side = config.tile.sides[0] * self.scale // self.factor
        self.grid = (side, side)
        # The critic has one logit for a token, the generator one for each code.
        for name, outputs in (("generator", self.codes), ("critic", 1)):
            shape = getattr(config, name)
            expected = (self.grid, self.code_width, outputs)
            if (found := (shape.grid, shape.code_width, shape.outputs)) != expected:
                raise ValueError(
                    "{}: expected grid {} and code width {}, outputs {}, "
                    "found {} and {}, {}".format(name, *expected, *found)
                )
        run = self.run
        self.generator = Network(lambda rngs: TokenTransformer(config.generator, **run, rngs=rngs))
        self.critic = Network(lambda rngs: TokenTransformer(config.critic, **run, rngs=rngs))
        self.control = Network(lambda rngs: control.Control(config.tokenizer, **run, rngs=rngs))

    def options(self, /, **given: Any) -> RealSRTOptions:
        """Returns the options; ``steps`` and ``schedule`` default to the model's own."""
        own = {"steps": self.config.steps, "schedule": self.config.schedule}
        # None must not hide the model's own value, which need not be the dataclass's default.
        given = {name: value for name, value in given.items() if value is not None}
        chosen: RealSRTOptions = super().options(**(own | given))
        return chosen

    # ------------------------------------------------------------ restoration

    def memory(self, params: Params, network: str, lr_tokens: Tokens) -> Memory:
        """Returns the LR memory of ``generator`` or ``critic``, the same at every step."""
        vectors = self.embed(params, lr_tokens)
        return getattr(self, network).apply(params[network], lambda m: m.encode(vectors))

    def logits(
        self, params: Params, network: str, tokens: Tokens, mask: Any, memory: Memory
    ) -> jax.Array:
        """Returns the logits [B, N, outputs] of ``generator`` or ``critic`` for HR tokens."""
        vectors = self.embed(params, tokens)
        return getattr(self, network).apply(
            params[network], lambda m: m.decode(vectors, mask, memory)
        )

    def generate(
        self, params: Params, upsampled: Image, keys: Keys, options: RealSRTOptions
    ) -> Decoded:
        """Returns the restored tokens of upsampled LR tiles, by iterative masked decoding (§3.2).

        Raises:
            ValueError: the rule needs a critic, and ``params`` has none.
        """
        batch = upsampled.shape[0]
        lr_tokens = self.tokenize(params, upsampled).reshape(batch, -1)
        count = lr_tokens.shape[1]
        memory = self.memory(params, "generator", lr_tokens)
        rule: Rule = ConfidenceRule()
        # A single step without confidence never calls the critic, so its memory is not computed.
        if options.rule == "critic" and (options.steps > 1 or options.confidence):
            if "critic" not in params:
                raise ValueError("rule: there is no critic; use rule='confidence'")
            critic_memory = self.memory(params, "critic", lr_tokens)
            rule = CriticRule(
                lambda tokens: self.logits(params, "critic", tokens, None, critic_memory)[..., 0]
            )
        return decode(
            lambda tokens, mask: self.logits(params, "generator", tokens, mask, memory),
            rule,
            blank(batch, count),
            jnp.asarray(mask_counts(options.steps, count, options.schedule)),
            keys,
            temperature=options.temperature,
            confidence=options.confidence,
        )

    def render(
        self, params: Params, tokens: TokenGrid, upsampled: Image, steered: bool = True
    ) -> Image:
        """Returns the image [B, h·f, w·f, 3] of tokens, controlled by LR if ``steered`` (§3.3)."""
        tokenizer = self.tokenizer.bind(params["tokenizer"])
        latent = tokenizer.latent(self.embed(params, tokens))
        if not steered:  # ablations without control
            return tokenizer.decoder(latent)
        latent = self.control.apply(params["control"], lambda m: m(latent, upsampled))
        return tokenizer.decoder(latent)

    def restore(self, params: Params, lr: Image, keys: Keys, options: RealSRTOptions) -> Restored:
        """Restores LR tiles [B, side, side, 3] in [0, 1] at ×4 (§3.2–3.4)."""
        upsampled = self.upsample(lr)
        decoded = self.generate(params, upsampled, keys, options)
        grid = (lr.shape[0], *self.grid)
        tokens = decoded.tokens.reshape(grid)
        image = self.render(params, tokens, upsampled, options.control)
        confidence = None if decoded.confidence is None else decoded.confidence.reshape(grid)
        return Restored(color.correct(image, lr, options.color_fix), confidence, tokens)

    # ------------------------------------------------------------ training

    @property
    def stages(self) -> dict[str, Stage]:
        """Returns the stages in order: tokenizer, generator, critic, control."""
        base = ("tokenizer", "codebook")
        return {
            "tokenizer": self.tokenizer_stage(),
            "generator": Stage(
                phases=(Phase(("generator",), partial(generator_loss, self)),),
                needs=base,
                exports=("generator",),
                panel=partial(token_panel, self, "generator"),
            ),
            "critic": Stage(
                phases=(Phase(("critic",), partial(critic_loss, self)),),
                # The critic learns to find this generator's tokens.
                needs=(*base, "generator"),
                exports=("critic",),
                panel=partial(token_panel, self, "critic"),
            ),
            "control": self.control_stage(),
        }

    def control_stage(self) -> Stage:
        """Returns the stage of the controlling module (§3.3)."""
        trained = ("control", *self.control_parts)
        return self.image_stage(
            trained,
            partial(control_loss, self),
            needs=("tokenizer", "codebook", "generator", "critic"),
            continues=self.control_parts,
            # Whole groups, since a bundle stores no parts of them.
            exports=tuple(dict.fromkeys(path.partition("/")[0] for path in trained)),
            panel=partial(token_panel, self, "control"),
            start=lambda params: params | {"control": self.start_control(params)},
        )

    def start_control(self, params: Params) -> Params:
        """Returns the fresh controlling module with the tokenizer's encoder in its place."""
        return control.start(params["control"], params["tokenizer"])

    def control_tail(self, params: Params, latent: Latent, upsampled: Image) -> Tail:
        """Returns the zero convolution, which sets the adaptive weight, and the frozen decoder."""
        network = self.control.bind(params["control"])

        def decode_steered(zero: Params, features: jax.Array) -> Image:
            residual = self.control.apply(
                params["control"] | {"zero": zero}, lambda m: m.zero(features)
            )
            return self.tokenizer.apply(params["tokenizer"], lambda m: m.decoder(latent + residual))

        return Tail(network.features(latent, upsampled), params["control"]["zero"], decode_steered)


def control_loss(
    method: RealSRT, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the image losses of the controlled image of tokens from iterative decoding (§3.3)."""
    hr, upsampled = batch["hr"], method.upsample(batch["lr"])
    keys = jax.random.split(key, hr.shape[0])
    options = method.options(steps=method.losses.control_steps)
    # Tokens of the whole decoding, not of HR: at inference the module gets no others.
    tokens = method.generate(params, upsampled, keys, options).tokens
    tokens = jax.lax.stop_gradient(tokens.reshape(-1, *method.grid))
    tokenizer = method.tokenizer.bind(params["tokenizer"])
    latent = tokenizer.latent(method.embed(params, tokens))
    tail = method.control_tail(params, latent, upsampled)
    balanced, metrics = image_loss(method, params, [(1.0, hr)], tail, step, key)
    return balanced.surrogate, LossResult(metrics, stats, {"fake": balanced.image})


def mask_tokens(
    method: RealSRT, params: Params, batch: Batch, key: jax.Array
) -> tuple[Tokens, Tokens, jax.Array]:
    """Returns (HR tokens, LR tokens, mask), all [B, N].

    max(1, round(γ(r)·N)) positions are masked, drawn uniformly, with r ~ U(0, 1) (§3.2).
    """
    size = batch["hr"].shape[0]
    # Pair by pair, not one batch after the other: those would lie on other devices than their parts
    # of a sharded batch (docs/scaling.md).
    pairs = jnp.stack([batch["hr"], method.upsample(batch["lr"])], axis=1)
    tokens = method.tokenize(params, pairs.reshape(2 * size, *pairs.shape[2:]))
    hr_tokens, lr_tokens = jnp.unstack(tokens.reshape(size, 2, -1), axis=1)
    ratio_key, mask_key = jax.random.split(key)
    ratios = gamma(method.config.schedule)(jax.random.uniform(ratio_key, (size,)))
    # At least one, or the example would train nothing.
    counts = jnp.maximum(1, jnp.round(ratios * hr_tokens.shape[1])).astype(jnp.int32)
    return hr_tokens, lr_tokens, random_mask(mask_key, counts, hr_tokens.shape[1])


def generator_loss(
    method: RealSRT, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the cross-entropy of masked HR tokens given the others and all LR tokens (Eq. 1)."""
    hr_tokens, lr_tokens, mask = mask_tokens(method, params, batch, key)
    memory = method.memory(params, "generator", lr_tokens)
    logits = method.logits(params, "generator", hr_tokens, mask, memory)
    loss = token_losses.masked_cross_entropy(logits, hr_tokens, mask)
    metrics = {
        "cross_entropy": loss,
        "accuracy": token_losses.accuracy(logits, hr_tokens, mask),
        # Accuracy of copying the LR tokens, the generator's baseline (docs/training_log.md).
        "copy_accuracy": jnp.mean(hr_tokens == lr_tokens),
    }
    return loss, LossResult(metrics, stats, {})


def critic_loss(
    method: RealSRT, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the binary cross-entropy of the critic (Eq. 2).

    Its input has the frozen generator's argmax at masked positions; the label is the mask.
    """
    hr_tokens, lr_tokens, mask = mask_tokens(method, params, batch, key)
    memory = method.memory(params, "generator", lr_tokens)
    predicted = jnp.argmax(method.logits(params, "generator", hr_tokens, mask, memory), -1)
    tokens = jax.lax.stop_gradient(jnp.where(mask, predicted, hr_tokens))
    critic_memory = method.memory(params, "critic", lr_tokens)
    logits = method.logits(params, "critic", tokens, None, critic_memory)[..., 0]
    loss = token_losses.critic_cross_entropy(logits, mask)
    metrics = {
        "binary_cross_entropy": loss,
        "accuracy": jnp.mean((logits > 0) == mask),
        # Its entropy is the loss of a critic that knows this share and nothing else.
        "masked_share": jnp.mean(mask.astype(jnp.float32)),
    }
    return loss, LossResult(metrics, stats, {})


def token_panel(
    method: RealSRT, stage: str, params: Params, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Returns images of LR, restoration, confidence and HR, using the groups trained so far."""
    # Without the groups of later stages, which do not exist yet.
    rule = "confidence" if stage == "generator" else "critic"
    options = method.options(rule=rule, confidence=True)
    upsampled = method.upsample(batch["lr"])
    keys = jax.random.split(key, upsampled.shape[0])
    decoded = method.generate(params, upsampled, keys, options)
    tokens = decoded.tokens.reshape(-1, *method.grid)
    assert decoded.confidence is not None
    grey = jnp.repeat(decoded.confidence.reshape(*tokens.shape, 1), 3, axis=-1)
    return {
        "lr": upsample_nearest(batch["lr"], method.scale),
        "output": method.render(params, tokens, upsampled, steered=stage == "control"),
        "confidence": upsample_nearest(grey, method.factor),
        "hr": batch["hr"],
    }
