"""Trains a system: all its stages in order, or one of them.

    python -m launch.train --config configs/realsrt.py:nano --workdir W --config.data.root PHOTOS
    … --max_seconds 3600      within an hour, to whose length the schedules are shortened
    … --config configs/realsrt.py:nano,stage=critic       one stage, along its whole schedule
    … --list                  prints every field of the config, its value and its meaning

The same command resumes a run that a kill, SIGTERM, Ctrl-C or the time box has stopped. A run of
all stages writes a bundle, W/NAME.safetensors.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # the modules below take seconds to load
    _LINE = b"launch.train: interrupted\n"
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, _LINE) and 130))

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from data import pipeline
from data.examples import ExampleSpec
from data.validation import validation_pairs
from launch import export_bundle, settings, timebox
from launch.history import FORMAT as FORMAT
from launch.history import Record
from maskgit_sr import paths
from maskgit_sr.arrays import Execution, Params, parse_dtype
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.inference import load
from maskgit_sr.methods import registry
from maskgit_sr.methods.base import Method
from maskgit_sr.training import checkpoint, lock, loggers, sharding, watch, weights
from maskgit_sr.training.loop import Outcome, Trainer, Validate
from maskgit_sr.training.watch import TrainingStopped

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; may be gs://BUCKET/FOLDER.")
_MAX_SECONDS = flags.DEFINE_float("max_seconds", float("inf"), "Time box.")
_LIST = flags.DEFINE_bool("list", False, "Print every field of the config, and train nothing.")


# ---------------------------------------------------------------- a run


def train(config: Any, workdir: paths.PathLike, max_seconds: float) -> str:
    """Trains the stages of ``config.order`` and returns a line on the state of the run.

    A single stage keeps its whole schedule, as far as the time box allows. Several stages share the
    time box, and their schedules are shortened to end in it.

    Args:
        max_seconds: time box; infinity: none.

    Raises:
        UserError: a mistake in the config or the workdir, or another trainer runs there.
        timebox.Interrupted: a signal asked to stop; everything is saved.
    """
    known = ", ".join(config.stages)
    if not config.order or not set(config.order) <= set(config.stages):
        raise UserError(f"--config.order: expected stages of {known}, found {config.order}")
    config.init = find_init(config.init)
    folder = paths.absolute(workdir)
    with lock.held(folder):
        return _train(config, folder, max_seconds)


def _train(config: Any, folder: epath.Path, max_seconds: float) -> str:
    """Does what `train` says, in a workdir that no other trainer uses."""

    def run(name: str, steps: int | None, seconds: float, at_least: float) -> Outcome:
        return run_stage(config, name, folder, seconds, at_least, steps)

    plan = timebox.Plan({name: config.stages[name].steps for name in config.order}, folder, run)
    if len(config.order) == 1:
        (name,) = config.order
        outcome = plan.take(name, None, max_seconds, 0.0)
        return f"{outcome.groups}: stage {name}, step {outcome.step}"
    shares = {name: config.stages[name].share for name in config.order}
    left = plan.train(shares, max_seconds)
    state = f"; not finished: {', '.join(left)}; the same command goes on" if left else ""
    path = folder / f"{config.name}.safetensors"
    bundle = str(path)
    if jax.process_index() == 0:
        try:
            number = export_bundle.export(
                folder, path, "bfloat16", "Apache-2.0", {}, init=config.init
            )
            bundle = f"{path}: {number:,} parameters"
        except weights.MissingGroups as error:  # config.order leaves stages out
            bundle = f"no bundle yet, it needs {', '.join(error.groups)}"
    watch.any_host(False)  # a barrier: no host ends before the bundle is there
    return f"{bundle}{state}"


def run_stage(
    config: Any,
    name: str,
    workdir: paths.PathLike,
    max_seconds: float = float("inf"),
    at_least: float = 0.0,
    steps: int | None = None,
) -> Outcome:
    """Wires data, method and trainer of one stage, and trains it with `Trainer.run`.

    Args:
        steps: shortens the stage's schedule to so many; None: the whole of it.

    Raises:
        UserError: no data root, missing groups of earlier stages, or a workdir out of reach.
    """
    # 1. checks that need nothing built, so that a mistake is told at once
    folder = paths.absolute(workdir)
    given, config = config, config.copy_and_resolve_references()
    timebox.shorten(config.stages[name], steps)
    if not config.data.root:
        raise UserError(
            "--config.data.root: expected a folder of photographs, a list, shards or tfds:NAME, "
            "found nothing"
        )
    loggers.parse(config.logger)
    stage = config.stages[name]
    _check_batch(name, stage, config.mesh)
    config.init = find_init(config.init)
    record = Record(folder, name, given, config)
    with _reaching(folder):
        record.check()

    # 2. method
    execution = Execution(parse_dtype(config.dtype or None), config.remat)
    try:
        method = registry.build(
            config.method, config.model.to_dict(), execution, settings.losses(config, name)
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"--config.model: {error}") from error
    if name not in method.stages:
        known = ", ".join(method.stages)
        raise UserError(f"--config.order: expected stages of {known}, found {name!r}")

    # 3. data
    iterator = _iterator(config, stage, method, name)
    validate = panel = None
    if config.data.validation:
        batch = validation_batch(config.data.validation, method, config.data.validation_limit)
        validate = validator(method, name, batch)
        panel = {key: array[:4] for key, array in batch.items()}

    # 4. the run; its config is written only when it goes on from what is there: a refused one must
    # not change the workdir
    def resumed(step: int) -> None:
        with _reaching(folder):
            record.write(step)

    trainer = Trainer(method, name, config, folder, iterator, validate, panel)
    try:
        return trainer.run(max_seconds, at_least, resumed)
    except checkpoint.Differs as error:
        changed = record.changed()
        raise UserError(
            f"{error}; changed since then: {changed}" if changed else str(error)
        ) from error
    finally:
        iterator.close()


def find_init(name: str) -> str:
    """Returns ``config.init``, a path or a shipped model's name, as a path; "" stays "".

    Raises:
        UserError: neither a bundle nor a shipped model.
    """
    try:
        return os.fspath(load.resolve(name)) if name else ""
    except UserError as error:
        raise UserError(f"--config.init: {error}") from None


@contextlib.contextmanager
def _reaching(workdir: epath.Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each kind of bucket has its own
        reason = " ".join(str(error).split()) or repr(error)
        raise UserError(f"--workdir {workdir}: cannot be read and written: {reason}") from error


def _check_batch(name: str, stage: Any, mesh: Any) -> None:
    """Checks the global batch against mesh, hosts and microbatches, before anything is allocated.

    Raises:
        UserError: the batch is no multiple of them, or the mesh does not cover the devices.
    """
    shape = sharding.make_mesh(**mesh).shape
    shards = shape["data"] * shape["fsdp"]
    together = stage.accumulate * shards
    counts = {
        f"the mesh's data x fsdp = {shards}": shards,
        f"{jax.process_count()} hosts": jax.process_count(),
        f"accumulate x data x fsdp = {together}": together,
    }
    for what, count in counts.items():
        if count < 1 or stage.batch % count:
            option = f"--config.stages.{name}.batch"
            raise UserError(f"{option}: {stage.batch} is no multiple of {what}")


# ---------------------------------------------------------------- data


def _iterator(config: Any, stage: Any, method: Method, name: str) -> pipeline.Batches:
    """Returns this host's training batches."""
    data, hosts = config.data, jax.process_count()
    try:
        arrays = method.stages[name].batch
        spec = ExampleSpec.configured(data, stage.crop, method.scale, arrays)
        iterator = pipeline.train_iterator(
            data.root,
            spec,
            batch_size=stage.batch // hosts,
            seed=config.seed,
            small=data.small,
            cache=data.cache,
            cache_gb=data.cache_gb,
            workers=data.workers if data.workers >= 0 else _spare_cores(),
            threads=data.threads,
            shard_index=jax.process_index(),
            shard_count=hosts,
        )
        if iterator.images < stage.batch:
            iterator.close()
            raise ValueError(
                f"{iterator.images} images in {data.root!r} are fewer than the batch of "
                f"{stage.batch}"
            )
        return iterator
    except ValueError as error:  # of the data or its settings, before the first step
        raise UserError(f"--config.data: {error}") from error


