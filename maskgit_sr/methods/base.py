"""Contract between a method and everything that trains, runs, scores, exports or serves it.

`docs/adding_a_method.md` walks through it with a worked example (`maskgit_sr.methods.subpixel`).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float

from maskgit_sr.arrays import Execution, Image, Keys, Params, Scalar, TokenGrid
from maskgit_sr.methods.convolutional import Chain
from maskgit_sr.models.fields import Factor, Range, Side, fit, least_arrays
from maskgit_sr.models.fields import from_mapping as from_mapping
from maskgit_sr.ops.color import COLOR_FIXES
from maskgit_sr.ops.noise import Windows
from maskgit_sr.ops.tiles import plan_axis

Batch = Mapping[str, jax.Array]


# ---------------------------------------------------------------- training


class LossResult(NamedTuple):
    """Auxiliary output of a phase's loss.

    Attributes:
        metrics: scalars to log.
        stats: new statistics, which are updated but not trained (the codebook's EMA).
        carry: arrays added to the batch for the later phases of the same step, without gradient,
            so that nothing is computed twice (the generated image, for the discriminator).
    """

    metrics: dict[str, Scalar]
    stats: Params
    carry: dict[str, jax.Array]


Loss = Callable[[Params, Params, Batch, jax.Array, jax.Array], tuple[Scalar, LossResult]]
"""(params, stats, batch, key, step) → (scalar, result), differentiated in the phase's groups."""

Panel = Callable[[Params, Batch, jax.Array], dict[str, jax.Array]]
"""(params, batch, key) → images [B, H, W, 3] by name. ``output`` is scored against ``hr``."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """One update within a step: one gradient of one loss over one or several groups."""

    groups: tuple[str, ...]
    loss: Loss


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training run, described to the trainer by these fields alone.

    Attributes:
        phases: updates of one step, in order. The groups that they name are trained.
        exports: groups whose EMA (or statistics) the finished stage contributes to a bundle.
        panel: draws the stage's result; its ``output`` is what validation scores.
        needs: groups of earlier stages that must exist, and stay frozen.
        continues: trained groups that start from an earlier stage's weights instead of fresh ones
            (L1 pre-training, then GAN).
        batch: arrays of an example that the stage takes: ``("hr",)`` for tokenizers and priors.
        frozen: networks that are not the method's own, by group name: builders of their parameters
            (perceptual nets).
        fresh_stats: groups whose statistics this stage starts and updates.
        start: params → params with this stage's groups made ready, such as a copied encoder.
        finish: (params, stats) → params with what the statistics hold moved to its group.
    """

    phases: tuple[Phase, ...]
    exports: tuple[str, ...]
    panel: Panel
    needs: tuple[str, ...] = ()
    continues: tuple[str, ...] = ()
    batch: tuple[str, ...] = ("lr", "hr")
    frozen: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    fresh_stats: tuple[str, ...] = ()
    start: Callable[[Params], Params] = lambda params: params
    finish: Callable[[Params, Params], Params] = lambda params, stats: params

    @property
    def trains(self) -> tuple[str, ...]:
        """Returns the trained groups, in the order of the phases, each once."""
        # A dict, because a set has no order.
        return tuple(dict.fromkeys(group for phase in self.phases for group in phase.groups))


# ---------------------------------------------------------------- restoration


@dataclasses.dataclass(frozen=True)
class TileSpec:
    """Windows of fixed shape into which images of any size are cut.

    Attributes:
        sides: sides of the square windows that the method takes, in LR pixels, ascending. An image
            is worked through in those that have the fewest pixels in all.
        overlap: LR pixels that neighbouring windows share.
        variance: variance of a window's Gaussian weight, its side being 1 (RealSRT §3.4); 0: ramps
            in the overlap alone (`maskgit_sr.ops.tiles.window`).

    Raises:
        ValueError: no side, sides that do not ascend, an overlap outside 0 … smallest side − 1, or
            a variance that is neither 0 nor at least 0.005.
    """

    sides: tuple[Side, ...] = (64,)
    overlap: Annotated[int, Range(0, 1023)] = 32
    variance: Factor = 0.05

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 1 or list(self.sides) != sorted(set(self.sides)):
            raise ValueError(f"tile.sides: expected ascending sides, found {self.sides}")
        # The stride is side − overlap, and must be at least 1 for the smallest side too.
        if not 0 <= self.overlap < self.sides[0]:
            raise ValueError(
                f"tile.overlap: expected 0 to {self.sides[0] - 1}, found {self.overlap}"
            )
        # Below, weights at a window's corners are 0 in float32, and their quotients are NaN.
        if self.variance and not self.variance >= 0.005:
            raise ValueError(f"tile.variance: expected 0, or 0.005 or more, found {self.variance}")

    def side(self, height: int, width: int) -> int:
        """Returns the side of the windows for an image of H × W LR pixels."""
        # Of equals the largest, which has the fewest seams.
        return min(reversed(self.sides), key=lambda s: s**2 * self.count(height, width, s))

    def count(self, height: int, width: int, side: int) -> int:
        """Returns the number of windows of ``side`` that cover an image of H × W LR pixels."""
        axes = (plan_axis(length, side, side - self.overlap) for length in (height, width))
        return math.prod(len(axis.starts) for axis in axes)


class Restored(NamedTuple):
    """Restored windows.

    Attributes:
        image: [B, scale·H, scale·W, 3], colour-corrected, not clipped.
        confidence: [B, h, w] in [0, 1]; None where the method has none or none was asked for.
        tokens: [B, h, w]; None where the method has none.
    """

    image: Image
    confidence: Float[Array, "B h w"] | None = None
    tokens: TokenGrid | None = None


@dataclasses.dataclass(frozen=True)
class RestoreOptions:
    """Request options: static arguments of `restore`, so each new value compiles once.

    Methods derive their own with their own fields, defaults and checks. Hashable. Fields that are
    only numbers in the computation are named in ``traced``: all their values share a program.

    Attributes:
        traced: names of such fields.
        color_fix: how colours are matched to the input: ``adain``, ``wavelet`` or ``none``.
        confidence: return the confidence too; only for methods that provide it.

    Raises:
        ValueError: a value out of range, naming the field.
    """

    traced: ClassVar[tuple[str, ...]] = ()

    color_fix: str = "none"
    confidence: bool = False

    def __post_init__(self) -> None:
        check_choice("color_fix", self.color_fix, COLOR_FIXES)

    def split(self) -> tuple[RestoreOptions, dict[str, np.float32]]:
        """Returns (the options with traced fields at their defaults, the values of these).

        The first is static under jit, the second an argument; `bind` joins them again.
        """
        fields = dataclasses.fields(self)
        defaults: dict[str, Any] = {f.name: f.default for f in fields if f.name in self.traced}
        values = {name: np.float32(getattr(self, name)) for name in defaults}
        return dataclasses.replace(self, **defaults), values

    def bind(self, values: Mapping[str, Any]) -> RestoreOptions:
        """Returns the options with ``values``, which may be traced and so are not checked."""
        bound = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(bound, name, value)  # frozen, and `replace` would check
        return bound

    @property
    def stochastic(self) -> bool:
        """True if the result depends on the keys."""
        return False


O = TypeVar("O", bound=RestoreOptions)  # noqa: E741


def make_options(cls: type[O], name: str, provides: frozenset[str], given: dict[str, Any]) -> O:
    """Builds a method's options; a value of None stands for the default.

    Raises:
        ValueError: an option that the method lacks, naming those it has; confidence asked of a
            method that provides none; or a value of another type or out of range.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    values = {}
    for option, value in given.items():
        if option not in defaults:
            raise ValueError(
                f"{option}: {name} has no such option; expected one of {', '.join(defaults)}"
            )
        # Commands pass None for options that were not given.
        if value is not None:
            values[option] = fit(option, value, type(defaults[option]))
    chosen = cls(**values)
    if chosen.confidence and "confidence" not in provides:
        raise ValueError(f"confidence: {name} has none")
    return chosen


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError if ``value`` is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, found {value!r}")


class Reference(NamedTuple):
    """A run that `evaluate` scores beside the method's own, to tell what its networks allow.

    Attributes:
        name: such as "VQGAN of HR".
        method: over the same parameters, at its own defaults.
        source: image that it is given: ``lr``, or ``hr`` for a method of scale 1.
    """

    name: str
    method: Method
    source: str


class Method(Protocol):
    """A published system: its networks, training stages and restoration.

    A method holds structure only; parameters are passed to every call as ``{group: tree}``.

    Attributes:
        name: key in `maskgit_sr.methods.registry`.
        scale: output side over input side.
        tile: windows that `restore` takes.
        execution: compute dtype and rematerialisation.
        groups: parameter groups of a bundle.
        exact: those of them that a bundle keeps in float32 whatever its dtype.
        provides: what `restore` returns beside the image: ``confidence``, ``tokens``.
        losses: settings of the training losses, a dataclass; no part of a bundle.
        studies: ablations by name: (name of a run, its options), in order.
        references: runs of other methods over the same parameters, scored beside every score.
    """

    name: str
    scale: int
    tile: TileSpec
    execution: Execution
    groups: tuple[str, ...]
    exact: frozenset[str]
    provides: frozenset[str]
    losses: Any
    studies: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]]

    @property
    def references(self) -> tuple[Reference, ...]:
        """Returns those runs; none where nothing but the method itself sets the limit."""

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Returns the training stages by name, in training order."""

    def shapes(self) -> Params:
        """Returns shape and dtype of every parameter by group; allocates nothing."""

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Returns fresh (params, stats) of ``groups``, which may be training-only ones too."""

    def continued_stats(self, params: Params) -> Params:
        """Returns statistics that continue trained ``params``, for groups that keep any."""

    def options(self, /, **given: Any) -> RestoreOptions:
        """Returns the method's own options, None standing for a default; see `make_options`."""

    def restore(
        self, params: Params, lr: Float[Array, "B H W 3"], keys: Keys, options: Any
    ) -> Restored:
        """Restores LR windows [B, side, side, 3] in [0, 1]; ``keys`` has one for each, [B]."""

    def restore_windows(
        self, params: Params, lr: Float[Array, "B H W 3"], windows: Windows, options: Any
    ) -> Restored:
        """Restores windows of larger images, which tell where they lie; see `restore`."""

    def chain(self, params: Params, options: Any) -> Chain | None:
        """Returns the network under these options as convolutions; None if it is something else."""

    def describe(self) -> dict[str, Any]:
        """Returns the settings of networks and decoding as JSON: enough to `build` the method."""


class MethodBase:
    """Shared implementation of `Method`; a subclass adds networks, stages and `restore`.

    Args:
        config: networks and decoding, a dataclass with a field ``tile``; None: the defaults.
        losses: settings of the training losses; None: the defaults.
    """

    name: str
    groups: tuple[str, ...]
    scale: int
    exact: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    studies: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {}
    config_class: Any
    losses_class: Any
    options_class: Any = RestoreOptions

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        self.config = config or self.config_class()
        self.losses = losses or self.losses_class()
        self.execution = execution or Execution()
        self.tile: TileSpec = self.config.tile

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        losses: Mapping[str, Any],
        execution: Execution,
        arrays: int | None = None,
    ) -> MethodBase:
        """Builds the method from mappings as JSON or ml_collections give them.

        Args:
            arrays: most arrays that its networks may have; None: any number.

        Raises:
            ValueError: an unknown field, a value that does not fit, or too many arrays.
        """
        # Messages name fields by their paths in a run's config.
        network = from_mapping(cls.config_class, config, "model")
        # Before anything is built: a layer takes its time, and the ranges are wide.
        if arrays is not None and (least := least_arrays(network)) > arrays:
            raise ValueError(f"model: describes at least {least} arrays, found {arrays}")
        return cls(network, from_mapping(cls.losses_class, losses, "losses"), execution)

    @property
    def references(self) -> tuple[Reference, ...]:
        """Returns none."""
        return ()

    def continued_stats(self, params: Params) -> Params:
        """Returns nothing: there are no statistics."""
        return {}

    def restore_windows(
        self, params: Params, lr: Image, windows: Windows, options: Any
    ) -> Restored:
        """Restores windows with a key of its own for each.

        A method whose random numbers belong to places in the image overrides it, so that windows
        agree where they overlap.
        """
        return self.restore(params, lr, windows.own_keys(), options)

    def restore(self, params: Params, lr: Image, keys: Keys, options: Any) -> Restored:
        """Restores LR windows; see `Method.restore`."""
        raise NotImplementedError

    def options(self, /, **given: Any) -> Any:
        """Returns the options, None standing for a default; raises as `make_options` does."""
        return make_options(self.options_class, self.name, self.provides, given)

    def chain(self, params: Params, options: Any) -> Chain | None:
        """Returns None: most networks are no chain of convolutions."""
        return None

    def describe(self) -> dict[str, Any]:
        """Returns the configuration as plain JSON values."""
        return dataclasses.asdict(self.config)
