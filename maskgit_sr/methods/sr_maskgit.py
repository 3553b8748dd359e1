"""SR-MaskGIT: token correction and inpainting on MaskGIT's networks, ×2.

Both see the bicubically enlarged LR image through the VQGAN. Correction maps all of its tokens to
HR tokens in one pass; inpainting masks it cell by cell and lets a prior of HR images fill the
cells. docs/parity.md says where the public code differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maskgit_sr.arrays import Confidence, Keys, Params, Scalar, TokenGrid, TokenMask, Tokens
from maskgit_sr.decoding.masked import blank, decode
from maskgit_sr.decoding.rules import ConfidenceRule
from maskgit_sr.losses import token as token_losses
from maskgit_sr.methods.base import Batch, LossResult, Phase, Stage, check_choice
from maskgit_sr.methods.maskgit import MaskGITConfig
from maskgit_sr.methods.maskgit_training import (
    MaskGITMethod,
    MaskGITOptions,
    cosine_mask,
    restore_panel,
)
from maskgit_sr.models.fields import MAX_STEPS, Side
from maskgit_sr.ops import cells
from maskgit_sr.ops.schedules import mask_counts


def _check_steps(steps: int) -> None:
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps: expected 1 to {MAX_STEPS}, found {steps}")


# ---------------------------------------------------------------- correction


@dataclasses.dataclass(frozen=True)
class CorrectionOptions(MaskGITOptions):
    """Options of token correction.

    Attributes:
        threshold: beyond the paper: tokens of at least this probability are kept, the others are
            masked and predicted again from them and from the LR tokens; 0: all are kept.
        steps: passes of that second prediction.
        rows: 1 attends within single rows of the grid, as the public evaluation does without
            meaning to; for parity alone. 0 attends to the whole grid, as in training.
    """

    threshold: float = 0.0
    steps: int = 4
    rows: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: expected 0 to 1, found {self.threshold}")
        _check_steps(self.steps)
        if self.rows not in (0, 1):
            raise ValueError(f"rows: expected 0 or 1, found {self.rows}")


class Correction(MaskGITMethod):
    """Token correction: all HR tokens from all LR tokens, in one pass by argmax."""

    name = "sr_maskgit_correction"
    options_class = CorrectionOptions
    studies: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
        "threshold": tuple(
            (f"threshold {value}", {"threshold": value}) for value in (0.0, 0.25, 0.5, 0.75)
        ),
    }

    def correct(
        self, params: Params, lr_tokens: Tokens, rows: int = 0
    ) -> tuple[Tokens, Confidence]:
        """Returns the most likely HR tokens [B, N] and their probabilities [B, N]."""
        if rows:
            # Positions 0 … w − 1 in every row, and no class: what the public call amounts to.
            apart = lr_tokens.reshape(-1, self.grid)
            logits = self.transformer.apply(params["transformer"], lambda m: m(apart))
            logits = logits.reshape(*lr_tokens.shape, -1)
        else:
            logits = self.logits(params, lr_tokens)
        tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return tokens, jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)

    def predict(
        self, params: Params, lr_tokens: TokenGrid, keys: Keys, options: CorrectionOptions
    ) -> tuple[TokenGrid, Float[Array, "B h w"]]:
        """Returns the corrected tokens [B, h, w] and their probabilities [B, h, w]."""
        grid = lr_tokens.shape
        lr_tokens = lr_tokens.reshape(grid[0], -1)
        tokens, probability = self.correct(params, lr_tokens, options.rows)
        if options.threshold > 0:
            known = probability >= options.threshold
            found = self.fill(
                params, tokens, known, keys, options.steps, lr_tokens, confidence=True
            )
            assert found.confidence is not None
            tokens = found.tokens
            probability = jnp.where(known, probability, found.confidence)
        return tokens.reshape(grid), probability.reshape(grid)

    def transformer_stages(self) -> dict[str, Stage]:
        """Returns prior and correction, which goes on from it."""
        correction = Stage(
            phases=(Phase(("transformer",), partial(correction_loss, self)),),
            exports=("transformer",),
            panel=partial(restore_panel, self),
            needs=("tokenizer",),
            continues=("transformer",),
        )
        return super().transformer_stages() | {"correction": correction}


def correction_loss(
    method: Correction,
    params: Params,
    stats: Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[Scalar, LossResult]:
    """Returns the mean cross-entropy of all HR tokens given all LR tokens, without dropout.

    A share ``losses.joined`` of the examples predicts masked HR tokens from the others, with the LR
    tokens' embeddings added where tokens are masked.
    """
    hr, lr = batch["hr"], method.upsample(batch["lr"])
    # Pair by pair, not one batch after the other: those would lie on other devices than their parts
    # of a sharded batch (docs/scaling.md).
    pairs = jnp.stack([hr, lr], axis=1).reshape(-1, *hr.shape[1:])
    tokens = method.tokenize(params, pairs).reshape(hr.shape[0], 2, -1)
    hr_tokens, lr_tokens = jnp.unstack(tokens, axis=1)
    corrected = jnp.ones(hr_tokens.shape, bool)
    if method.losses.joined:
        mask_key, joined_key = jax.random.split(key)
        joined = jax.random.bernoulli(joined_key, method.losses.joined, (hr.shape[0], 1))
        mask = joined & cosine_mask(hr_tokens, mask_key, 0.0)
        given = jnp.where(joined, hr_tokens, lr_tokens)
        logits = method.logits(params, given, mask, lr_tokens)
        predicted, corrected = jnp.where(joined, mask, True), corrected & ~joined
    else:
        logits, predicted = method.logits(params, lr_tokens), corrected
    loss = token_losses.masked_cross_entropy(logits, hr_tokens, predicted)
    metrics = {
        "cross_entropy": token_losses.masked_cross_entropy(logits, hr_tokens, corrected),
        "accuracy": token_losses.accuracy(logits, hr_tokens, corrected),
        # Accuracy of copying the LR tokens, the correction's baseline.
        "copy_accuracy": jnp.mean(hr_tokens == lr_tokens),
    }
    if method.losses.joined:
        metrics["joined_accuracy"] = token_losses.accuracy(logits, hr_tokens, mask)
    return loss, LossResult(metrics, stats, {})


# ---------------------------------------------------------------- inpainting


@dataclasses.dataclass(frozen=True)
class InpaintingConfig(MaskGITConfig):
    """Networks and windows, as `MaskGITConfig`.

    Attributes:
        cell: side of the square of tokens that are masked together; the grid is an even number of
            them.
    """

    cell: Side = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        cells.rounds("raster", self.grid, self.cell)  # raises for a cell that does not fit


@dataclasses.dataclass(frozen=True)
class InpaintingOptions(MaskGITOptions):
    """Options of inpainting.

    Attributes:
        order: of the cells: ``shift`` (four rounds, the cells of a round at once), ``halton`` (the
            same, by a Halton sequence) or ``raster`` (the public code's, one cell after another).
        steps: T, decoding steps of a cell's whole schedule.
        start: the step that a cell begins at, which leaves T − start passes.
        temperature: 0 takes the most likely token; above 0 samples softmax(logits / temperature).
        noise: factor of the annealed Gumbel noise on the confidence.
    """

    order: str = "shift"
    steps: int = 12
    start: int = 8
    temperature: float = 1.0
    noise: float = 4.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("order", self.order, cells.ORDERS)
        _check_steps(self.steps)
        if not 0 <= self.start < self.steps:
            raise ValueError(f"start: expected 0 to {self.steps - 1}, found {self.start}")
        for name in ("temperature", "noise"):
            # Written so that NaN, which fails every comparison, is refused too.
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")

    @property
    def stochastic(self) -> bool:
        """True if tokens are sampled, or the noise has a step to choose in."""
        return self.temperature > 0 or (self.noise > 0 and self.steps - self.start > 1)


class Inpainting(MaskGITMethod):
    """Inpainting: cells of the LR image's token grid are masked and filled by a prior of HR."""

    name = "sr_maskgit_inpainting"
    config_class: Any = InpaintingConfig
    options_class = InpaintingOptions
    studies: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
        "order": tuple((order, {"order": order}) for order in cells.ORDERS),
    }

    def inpaint(
        self, params: Params, tokens: Tokens, keys: Keys, options: InpaintingOptions
    ) -> tuple[Tokens, Confidence]:
        """Returns the tokens [B, N] with every cell filled once, and their probabilities [B, N].

        The tokens of other cells are known, and do not change.
        """
        places = jnp.asarray(cells.rounds(options.order, self.grid, self.config.cell))
        _, count, size = places.shape
        counts = jnp.asarray(remasked(options.steps, size, options.start))
        batch = tokens.shape[0]

        def fill(turn: jax.Array, carry: tuple[Tokens, Confidence]) -> tuple[Tokens, Confidence]:
            tokens, probability = carry
            where = places[turn].reshape(-1)
            mask_all = jnp.zeros(tokens.shape, bool)

            def generate(filled: Tokens, mask: TokenMask) -> jax.Array:
                grid = tokens.at[:, where].set(filled.reshape(batch, -1))
                masked = mask_all.at[:, where].set(mask.reshape(batch, -1))
                found = self.logits(params, grid, masked)[:, where]
                return found.reshape(batch * count, size, -1)

            # A key for each cell by its place, so that the order of the cells does not matter.
            cell_keys = jax.vmap(
                lambda key: jax.vmap(lambda cell: jax.random.fold_in(key, cell))(places[turn, :, 0])
            )(keys)
            decoded = decode(
                generate,
                ConfidenceRule(options.noise),
                blank(batch * count, size),
                counts,
                cell_keys.reshape(-1),
                temperature=options.temperature,
                first=options.start,
                confidence=True,
            )
            assert decoded.confidence is not None
            return (
                tokens.at[:, where].set(decoded.tokens.reshape(batch, -1)),
                probability.at[:, where].set(decoded.confidence.reshape(batch, -1)),
            )

        carry = (tokens, jnp.zeros(tokens.shape, jnp.float32))
        found: tuple[Tokens, Confidence] = jax.lax.fori_loop(0, places.shape[0], fill, carry)
        return found

    def predict(
        self, params: Params, lr_tokens: TokenGrid, keys: Keys, options: InpaintingOptions
    ) -> tuple[TokenGrid, Float[Array, "B h w"]]:
        """Returns the inpainted tokens [B, h, w] and their probabilities [B, h, w]."""
        found = self.inpaint(params, lr_tokens.reshape(lr_tokens.shape[0], -1), keys, options)
        tokens, probability = (part.reshape(lr_tokens.shape) for part in found)
        return tokens, probability


def remasked(steps: int, tokens: int, start: int) -> np.ndarray:
    """Returns the tokens still masked after each step of a cell that begins at ``start``, [T].

    The cosine schedule, but at least one token is filled and one is left by every step, as in the
    public loop (google-research/maskgit, `parallel_decode`).
    """
    counts, unknown = mask_counts(steps, tokens, "cosine"), tokens
    for step in range(start, steps):
        counts[step] = unknown = max(1, min(unknown - 1, int(counts[step])))
    return counts