def _spare_cores() -> int:
    """Returns the number of cores of this process less one, which the trainer needs."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores - 1)


def validation_batch(root: str, method: Method, limit: int) -> dict[str, np.ndarray]:
    """Returns centre windows of images: {"lr": [B, S, S, 3], "hr": [B, sS, sS, 3]} in [0, 1].

    S is the largest of the method's sides that some image covers; smaller images are left out.

    Args:
        root: folder with lr/ and hr/, or hr/ alone.
        limit: number of images at most.

    Raises:
        UserError: no image is large enough, or the folder cannot be read.
    """
    try:
        pairs = list(validation_pairs(root, limit, method.scale))
    except ValueError as error:
        raise UserError(f"--config.data.validation: {error}") from error
    for side in reversed(method.tile.sides):
        covering = [pair for pair in pairs if min(pair["lr"].shape[:2]) >= side]
        if covering:
            lr, hr = zip(*(_centre(pair, side, method.scale) for pair in covering), strict=True)
            # np.float32, since uint8 over a Python number is float64.
            return {"lr": np.stack(lr) / np.float32(255), "hr": np.stack(hr) / np.float32(255)}
    least = method.tile.sides[0]
    raise UserError(f"{root}: no validation image with sides of at least {least} LR pixels")


def _centre(pair: dict[str, Any], side: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    top, left = ((n - side) // 2 for n in pair["lr"].shape[:2])
    long, below, right = side * scale, top * scale, left * scale
    return (
        pair["lr"][top : top + side, left : left + side],
        pair["hr"][below : below + long, right : right + long],
    )


def validator(method: Method, stage: str, batch: dict[str, np.ndarray]) -> Validate:
    """Returns a function of EMA weights that scores the stage's output by PSNR and LPIPS."""
    from maskgit_sr import metrics
    from maskgit_sr.metrics import lpips

    distance = lpips.load("alex")
    panel = method.stages[stage].panel
    hr = jnp.asarray(batch["hr"])

    @jax.jit
    def outputs(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        # The same draws every time, so that scores of two steps compare.
        return jnp.clip(panel(params, batch, jax.random.key(0))["output"], 0, 1)

    def validate(params: Params) -> dict[str, float]:
        output = outputs(params, batch)
        scores = {"psnr": metrics.psnr(output, hr), "lpips": distance(output, hr)}
        return {name: float(np.mean(value)) for name, value in scores.items()}

    return validate


# ---------------------------------------------------------------- the command


def join_hosts() -> None:
    """Initialises JAX's distributed runtime if the environment tells of several processes.

    JAX itself detects Slurm, Open MPI and TPU pods; elsewhere JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID describe the run.
    """
    known = os.environ
    address = known.get("JAX_COORDINATOR_ADDRESS")
    if address and "JAX_NUM_PROCESSES" in known:
        count, number = int(known["JAX_NUM_PROCESSES"]), int(known["JAX_PROCESS_ID"])
        jax.distributed.initialize(address, count, number)
        return
    sizes = (known.get("SLURM_NTASKS", "1"), known.get("OMPI_COMM_WORLD_SIZE", "1"))
    pod = "," in known.get("TPU_WORKER_HOSTNAMES", "") or "TPU_PROCESS_ADDRESSES" in known
    if address or pod or any(int(size) > 1 for size in sizes):
        jax.distributed.initialize()


def narrate() -> None:
    """Logs the progress of trainer and data to stderr."""
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax narrates every save at INFO
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("maskgit_sr", "data", "launch"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False


def main(argv: list[str]) -> None:
    """Runs the command; a user's mistake is one line and exit code 2, Ctrl-C one line and 130."""
    with one_line("launch.train", {TrainingStopped: 1}):
        config = flags.FLAGS.config if "config" in flags.FLAGS else None
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}")
        if config is None:
            raise UserError("--config: expected FILE.py or FILE.py:ARGUMENT, found nothing")
        if _LIST.value:
            print("\n".join(settings.listing(config)))
            return
        if not _WORKDIR.value:
            raise UserError("--workdir: expected a folder, found nothing")
        if not _MAX_SECONDS.value >= 0:  # true for NaN too
            raise UserError(f"--max_seconds: expected 0 or more, found {_MAX_SECONDS.value:g}")
        code = 0
        try:
            with watch.StopSignal(at_once=True):  # the trainer has its own
                join_hosts()
                narrate()
                found = train(config, _WORKDIR.value, _MAX_SECONDS.value)
        except watch.Interrupted as error:
            found = "stopped by a signal; the same command goes on"
            code = 130 if error.number == signal.SIGINT else 0
        if jax.process_index() == 0:
            print(f"launch.train: {found}", flush=True)
        sys.exit(code)


def _flags_parser(argv: list[str]) -> list[str]:
    with one_line("launch.train"):
        return settings.parse(argv)
    raise AssertionError  # one_line has ended the process


if __name__ == "__main__":
    app.run(main, flags_parser=_flags_parser)
