"""Structure path alone: one small network, taught by larger ones, that works at once on a CPU.

A deterministic teacher has one answer for every input, and a small network learns most of it by
regression; photographs themselves have many answers, whose mean is a blur. So the stage `distil`
takes its target from a teacher's output (`data.teach`). No tokens, no confidence.

Group: ``structure``.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.arrays import Execution, Image, Keys, Params, Scalar
from maskgit_sr.methods.base import Batch, LossResult, Restored, RestoreOptions, Stage, TileSpec
from maskgit_sr.methods.convolutional import Chain, Convolution
from maskgit_sr.methods.image import ImageLossConfig, ImageMethod, Tail, image_loss
from maskgit_sr.models import structure
from maskgit_sr.models.functional import Network
from maskgit_sr.models.structure import StructureConfig
from maskgit_sr.ops.color import correct


@dataclasses.dataclass(frozen=True)
class StructureMethodConfig:
    """Network and windows.

    Attributes:
        tile: windows in LR pixels.
        structure: the network; ``scale`` is the method's.
    """

    tile: TileSpec = TileSpec(sides=(64, 128, 256, 384), overlap=32, variance=0.0)
    structure: StructureConfig = StructureConfig()


@dataclasses.dataclass(frozen=True)
class DistilLosses(ImageLossConfig):
    """Losses to the teacher's output.

    Attributes:
        hr_weight: factor of the same losses to the photograph itself, 0 to 1; they teach blur.
    """

    pixel: str = "l1"
    perceptual: str = "lpips_squeeze"
    perceptual_weight: float = 1.0
    perceptual_shift: int = 16
    adversarial_weight: float = 0.0
    hr_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.hr_weight <= 1:
            raise ValueError(f"losses.hr_weight: expected 0 to 1, found {self.hr_weight}")


@dataclasses.dataclass(frozen=True)
class StructureOptions(RestoreOptions):
    """Options of a request.

    Attributes:
        strength: how much noise, blocks and grain are removed, 0 to 1.
    """

    traced = ("strength",)

    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength: expected 0 to 1, found {self.strength}")


class Structure(ImageMethod):
    """The method; see the head of the module."""

    name, groups = "structure", ("structure",)
    config_class, losses_class, options_class = (
        StructureMethodConfig, DistilLosses, StructureOptions,
    )  # fmt: skip

    def __init__(self, config: Any = None, losses: Any = None, execution: Execution | None = None):
        super().__init__(config, losses, execution)
        shape = self.config.structure
        self.scale = shape.scale
        self.structure = Network(lambda rngs: structure.Structure(shape, **self.run, rngs=rngs))

    def shapes(self) -> Params:
        """Returns the shapes of the network's parameters."""
        return {"structure": self.structure.shapes}

    def init(self, key: jax.Array, groups: tuple[str, ...]) -> tuple[Params, Params]:
        """Returns fresh parameters; the two groups have keys of their own."""
        known = ("structure", "discriminator")
        keys = {group: jax.random.fold_in(key, known.index(group)) for group in groups}
        return {group: getattr(self, group).init(k) for group, k in keys.items()}, {}

    def enlarge(self, params: Params, lr: Image, strength: float) -> Image:
        """Returns the restored image [B, s·H, s·W, 3], not clipped, of ``lr`` [B, H, W, 3]."""
        strengths = jnp.full(lr.shape[:1], strength, jnp.float32)
        image: Image = self.structure.apply(params["structure"], lambda m: m(lr, strengths))
        return image

    def restore(self, params: Params, lr: Image, keys: Keys, options: StructureOptions) -> Restored:
        """Returns the restored windows; ``keys`` have no part in it."""
        image = self.enlarge(params, lr, options.strength)
        return Restored(correct(image, lr, options.color_fix))

    def chain(self, params: Params, options: StructureOptions) -> Chain | None:
        """Returns the network at the strength of the options; None if colours are corrected."""
        if options.color_fix != "none":
            return None
        network = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params["structure"])

        def layer(name: str, index: int) -> Convolution:
            part = {field: stack[index] for field, stack in network[name].items()}
            bias = part["bias"] + np.float32(1 - options.strength) * part["keep"]
            return Convolution(part["kernel"], bias, part["slope"], residual=name == "residual")

        body = [
            layer(name, block)
            for block in range(len(network["plain"]["kernel"]))
            for name in ("plain", "residual")
        ]
        tail = Convolution(network["tail"]["kernel"], network["tail"]["bias"])
        return Chain((layer("head", 0), *body, tail), self.scale)

    @property
    def stages(self) -> dict[str, Stage]:
        """Returns the only stage, ``distil``."""
        batch = ("lr", "teacher", "strength", *(("hr",) if self.losses.hr_weight else ()))
        stage = self.image_stage(
            ("structure",),
            partial(distil_loss, self),
            real="teacher",
            exports=("structure",),
            panel=partial(panel, self),
            batch=batch,
        )
        return {"distil": stage}


def distil_loss(
    method: Structure, params: Params, stats: Params, batch: Batch, key: jax.Array, step: jax.Array
) -> tuple[Scalar, LossResult]:
    """Returns the image losses to the teacher's output, and to HR by ``hr_weight``."""
    lr, weight = batch["lr"], method.losses.hr_weight
    network = method.structure.bind(params["structure"])
    unroll = jax.default_backend() == "cpu"
    features = network.features(lr, batch["strength"], unroll)

    def draw(last: Params, features: jax.Array) -> Image:
        whole = params["structure"] | {"tail": last}
        return method.structure.apply(whole, lambda m: m.draw(features, lr))

    tail = Tail(features, params["structure"]["tail"], draw)
    targets = [(1 - weight, batch["teacher"]), *([(weight, batch["hr"])] if weight else [])]
    balanced, metrics = image_loss(method, params, targets, tail, step, key)
    return balanced.surrogate, LossResult(metrics, stats, {"fake": balanced.image})


def panel(method: Structure, params: Params, batch: Batch, key: Any) -> dict[str, jax.Array]:
    """Returns the output at full strength, and what is known of the target."""
    output = method.enlarge(params, batch["lr"], 1.0)
    return {"output": output} | {k: batch[k] for k in ("teacher", "hr") if k in batch}
