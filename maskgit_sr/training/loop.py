"""One trainer for every stage of every method."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview

from maskgit_sr import bundles
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError
from maskgit_sr.losses import perceptual
from maskgit_sr.methods.base import Method, Stage
from maskgit_sr.training import checkpoint, optimizers, sharding
from maskgit_sr.training.state import TrainState, create, make_step
from maskgit_sr.training.writer import Writer

_LOG = logging.getLogger(__name__)

Validate = Callable[[Params], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Where a run stands when it returns."""

    step: int
    finished: bool
    groups: Path


class Trainer:
    """Runs one stage in ``workdir/<stage>``; a second call goes on where the first one stopped.

    Args:
        config: ``seed``, ``init`` (bundle or ""), ``mesh``, ``log_every``, ``panel_every``,
            ``validate_every``, ``checkpoint_every``, ``perceptual`` and ``stage``: ``steps``,
            ``batch``, ``ema``, ``optimizer``.
        iterator: yields {"hr": [B, H, W, 3], "lr": [B, H/s, W/s, 3], …}, without "lr" for a
            stage that takes none; has grain's state.
        validate: (groups with EMA weights) → scores, or None.
        panel_batch: {"hr", "lr"} of fixed images to draw, or None.

    Raises:
        UserError: groups that the stage needs are not there.
    """

    def __init__(
        self,
        method: Method,
        stage_name: str,
        config: Any,
        workdir: Path,
        iterator: Iterator[dict[str, np.ndarray]],
        validate: Validate | None = None,
        panel_batch: dict[str, np.ndarray] | None = None,
    ):
        if stage_name not in method.stages:
            raise UserError(
                f"stage: expected one of {', '.join(method.stages)}, found {stage_name!r}"
            )
        self.method, self.name, self.config = method, stage_name, config
        self.stage: Stage = method.stages[stage_name]
        self.workdir, self.iterator = workdir, iterator
        self.validate, self.panel_batch = validate, panel_batch
        self.mesh = sharding.make_mesh(**config.mesh)
        self.optimizers = {
            group: optimizers.build(config.stage.optimizer, config.stage.steps)
            for group in self.stage.trains
        }
        self._facts: dict[str, Any] = {}

    def run(self, max_seconds: float = float("inf")) -> Outcome:
        """Trains to the last step or until the time box is full, then leaves everything saved."""
        began = time.monotonic()
        folder = self.workdir / self.name
        frozen, state = self._prepare()
        checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
        restored = checkpoints.restore(state, self.iterator)
        state = state if restored is None else restored
        step_fn = make_step(self.stage, self.optimizers, self.config.stage.ema)
        writer = Writer(folder)
        step, steps = int(state.step), self.config.stage.steps
        _LOG.info("stage %s: step %d of %d\n%s", self.name, step, steps, self._overview(state))
        spent = self._facts.get(self.name, {}).get("seconds", 0.0)
        mark, mark_step, waited = time.monotonic(), step, 0.0
        pending: dict[str, jax.Array] = {}
        try:
            while step < steps and time.monotonic() - began < max_seconds:
                fetch = time.monotonic()
                batch = next(self.iterator)
                waited += time.monotonic() - fetch
                arrays = {name: array for name, array in batch.items() if name in ("hr", "lr")}
                state, pending = step_fn(state, frozen, sharding.put_batch(arrays, self.mesh))
                step += 1
                if step % self.config.log_every == 0 or step == steps:
                    scalars = _finite(pending, step)
                    elapsed = time.monotonic() - mark
                    count = (step - mark_step) * len(batch["hr"]) * jax.process_count()
                    scalars |= {
                        "examples_per_second": count / elapsed,
                        "input_wait_share": waited / elapsed,
                        "learning_rate": float(
                            optimizers.schedule(self.config.stage.optimizer, steps)(step)
                        ),
                    }
                    writer.scalars(step, scalars)
                    _LOG.info("%s %d/%d %s", self.name, step, steps, _line(scalars))
                    mark, mark_step, waited = time.monotonic(), step, 0.0
                if step % self.config.checkpoint_every == 0:
                    _finite(pending, step)
                    checkpoints.save(state, self.iterator)
                if step % self.config.panel_every == 0 or step == steps:
                    self._draw(writer, step, frozen, state)
                if step % self.config.validate_every == 0 or step == steps:
                    self._score(writer, step, frozen, state)
            _finite(pending, step)
            checkpoints.save(state, self.iterator)
        except KeyboardInterrupt:  # between steps the state is whole; within one it is given away
            if not state.step.is_deleted():
                checkpoints.save(state, self.iterator)
            raise
        finally:
            checkpoints.close()
            writer.close()
        seconds = spent + time.monotonic() - began
        path = self._export(frozen, state, step, seconds)
        _LOG.info("stage %s stopped at step %d of %d, groups in %s", self.name, step, steps, path)
        return Outcome(step, step >= steps, path)

    def _prepare(self) -> tuple[Params, TrainState]:
        stage, needed = self.stage, [g for g in self.stage.needs if g != "perceptual"]
        stages = reversed(self.method.stages)  # a later stage may have gone on with a group
        sources = [checkpoint.stage_file(self.workdir, name) for name in stages]
        if self.config.init:
            sources.append(Path(self.config.init))
        found, self._facts = checkpoint.collect(sources, self.method.bundle_groups)
        checkpoint.require(found, needed, self.workdir)
        frozen = {group: found[group] for group in needed}
        fresh = tuple(dict.fromkeys((*stage.trains, *stage.fresh_stats)))
        initial = {}
        if self.config.init:  # go on from a bundle's own weights for the trained groups too
            initial = collect_from(Path(self.config.init), (*stage.trains, *stage.fresh_stats))

        def build(frozen: Params, initial: Params) -> TrainState:
            params, stats = self.method.init(jax.random.key(self.config.seed), fresh)
            stats |= self.method.continued_stats(initial)
            params = stage.start(frozen | params)
            params |= {g: params[g] | initial[g] for g in initial.keys() & params.keys()}
            return create(stage, params, stats, self.optimizers, self.config.seed)

        shapes = jax.eval_shape(build, frozen, initial)
        layout = sharding.shardings(shapes, self.mesh)
        state = jax.jit(build, out_shardings=layout)(frozen, initial)
        if "perceptual" in stage.needs and self.config.perceptual != "none":
            frozen["perceptual"] = perceptual.build(self.config.perceptual)
        frozen = jax.device_put(frozen, sharding.shardings(frozen, self.mesh))
        return frozen, state

    def _overview(self, state: TrainState) -> str:
        return parameter_overview.get_parameter_overview(state.params, include_stats=False)

    def groups(self, frozen: Params, state: TrainState) -> Params:
        """Bundle groups as they stand: frozen ones, and the EMA of the trained ones."""
        params = {g: frozen[g] for g in self.method.bundle_groups if g in frozen} | state.ema
        return self.stage.finish(params, state.stats)

    def _draw(self, writer: Writer, step: int, frozen: Params, state: TrainState) -> None:
        if self.panel_batch is None:
            return
        if not hasattr(self, "_panel"):
            self._panel = jax.jit(self.stage.panel)
        params = {**frozen, **self.groups(frozen, state)}
        images = self._panel(params, state.stats, self.panel_batch, jax.random.key(0))
        writer.panel(step, self.name, {k: np.asarray(v) for k, v in images.items()})

    def _score(self, writer: Writer, step: int, frozen: Params, state: TrainState) -> None:
        if self.validate is None:
            return
        scores = self.validate(self.groups(frozen, state))
        writer.scalars(step, {f"validation/{k}": v for k, v in scores.items()})
        _LOG.info("%s %d validation %s", self.name, step, _line(scores))

    def _export(self, frozen: Params, state: TrainState, step: int, seconds: float) -> Path:
        groups = self.groups(frozen, state)
        facts = {
            "steps": step,
            "batch": self.config.stage.batch,
            "seconds": round(seconds, 1),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        }
        metadata = bundles.Metadata(
            self.method.name,
            self.method.describe(),
            self.method.scale,
            training=self._facts | {self.name: facts},
        )
        path = checkpoint.stage_file(self.workdir, self.name)
        exported = {group: groups[group] for group in self.stage.exports}
        bundles.write(path, jax.device_get(exported), metadata)
        return path


def collect_from(path: Path, groups: tuple[str, ...]) -> Params:
    """Those of ``groups`` that one bundle has; that it lacks some is not an error.

    Raises:
        UserError: no such bundle.
    """
    params, _ = bundles.read(path)
    return {group: params[group] for group in groups if group in params}


def _finite(metrics: dict[str, jax.Array], step: int) -> dict[str, float]:
    """The metrics on the host.

    Raises:
        FloatingPointError: one is not finite; nothing is saved after that.
    """
    scalars = {name: float(value) for name, value in metrics.items()}
    bad = [name for name, value in scalars.items() if not np.isfinite(value)]
    if bad:
        raise FloatingPointError(f"step {step}: {', '.join(bad)} not finite")
    return scalars


def _line(scalars: dict[str, float]) -> str:
    return " ".join(f"{k.split('/')[-1]}={v:.4g}" for k, v in scalars.items())
