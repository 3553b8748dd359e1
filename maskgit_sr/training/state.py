"""Training state, and the step that updates it, for any stage of any method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maskgit_sr.arrays import Params
from maskgit_sr.methods.base import Batch, LossResult, Phase, Stage
from maskgit_sr.training import sharding, weights

Optimizers = dict[str, optax.GradientTransformation]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run resumes from bit for bit, except the data iterator.

    Attributes:
        step: steps done, int32, skipped ones included.
        skipped: steps that changed nothing because a metric or gradient was not finite, int32.
        in_a_row: skipped steps since the last one that was not, int32.
        params: trained groups, or parts of groups by path.
        ema: exponential moving average of ``params``, of groups that the stage exports.
        stats: statistics that are updated but not trained (codebook EMA).
        optimizer: optimizer state by group.
        key: base PRNG key data; a step folds its number into it.
    """

    step: jax.Array
    skipped: jax.Array
    in_a_row: jax.Array
    params: Params
    ema: Params
    stats: Params
    optimizer: Params
    key: jax.Array


def create(
    stage: Stage, params: Params, stats: Params, optimizers: Optimizers, seed: int
) -> TrainState:
    """Returns a fresh state at step 0; to be jitted with out_shardings."""
    trained = {path: params[path] for path in stage.trains}
    exported = [path for path in trained if path.partition("/")[0] in stage.exports]
    return TrainState(
        step=jnp.int32(0),
        skipped=jnp.int32(0),
        in_a_row=jnp.int32(0),
        params=trained,
        # copied: the step donates both, and a buffer can be donated once only
        ema={path: jax.tree.map(jnp.copy, trained[path]) for path in exported},
        stats={group: stats[group] for group in stage.fresh_stats},
        optimizer={path: optimizers[path].init(trained[path]) for path in stage.trains},
        key=jax.random.key_data(jax.random.key(seed)),
    )


def make_step(
    stage: Stage,
    optimizers: Optimizers,
    ema_decay: float,
    accumulate: int = 1,
    layout: TrainState | None = None,
) -> jax.stages.Wrapped:
    """Returns (state, frozen groups, batch) → (state, metrics), jitted, the old state donated.

    A step in which a metric or a gradient is not finite changes nothing but the counters.

    Args:
        ema_decay: decay of the moving average after the first steps, in [0, 1).
        accumulate: microbatches of a batch in each phase, whose gradients and metrics are averaged.
            What a loss takes over its whole batch (batch statistics, the codebook's counts, random
            keys) it takes over each microbatch: the codebook moves that many times a step.
        layout: shardings that the state keeps; None: those that the compiler chooses.
            FSDP-sharded parameters are all-gathered where they are used; left to itself, XLA
            splits the arithmetic along with them instead (docs/scaling.md).
    """
    mesh = None if layout is None else jax.tree.leaves(layout)[0].mesh

    def whole(groups: Params) -> Params:
        if mesh is None or mesh.shape["fsdp"] == 1:
            return groups
        return jax.lax.with_sharding_constraint(groups, sharding.gathered(groups, mesh))

    # Out as it came in: a step compiled ahead of time takes the state in one layout only.
    @partial(jax.jit, donate_argnums=0, out_shardings=None if layout is None else (layout, None))
    def step(
        state: TrainState, frozen: Params, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        # A function of seed and step alone: a resumed run draws what an unbroken one would.
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        params, stats = dict(state.params), state.stats
        optimizer = dict(state.optimizer)
        batch = _microbatches(dict(batch), accumulate)
        metrics: dict[str, jax.Array] = {}
        for index, phase in enumerate(stage.phases):
            name, phase_key = phase.groups[0], jax.random.fold_in(key, index)

            def gradient(
                stats: Params, batch: Any, key: jax.Array, phase: Phase = phase
            ) -> tuple[Params, LossResult]:
                def loss(trained: Params) -> Any:
                    everything = weights.merged(frozen, {**params, **trained})
                    return phase.loss(whole(everything), stats, batch, key, state.step)

                return jax.grad(loss, has_aux=True)(
                    {group: params[group] for group in phase.groups}
                )

            # Statistics pass from phase to phase: the second one starts from the first one's.
            grads, found, stats, carry = _over_microbatches(
                gradient, stats, batch, phase_key, accumulate
            )
            for group in phase.groups:
                updates, optimizer[group] = optimizers[group].update(
                    grads[group], optimizer[group], params[group]
                )
                params[group] = optax.apply_updates(params[group], updates)
                metrics[f"{group}/gradient_norm"] = optax.tree.norm(grads[group])
            # What a phase hands on is data to the next one, whose gradient is of its own groups.
            batch.update(jax.lax.stop_gradient(carry))
            metrics |= {f"{name}/{k}": v for k, v in found.items()}
        # A smaller decay at first, so that the initial weights do not linger in the average.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = {
            group: jax.tree.map(
                lambda e, p: decay * e + (1 - decay) * p, state.ema[group], params[group]
            )
            for group in state.ema
        }
        # The metrics hold the gradients' norms, which are not finite if any gradient is not.
        good = jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in metrics.values()]))
        new = (params, ema, stats, optimizer)
        old = (state.params, state.ema, state.stats, state.optimizer)
        kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        bad = jnp.where(good, 0, 1)
        in_a_row = (state.in_a_row + bad) * bad
        metrics["in_a_row"] = in_a_row
        # A skipped step counts: its key and its batch are not used again.
        counters = (state.step + 1, state.skipped + bad, in_a_row)
        return TrainState(*counters, kept[0], kept[1], kept[2], kept[3], state.key), metrics

    return step


def _microbatches(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """Returns arrays [B, …] as microbatches [count, B / count, …].

    Each microbatch takes its share of what every device holds: contiguous slices of the batch would
    lie on some devices only.
    """
    if count == 1:
        return batch
    return {name: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}


def _over_microbatches(
    gradient: Callable[[Params, Any, jax.Array], tuple[Params, LossResult]],
    stats: Params,
    batch: dict[str, Any],
    key: jax.Array,
    count: int,
) -> tuple[Params, dict[str, jax.Array], Params, dict[str, jax.Array]]:
    """Returns (mean gradients, mean metrics, last statistics, carry by microbatch)."""
    if count == 1:
        grads, result = gradient(stats, batch, key)
        return grads, result.metrics, result.stats, result.carry

    first = jax.tree.map(lambda x: x[0], batch)
    shapes = jax.eval_shape(gradient, stats, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1].metrics))

    def add(sums: Any, inputs: tuple[Any, jax.Array]) -> tuple[Any, Any]:
        total, stats = sums
        grads, result = gradient(stats, *inputs)
        total = jax.tree.map(jnp.add, total, (grads, result.metrics))
        return (total, result.stats), result.carry

    # A scan, so that one microbatch's activations are in memory at a time.
    (total, stats), carry = jax.lax.scan(add, (zeros, stats), (batch, jax.random.split(key, count)))
    grads, metrics = jax.tree.map(lambda x: x / count, total)
    return grads, metrics, stats, carry
