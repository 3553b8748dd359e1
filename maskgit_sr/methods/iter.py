"""ITER (Chen et al., AAAI 2024): networks and restoration, ×2 or ×4.

Distortion removal predicts the HR tokens of an LR image at once; discrete diffusion refines those
that an evaluation network finds wrong, in as many steps as there are wrong ones.

Groups: ``tokenizer``, ``codebook``, ``encoder`` (E_l), ``refinement`` (φ_r), ``evaluation`` (φ_e).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from maskgit_sr.arrays import (
    Confidence,
    Execution,
    Image,
    Keys,
    Params,
    TokenGrid,
    TokenLogits,
    TokenMask,
    Tokens,
)
from maskgit_sr.decoding.masked import Canvas, Decoded, decode
from maskgit_sr.decoding.rules import ConfidenceRule, SamplingRule
from maskgit_sr.methods import vq
from maskgit_sr.methods.base import Reference, Restored, RestoreOptions, TileSpec, check_choice
from maskgit_sr.models.fields import MAX_STEPS, Range, Steps
from maskgit_sr.models.functional import Network
from maskgit_sr.models.swin_vqgan import SwinVQGAN, SwinVQGANConfig
from maskgit_sr.models.token_swin import RemovalConfig, RemovalEncoder, TokenSwin, TokenSwinConfig
from maskgit_sr.ops import color
from maskgit_sr.ops.schedules import gamma, keep_counts, mask_counts

STARTS = ("released", "algorithm2")
RULES = ("evaluation", "confidence")


@dataclasses.dataclass(frozen=True)
class ITERConfig:
    """Networks and decoding; the defaults are the released ×4 ones ("base").

    Attributes:
        scale: output side over input side, 2 or 4.
        tokenizer: shape of the Swin-VQGAN.
        encoder: shape of the distortion-removal encoder E_l.
        refinement: shape of φ_r, which predicts HR tokens.
        evaluation: shape of φ_e, which tells right tokens from wrong ones.
        tile: windows in LR pixels; their token grids must be whole attention windows. A token
            depends on its whole window, by the means of the networks' gates.
        steps: T, decoding steps of a start without any good token.
        schedule: mask schedule γ of decoding.
        alpha: α, the probability from which a token of E_l counts as good.
    """

    scale: Annotated[int, Range(1, 16)] = 4
    tokenizer: SwinVQGANConfig = SwinVQGANConfig()
    encoder: RemovalConfig = RemovalConfig()
    refinement: TokenSwinConfig = TokenSwinConfig()
    evaluation: TokenSwinConfig = TokenSwinConfig()
    tile: TileSpec = TileSpec((64, 128), 16, 0.0)
    steps: Steps = 8
    schedule: str = "linear"
    alpha: Annotated[float, Range(0, 1)] = 0.7

    def __post_init__(self) -> None:
        gamma(self.schedule)  # raises for an unknown name


@dataclasses.dataclass(frozen=True)
class ITEROptions(RestoreOptions):
    """Options of restoration.

    Attributes:
        alpha: α from 0 to 1: tokens of E_l that are right with at least this probability are kept.
            Small values keep all and change little; large ones draw more texture, in more steps.
        steps: T, from 1 to 1024. A start that has good tokens skips the first of them.
        schedule: name of the mask schedule γ.
        start: the first step: ``released``, the first before which the schedule keeps as many
            tokens as are good; ``algorithm2`` (the paper's), the one before, after which it does.
        rule: what decides on the tokens that a step keeps: ``evaluation``, φ_e; ``confidence``, the
            probability with which φ_r drew them, as without φ_e (the paper's ablation). The start
            is φ_e's in both.
        resample_kept: draw kept tokens again at every step, as the released code does; else they
            stay.
        temperature: 0 takes the most likely token; above 0 samples softmax(logits / temperature).
        noise: of the rule ``evaluation``: 1 samples the positions to keep in proportion to how
            likely each is right; 0 keeps the most likely.
    """

    traced = ("alpha",)

    color_fix: str = "adain"
    alpha: float = 0.7
    steps: int = 8
    schedule: str = "linear"
    start: str = "released"
    rule: str = "evaluation"
    resample_kept: bool = True
    temperature: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha: expected 0 to 1, found {self.alpha}")
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps: expected 1 to {MAX_STEPS}, found {self.steps}")
        gamma(self.schedule)  # raises for an unknown name
        check_choice("start", self.start, STARTS)
        check_choice("rule", self.rule, RULES)
        for name in ("temperature", "noise"):
            # Written so that NaN, which fails every comparison, is refused too.
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")

    @property
    def stochastic(self) -> bool:
        """True if tokens or positions are sampled."""
        sampled = self.rule == "evaluation" and self.noise > 0 and self.steps > 1
        return self.temperature > 0 or sampled


def plan(
    kept: Int[Array, " B"], steps: int, tokens: int, schedule: str, start: str
) -> tuple[Int[Array, " B"], Int[Array, "B T"]]:
    """Returns (first step of each example, tokens still masked after each step).

    After every step at least one token more is kept than before it, until all are. The first step
    is T where none is needed.

    Args:
        kept: tokens kept from E_l.
        start: as in `ITEROptions`.
    """
    before = keep_counts(steps, tokens, schedule)
    if start == "released":
        # What is kept before the next step; all after the last.
        after = jnp.asarray([*before[1:], tokens], jnp.int32)
        enough = jnp.asarray(before)[None] >= kept[:, None]
    else:
        after = jnp.asarray(tokens - mask_counts(steps, tokens, schedule), jnp.int32)
        enough = after[None] >= kept[:, None]
    first = jnp.where(enough.any(-1), jnp.argmax(enough, -1), steps).astype(jnp.int32)
    # m_t = min(schedule's, m_{t−1} − 1) from the first step on: a running minimum of m_t + t.
    times = jnp.arange(1, steps + 1, dtype=jnp.int32)
    bound = jnp.where(times[None] > first[:, None], (tokens - after + times)[None], 2 * MAX_TOKENS)
    bound = jax.lax.cummin(bound, axis=1)
    bound = jnp.minimum(bound, (tokens - kept + first)[:, None])
    return first, jnp.maximum(bound - times[None], 0)


MAX_TOKENS = 2**29
"""More than any grid has; twice as many still fit int32."""


class ITERNetworks(vq.VQMethod):
    """Networks of ITER, and what restoration does with them."""

    groups: tuple[str, ...] = ("tokenizer", "codebook", "encoder", "refinement", "evaluation")
    config_class: Any = ITERConfig
    options_class = ITEROptions
    tokenizer_class: Any = SwinVQGAN
    studies: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
        "alpha": tuple(
            (f"alpha {value}", {"alpha": value})
            for value in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
        ),
        "kept": (("drawn again", {"resample_kept": True}), ("frozen", {"resample_kept": False})),
        "start": tuple((start, {"start": start}) for start in STARTS),
        "rule": tuple((rule, {"rule": rule}) for rule in RULES),
    }

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        """Checks that the parts fit together.

        Raises:
            ValueError: scale, tokenizer and windows disagree.
        """
        super().__init__(config, losses, execution)
        config = self.config
        self.scale: int = config.scale
        downs = math.log2(self.factor / self.scale)
        if downs < 0 or downs % 1:
            raise ValueError(
                f"scale: expected {self.factor}, the tokenizer's factor, halved any number of "
                f"times, found {self.scale}"
            )
        networks = (config.encoder, config.refinement, config.evaluation)
        window = math.lcm(
            getattr(config.tokenizer, "window", 1), *(part.swin.window for part in networks)
        )
        multiple = window * self.factor
        if any(side * self.scale % multiple for side in config.tile.sides):
            raise ValueError(
                f"tile.sides: expected sides which × {self.scale} are multiples of {multiple}, "
                f"found {config.tile.sides}"
            )
        run, codes = self.run, self.codes
        self.encoder = Network(
            lambda rngs: RemovalEncoder(config.encoder, int(downs), codes, **run, rngs=rngs)
        )
        self.refinement = Network(
            lambda rngs: TokenSwin(config.refinement, codes, codes, True, **run, rngs=rngs)
        )
        self.evaluation = Network(
            lambda rngs: TokenSwin(config.evaluation, codes, 2, False, **run, rngs=rngs)
        )

    def options(self, /, **given: Any) -> ITEROptions:
        """Returns the options; α, ``steps`` and ``schedule`` default to the model's own."""
        own = {name: getattr(self.config, name) for name in ("alpha", "steps", "schedule")}
        # None must not hide the model's own value, which need not be the dataclass's default.
        given = {name: value for name, value in given.items() if value is not None}
        chosen: ITEROptions = super().options(**(own | given))
        return chosen

    @property
    def references(self) -> tuple[Reference, ...]:
        """Returns the tokenizer of HR, its ceiling; E_l alone is the run of α = 0."""
        return (Reference("VQGAN of HR", vq.Autoencoder(self), "hr"),)

    def predict(self, params: Params, lr: Image) -> jax.Array:
        """Returns E_l's logits [B, h, w, K] of an LR image [B, H, W, 3] in [0, 1]."""
        logits: jax.Array = self.encoder.apply(params["encoder"], lambda m: m(lr))
        return logits

    def refine(
        self, params: Params, lr_tokens: TokenGrid, keys: Keys, options: ITEROptions
    ) -> Decoded:
        """Returns the tokens [B, N] refined from those of E_l [B, h, w] (Algorithm 2).

        The confidence is φ_e's probability that a token is right. φ_e runs once for the start and
        once for each step but the last.
        """
        grid = lr_tokens.shape
        flat = lr_tokens.reshape(grid[0], -1)
        refinement = self.refinement.bind(params["refinement"])
        evaluation = self.evaluation.bind(params["evaluation"])
        rated = evaluation.condition(lr_tokens)

        def right(tokens: Tokens) -> Confidence:
            logits = evaluation(tokens.reshape(grid), rated)
            # The softmax of two logits, without its rounding near 1.
            found = jax.nn.sigmoid(logits[..., 1] - logits[..., 0])
            return found.reshape(flat.shape)

        kept = right(flat) >= options.alpha
        first, counts = plan(
            kept.sum(-1, dtype=jnp.int32),
            options.steps,
            flat.shape[1],
            options.schedule,
            options.start,
        )
        given = refinement.condition(lr_tokens, ~kept.reshape(grid))

        def generate(tokens: Tokens, mask: TokenMask) -> TokenLogits:
            logits = refinement(tokens.reshape(grid), given, mask.reshape(grid))
            return logits.reshape(*flat.shape, -1)

        fixed = jnp.zeros_like(kept) if options.resample_kept else kept
        by_evaluation = options.rule == "evaluation"
        return decode(
            generate,
            SamplingRule(right, options.noise) if by_evaluation else ConfidenceRule(),
            Canvas(flat, fixed, first, ~kept),
            counts,
            keys,
            temperature=options.temperature,
            redraw=options.resample_kept,
            # Steps that no example of the batch needs are not run.
            first=jnp.minimum(first.min(), options.steps - 1),
            confidence=options.confidence,
        )

    def restore(self, params: Params, lr: Image, keys: Keys, options: ITEROptions) -> Restored:
        """Restores LR windows [B, side, side, 3] in [0, 1]; colours as Eq. 10 has them."""
        lr_tokens = jnp.argmax(self.predict(params, lr), -1).astype(jnp.int32)
        decoded = self.refine(params, lr_tokens, keys, options)
        tokens = decoded.tokens.reshape(lr_tokens.shape)
        # Clipped before its colours are measured, as the public decoder's image is.
        image = jnp.clip(self.decode_tokens(params, tokens), 0, 1)
        confidence = decoded.confidence
        if confidence is not None:
            confidence = confidence.reshape(lr_tokens.shape)
        return Restored(color.correct(image, lr, options.color_fix), confidence, tokens)
