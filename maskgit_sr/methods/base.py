"""What a method is to the trainer, the upscaler and the exporter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
from jaxtyping import Array, Float

from maskgit_sr.arrays import Execution, Image, Keys, Params, Scalar, TokenGrid
from maskgit_sr.decoding.policies import Policy

Batch = Mapping[str, jax.Array]


class LossResult(NamedTuple):
    """What a phase's loss returns beside its scalar.

    Attributes:
        metrics: scalars to log.
        stats: the new statistics, updated but not trained (codebook EMA).
        carry: arrays later phases of the same step read from the batch, so that nothing is
            computed twice (the generated image for the discriminator); no gradient.
    """

    metrics: dict[str, Scalar]
    stats: Params
    carry: dict[str, jax.Array]


Loss = Callable[[Params, Params, Batch, jax.Array, jax.Array], tuple[Scalar, LossResult]]
"""(params, stats, batch, key, step) → (scalar, result). The phase's group is differentiated."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """One update inside a step: which group moves, along which loss."""

    group: str
    loss: Loss


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training run.

    Attributes:
        trains: groups that are optimised, in the order of their phases.
        needs: groups of earlier stages that must be there, frozen.
        phases: updates of one step, in order.
        exports: groups whose EMA (or statistics) the finished stage contributes to a bundle.
        start: params → params with this stage's groups made ready, such as a copied encoder.
        panel: (params, stats, batch, key) → images [B, H, W, 3] by name, for people to look at.
        fresh_stats: groups whose statistics this stage starts and updates.
        finish: (params, stats) → params with what statistics hold moved to its group.
    """

    trains: tuple[str, ...]
    needs: tuple[str, ...]
    phases: tuple[Phase, ...]
    exports: tuple[str, ...]
    panel: Callable[[Params, Params, Batch, jax.Array], dict[str, jax.Array]]
    fresh_stats: tuple[str, ...] = ()
    start: Callable[[Params], Params] = lambda params: params
    finish: Callable[[Params, Params], Params] = lambda params, stats: params


@dataclasses.dataclass(frozen=True)
class TileSpec:
    """How an image is cut: LR tile side and stride; side of a confidence cell in LR pixels."""

    size: int = 64
    stride: int = 32
    cell: int = 2
    variance: float = 0.05


class Restored(NamedTuple):
    """Restored tiles, colour-corrected and not clipped; confidence in [0, 1] or None; tokens."""

    image: Image
    confidence: Float[Array, "B h w"] | None
    tokens: TokenGrid


@dataclasses.dataclass(frozen=True)
class RestoreOptions:
    """Static choices of one restoration; a new value means a new compilation."""

    policy: Policy = Policy()
    color_fix: str = "adain"
    control: bool = True


class Method(Protocol):
    """A published system: its networks, training stages and restoration."""

    name: str
    scale: int
    tile: TileSpec
    execution: Execution
    bundle_groups: tuple[str, ...]

    @property
    def stages(self) -> dict[str, Stage]:
        """Training stages by name, in training order."""

    def shapes(self) -> Params:
        """Shape and dtype of every parameter, by group; allocates nothing."""

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Fresh (params, stats) of those groups."""

    def continued_stats(self, params: Params) -> Params:
        """Statistics to go on with from trained groups, for those groups that keep any."""

    def restore(
        self, params: Params, lr: Float[Array, "B H W 3"], keys: Keys, options: RestoreOptions
    ) -> Restored:
        """LR tiles [B, tile, tile, 3] in [0, 1] → tiles ×scale."""

    def describe(self) -> dict[str, Any]:
        """The configuration as JSON, enough to build this method again."""
