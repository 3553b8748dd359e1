"""Training steps as shapes, whose FLOPs and memory are counted without allocating anything."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import roofline
from launch.settings import losses
from maskgit_sr import paths
from maskgit_sr.arrays import Execution, Params
from maskgit_sr.methods import registry
from maskgit_sr.methods.base import Method, Stage
from maskgit_sr.training import optimizers, state, weights


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step as shapes.

    Attributes:
        settings: the stage's settings in the config.
        optimizers: optimizers by trained group.
        state: shapes of the training state.
        frozen: shapes of the groups that do not train, perceptual nets included.
    """

    method: Method
    stage: Stage
    settings: Any
    optimizers: state.Optimizers
    state: state.TrainState
    frozen: Params

    def batch(self, many: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a batch of ``many`` examples."""
        sides = {"hr": self.settings.crop, "lr": self.settings.crop // self.method.scale}
        shapes = {name: (many, sides[name], sides[name], 3) for name in self.stage.batch}
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def jitted(self, accumulate: int = 1, layout: Any = None) -> jax.stages.Wrapped:
        """Returns the trainer's own jitted step."""
        return state.make_step(self.stage, self.optimizers, self.settings.ema, accumulate, layout)

    @functools.cached_property
    def cost(self) -> np.ndarray:
        """[FLOPs, bytes] of an example in a batch of 8, over all phases."""
        with accelerator():
            traced = jax.make_jaxpr(self.jitted())(self.state, self.frozen, self.batch(8))
        return roofline.cost(traced.jaxpr) / 8

    @functools.cached_property
    def kept_bytes(self) -> float:
        """Bytes of an example kept for the backward pass, in the phase that keeps most.

        These are the residuals of JAX's differentiation, an upper bound, since XLA recomputes cheap
        parts inside of fusions. The slope between two batch sizes leaves the parameters out.
        """

        def kept(many: int) -> list[int]:
            found, batch = [], self.batch(many)
            for phase in self.stage.phases:

                def keep(state: Any, frozen: Params, batch: Any, phase: Any = phase) -> Any:
                    def loss(trained: Params) -> Any:
                        groups = weights.merged(frozen, {**state.params, **trained})
                        return phase.loss(groups, state.stats, batch, jax.random.key(0), state.step)

                    trained = {group: state.params[group] for group in phase.groups}
                    _, pull, result = jax.vjp(loss, trained, has_aux=True)
                    return pull, result.carry

                with accelerator():
                    pull, carry = jax.eval_shape(keep, self.state, self.frozen, batch)
                found.append(leaves_bytes(pull))
                batch |= carry
            return found

        return max((b - a) / 2 for a, b in zip(kept(2), kept(4), strict=True))


def abstract(config: Any, name: str, execution: Execution) -> Step:
    """Returns the step of a config's stage as shapes.

    Raises:
        UserError: the file of a perceptual net, which holds its shapes, is missing.
    """
    settings, model = config.stages[name], config.model.to_dict()
    method = registry.build(config.method, model, execution, losses(config, name))
    stage, shapes = method.stages[name], method.shapes()
    frozen = {group: shapes[group] for group in stage.needs}
    frozen |= {group: jax.eval_shape(make) for group, make in stage.frozen.items()}
    continued = {path: weights.part(shapes, path) for path in stage.continues}
    chosen = optimizers.for_groups(settings, stage.trains)
    sources = weights.Sources(method, name, paths.absolute("."), "")

    def begin(frozen: Params, continued: Params) -> state.TrainState:
        params, stats = sources.start(jax.random.key(0), frozen, continued, {})
        return state.create(stage, params, stats, chosen, 0)

    begun = jax.eval_shape(begin, frozen, continued)
    return Step(method, stage, settings, chosen, begun, frozen)


@contextlib.contextmanager
def accelerator() -> Iterator[None]:
    """Context in which networks that ask for the backend are traced as on an accelerator."""
    # JAX's own attention promotes bfloat16 by itself, which a strict caller would forbid
    with (
        mock.patch.object(jax, "default_backend", lambda: "tpu"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


def leaves_bytes(tree: Any, places: Any = None) -> int:
    """Returns the bytes of a tree of shapes; of one device's shards if ``places`` are given."""
    leaves = jax.tree.leaves(tree)
    spots = jax.tree.leaves(places) if places is not None else [None] * len(leaves)
    return sum(
        math.prod(spot.shard_shape(leaf.shape) if spot else leaf.shape) * leaf.dtype.itemsize
        for leaf, spot in zip(leaves, spots, strict=True)
    )
