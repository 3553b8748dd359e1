"""One trainer for every stage of every method."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from maskgit_sr import bundles, paths
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError
from maskgit_sr.methods.base import Method, Stage
from maskgit_sr.training import checkpoint, optimizers, sharding, watch, weights
from maskgit_sr.training.state import TrainState, create, make_step
from maskgit_sr.training.writer import Writer

_LOG = logging.getLogger(__name__)

Validate = Callable[[Params], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """State of a stage when `Trainer.run` returns.

    Attributes:
        first: steps done before this run.
        step: steps done in all.
        finished: the stage has taken its last step.
        groups: path of the stage's exported groups.
        pace: seconds a step in this run, with checkpoints and panels, without compilation; None if
            it took no step after its first.
        interrupted: the signal that stopped the run (SIGTERM, SIGINT); 0: none.
    """

    first: int
    step: int
    finished: bool
    groups: epath.Path
    pace: float | None = None
    interrupted: int = 0


class Trainer:
    """Trains one stage in ``workdir/<stage>``; a second call resumes where the first one stopped.

    Args:
        workdir: local or in a bucket (gs://), reachable from all hosts.
        config: ``seed``, ``init`` (bundle or ""), ``mesh``, ``logger``, ``log_every``,
            ``panel_every``, ``validate_every``, ``checkpoint_every``, ``keep``,
            ``max_bad_steps``, ``profile`` and ``stages[stage]``: ``steps``, ``batch``,
            ``accumulate``, ``ema``, ``optimizer``, ``optimizers``.
        iterator: yields the arrays of `Stage.batch`, such as {"hr": [B, H, W, 3],
            "lr": [B, H/s, W/s, 3]} in [0, 1], B of this host, and ``source`` and ``index`` of the
            examples; its state can be saved by grain.
        validate: (groups with EMA weights) → scores, or None.
        panel_batch: {"hr", "lr"} of fixed images to draw, or None.

    Raises:
        UserError: unknown stage, or a mesh that does not cover the devices.
    """

    def __init__(
        self,
        method: Method,
        stage_name: str,
        config: Any,
        workdir: paths.PathLike,
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
        self.workdir, self.iterator = paths.absolute(workdir), iterator
        self.validate, self.panel_batch = validate, panel_batch
        self.mesh = sharding.make_mesh(**config.mesh)
        self.settings = config.stages[stage_name]
        self.optimizers = optimizers.for_groups(self.settings, self.stage.trains)
        self._facts: dict[str, Any] = {}
        self._timed: tuple[int, float] | None = None  # this run's first step, and when it was done
        self._pace: float | None = None

    def run(
        self,
        max_seconds: float = float("inf"),
        at_least: float = 0.0,
        resumed: Callable[[int], None] = lambda step: None,
    ) -> Outcome:
        """Trains to the last step, the end of the time box or a signal, and saves everything.

        Args:
            max_seconds: time box, from the call on.
            at_least: seconds of training after the first step that the time box does not cut, so
                that the pace is known however long loading and compiling take.
            resumed: called with the step that the run goes on from, before the first one is taken.

        Raises:
            TrainingStopped: ``config.max_bad_steps`` steps in a row were not finite.
            watch.Interrupted: SIGTERM or SIGINT came before the first step.
            UserError: a checkpoint or another file cannot be written or read, or groups that the
                stage needs are missing.
        """
        began = time.monotonic()
        self._timed = self._pace = None
        folder, keep = self.workdir / self.name, self.config.keep

        # 1. weights and optimizers at step 0, or the last checkpoint that can be read
        frozen, state = self._prepare()
        with contextlib.ExitStack() as opened:
            checkpoints = checkpoint.Checkpoints(
                folder / "checkpoints", keep.last, keep.best, keep.every
            )
            opened.push(_closing(checkpoints))
            restored = checkpoints.restore(state, self.iterator)
            self._check_fresh(restored)
            state = state if restored is None else restored
            first, steps = int(state.step), self.settings.steps
            resumed(first)
            overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
            _LOG.info("stage %s: step %d of %d\n%s", self.name, first, steps, overview)
            spent = self._facts.get(self.name, {}).get("seconds", 0.0)

            # 2. steps, until the last one, a full time box or a signal
            stop = opened.enter_context(watch.StopSignal())
            silent, told = jax.process_index() != 0, self.config.to_dict()
            writer = Writer(folder, silent, self.config.logger, first, told)
            opened.push(_closing(writer))

            def over(step: int) -> bool:
                # Asking is a collective, so all hosts skip it at the same steps.
                if jax.process_count() > 1 and step % watch.ASK_EVERY:
                    return False
                end = began + max_seconds
                if at_least:
                    # No end before the first step: how long compiling takes is not known.
                    first_done = self._timed[1] if self._timed else float("inf")
                    end = max(end, first_done + at_least)
                return watch.any_host(stop.asked() or time.monotonic() >= end)

            state = self._steps(frozen, state, checkpoints, writer, over, stop)
            checkpoints.save(state, self.iterator)
            writer.close()
            checkpoints.close()

            # 3. the groups for later stages, after the checkpoint that a rerun would resume from
            step, seconds = int(state.step), spent + time.monotonic() - began
            path = self._export(frozen, state, step, seconds)
            # One answer for all: a host that goes on to the next stage alone would hang there.
            number = watch.highest(stop.number)
        _LOG.info("stage %s stopped at step %d of %d, groups in %s", self.name, step, steps, path)
        return Outcome(first, step, step >= steps, path, self._pace, number)

    def _steps(
        self,
        frozen: Params,
        state: TrainState,
        checkpoints: checkpoint.Checkpoints,
        writer: Writer,
        over: Callable[[int], bool],
        stop: watch.StopSignal,
    ) -> TrainState:
        """Takes the steps that are left; returns the state after the last one taken."""
        config, settings, step = self.config, self.settings, int(state.step)
        steps = settings.steps
        layout = jax.tree.map(lambda x: x.sharding, state)
        jitted = make_step(self.stage, self.optimizers, settings.ema, settings.accumulate, layout)
        run_step, flops = None, 0.0
        broken = watch.BrokenSteps(config.max_bad_steps)
        clock = _Clock(step)
        try:
            while step < steps and not over(step):
                with clock.waiting():
                    batch = next(self.iterator)
                arrays = {name: batch[name] for name in self.stage.batch}
                placed = sharding.put_batch(arrays, self.mesh)
                if run_step is None:  # ahead of time, so that compiling is not timed as a step
                    run_step = jitted.lower(state, frozen, placed).compile()
                    flops = (run_step.cost_analysis() or {}).get("flops", 0.0)
                    clock.restart()
                    # Compiling takes minutes; the checkpoint that there is has all there is.
                    if number := watch.highest(stop.number):
                        raise watch.Interrupted(number)
                with self._profiled(step, writer):
                    state, metrics = run_step(state, frozen, placed)
                step += 1
                if self._timed is None:  # once; after that the host runs ahead of the device
                    jax.block_until_ready(metrics)
                    self._timed = step, time.monotonic()
                broken.add(step, batch, metrics["in_a_row"])
                if step % config.log_every == 0 or step == steps:
                    # float() waits for the device, so only the steps that are logged do it.
                    scalars = {name: float(value) for name, value in metrics.items()}
                    scalars["skipped_steps"] = int(state.skipped)
                    self._log(writer, step, scalars, len(arrays[self.stage.batch[0]]), clock, flops)
                score = None
                if step % config.panel_every == 0 or step == steps:
                    self._draw(writer, step, frozen, state)
                if step % config.validate_every == 0 or step == steps:
                    score = self._score(writer, step, frozen, state)
                # A scored step is saved too: only a saved one can be kept as the best.
                if step % config.checkpoint_every == 0 or (score is not None and config.keep.best):
                    checkpoints.save(state, self.iterator, score)
            # The last steps' outcomes were not looked at yet (watch._LAG).
            broken.finish()
            if self._timed is not None and step > self._timed[0]:
                # The host runs ahead; the pace is the device's.
                jax.block_until_ready(state.step)
                self._pace = (time.monotonic() - self._timed[1]) / (step - self._timed[0])
        except KeyboardInterrupt:  # between steps the state is whole; within one it is donated
            if not state.step.is_deleted():
                checkpoints.save(state, self.iterator)
            raise
        return state

    def _log(
        self,
        writer: Writer,
        step: int,
        scalars: dict[str, float],
        batch: int,
        clock: _Clock,
        flops: float,
    ) -> None:
        """Writes a step's scalars and the rates since the last call; ``batch`` of this host."""
        seconds, waited = clock.lap(step)
        rate = optimizers.schedule(self.settings.optimizer, self.settings.steps)
        scalars |= {
            "examples_per_second": batch * jax.process_count() / seconds,
            "input_wait_share": waited,
            "learning_rate": float(rate(step)),
            **watch.utilization(flops, seconds),
            **watch.device_memory(),
        }
        writer.scalars(step, scalars)
        steps = self.settings.steps
        left = str(datetime.timedelta(seconds=round(seconds * (steps - step))))
        _LOG.info("%s %d/%d, %s left %s", self.name, step, steps, left, _line(scalars))

    @contextlib.contextmanager
    def _profiled(self, step: int, writer: Writer) -> Iterator[None]:
        """Traces ``config.profile.steps`` steps from step ``config.profile.start`` on."""
        profile = self.config.profile
        if profile.steps and step == profile.start:
            jax.profiler.start_trace(str(writer.folder / "profile"))
        yield
        if profile.steps and step == profile.start + profile.steps - 1:
            jax.effects_barrier()
            jax.profiler.stop_trace()
            _LOG.info("trace of %d steps in %s", profile.steps, writer.folder / "profile")

    def _prepare(self) -> tuple[Params, TrainState]:
        """Returns the frozen groups and the state at step 0, both sharded over the mesh."""
        sources = weights.Sources(self.method, self.name, self.workdir, self.config.init)
        frozen, self._facts = sources.frozen()
        continued, given = sources.initial()

        def build(frozen: Params, continued: Params, given: Params) -> TrainState:
            key = jax.random.key(self.config.seed)
            params, stats = sources.start(key, frozen, continued, given)
            return create(self.stage, params, stats, self.optimizers, self.config.seed)

        # Shapes first: each device makes its shards, the state is never whole on one.
        shapes = jax.eval_shape(build, frozen, continued, given)
        layout = sharding.shardings(shapes, self.mesh)
        state = jax.jit(build, out_shardings=layout)(frozen, continued, given)
        frozen |= {name: make() for name, make in self.stage.frozen.items()}
        frozen = jax.device_put(frozen, sharding.shardings(frozen, self.mesh))
        return frozen, state

    def _check_fresh(self, restored: TrainState | None) -> None:
        """Checks that a stage that was trained before has its checkpoints, or begins anew by plan.

        Raises:
            UserError: its groups are there and no checkpoint, as when a mount is missing: to begin
                anew would overwrite them.
        """
        path = weights.stage_file(self.workdir, self.name)
        if watch.highest(restored is None and path.exists()):
            raise UserError(
                f"{path.parent / 'checkpoints'}: holds no checkpoint, and {path.name} beside it is "
                f"of a trained stage; bring them back, or delete {path} to begin anew"
            )

    def groups(self, frozen: Params, state: TrainState) -> Params:
        """Returns the bundle's groups: frozen ones as they are, trained ones by their EMA."""
        known = {group: frozen[group] for group in self.method.groups if group in frozen}
        return self.stage.finish(weights.merged(known, state.ema), state.stats)

    def _draw(self, writer: Writer, step: int, frozen: Params, state: TrainState) -> None:
        if self.panel_batch is None:
            return
        if not hasattr(self, "_panel"):
            self._panel = jax.jit(self.stage.panel)
        params = {**frozen, **self.groups(frozen, state)}
        # A fixed key: panels of two steps differ by the weights alone.
        images = self._panel(params, self.panel_batch, jax.random.key(0))
        writer.panel(step, self.name, self._on_host(images))
        for group, stats in state.stats.items():
            if "counts" in stats:
                writer.histogram(step, f"{group}/counts", self._on_host(stats["counts"]))

    def _score(self, writer: Writer, step: int, frozen: Params, state: TrainState) -> float | None:
        """Writes all scores; returns LPIPS, which ranks checkpoints, lower being better."""
        if self.validate is None:
            return None
        scores = self.validate(self.groups(frozen, state))
        writer.scalars(step, {f"validation/{k}": v for k, v in scores.items()})
        _LOG.info("%s %d validation %s", self.name, step, _line(scores))
        return scores.get("lpips")

    def _on_host(self, tree: Any) -> Any:
        """Returns a tree as NumPy arrays, all-gathered. Collective: every host must call it."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(np.asarray, jax.device_put(tree, whole))

    def _export(self, frozen: Params, state: TrainState, step: int, seconds: float) -> epath.Path:
        groups = self.groups(frozen, state)
        facts = {
            "steps": step,
            "batch": self.settings.batch,
            "seconds": round(seconds, 1),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        }
        metadata = bundles.Metadata(
            self.method.name,
            self.method.describe(),
            self.method.scale,
            training=self._facts | {self.name: facts},
        )
        path = weights.stage_file(self.workdir, self.name)
        # Gathered by all hosts, as a collective must be, and written by one.
        exported = self._on_host({group: groups[group] for group in self.stage.exports})
        if jax.process_index() == 0:
            bundles.write(path, exported, metadata)
        watch.any_host(False)  # a barrier: the next stage of every host finds the file
        return path


def _closing(opened: checkpoint.Checkpoints | Writer) -> Callable[..., bool]:
    """Returns an exit callback that closes it where an exception ends the run."""

    def close(kind: type[BaseException] | None, *_: object) -> bool:
        if kind is not None:
            with contextlib.suppress(UserError):  # the first trouble is the one to tell of
                opened.close()
        return False

    return close


class _Clock:
    """Times the steps between two laps, and how much of it was waiting for data."""

    def __init__(self, step: int):
        self._step, self._waited = step, 0.0
        self.restart()

    def restart(self) -> None:
        """Begins the lap anew, so that what has passed, such as compilation, does not count."""
        self._mark, self._waited = time.monotonic(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def lap(self, step: int) -> tuple[float, float]:
        elapsed = time.monotonic() - self._mark
        found = elapsed / (step - self._step), self._waited / elapsed
        self._step = step
        self.restart()
        return found


def _line(scalars: dict[str, float]) -> str:
    return " ".join(f"{k.split('/')[-1]}={v:.4g}" for k, v in scalars.items())
