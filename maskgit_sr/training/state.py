"""The training state and the step that updates it, for any stage of any method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maskgit_sr.arrays import Params
from maskgit_sr.methods.base import Batch, Stage

Optimizers = dict[str, optax.GradientTransformation]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a run needs to go on bit for bit, but for the data iterator.

    Attributes:
        step: steps done, int32.
        params: trained groups.
        ema: moving average of the trained groups that the stage exports.
        stats: updated but not trained (codebook EMA).
        optimizer: optimizer state by group.
        key: base PRNG key data; a step's key is folded from it and the step number.
    """

    step: jax.Array
    params: Params
    ema: Params
    stats: Params
    optimizer: Params
    key: jax.Array


def create(
    stage: Stage, params: Params, stats: Params, optimizers: Optimizers, seed: int
) -> TrainState:
    """A fresh state at step 0; to be jitted with out_shardings."""
    trained = {group: params[group] for group in stage.trains}
    return TrainState(
        step=jnp.int32(0),
        params=trained,
        ema={g: jax.tree.map(jnp.copy, trained[g]) for g in stage.exports if g in trained},
        stats={group: stats[group] for group in stage.fresh_stats},
        optimizer={group: optimizers[group].init(trained[group]) for group in stage.trains},
        key=jax.random.key_data(jax.random.key(seed)),
    )


def make_step(
    stage: Stage, optimizers: Optimizers, ema_decay: float
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """(state, frozen groups, batch) → (state, metrics), jitted, the old state donated."""

    @partial(jax.jit, donate_argnums=0)
    def step(
        state: TrainState, frozen: Params, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        params, stats = dict(state.params), state.stats
        optimizer = dict(state.optimizer)
        batch = dict(batch)
        metrics: dict[str, jax.Array] = {}
        for index, phase in enumerate(stage.phases):
            group, phase_key = phase.group, jax.random.fold_in(key, index)

            def loss(
                trained: Params,
                phase: Any = phase,
                stats: Params = stats,
                batch: Any = batch,
                key: Any = phase_key,
            ) -> Any:
                everything = {**frozen, **params, phase.group: trained}
                return phase.loss(everything, stats, batch, key, state.step)

            grads, result = jax.grad(loss, has_aux=True)(params[group])
            updates, optimizer[group] = optimizers[group].update(
                grads, optimizer[group], params[group]
            )
            params[group] = optax.apply_updates(params[group], updates)
            stats = result.stats
            batch.update(jax.lax.stop_gradient(result.carry))
            metrics |= {f"{group}/{k}": v for k, v in result.metrics.items()}
            metrics[f"{group}/gradient_norm"] = optax.tree.norm(grads)
        # early steps average over what there has been, so that the start does not linger
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = {
            group: jax.tree.map(
                lambda e, p: decay * e + (1 - decay) * p, state.ema[group], params[group]
            )
            for group in state.ema
        }
        return (
            TrainState(state.step + 1, params, ema, stats, optimizer, state.key),
            metrics,
        )

    return step
