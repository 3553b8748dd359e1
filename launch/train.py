"""Trains one stage.

    python -m launch.train --config configs/realsrt.py:nano,stage=tokenizer --workdir W \\
        --config.data.root PHOTOS
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath
from ml_collections import config_flags

from data import pipeline
from data.examples import Recipe
from data.validation import validation_pairs
from maskgit_sr import paths
from maskgit_sr.arrays import Execution, Params, parse_dtype
from maskgit_sr.errors import UserError
from maskgit_sr.inference import load
from maskgit_sr.methods import registry
from maskgit_sr.methods.base import Method
from maskgit_sr.models.functional import flatten
from maskgit_sr.training import sharding
from maskgit_sr.training.loop import Outcome, Trainer, Validate
from maskgit_sr.training.watch import TrainingStopped

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with :size,stage=NAME.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run, which all its stages share; may be gs://BUCKET/FOLDER."
)
_MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", float("inf"), "Stop cleanly after so many seconds."
)


def validation_batch(root: str, method: Method, limit: int) -> dict[str, np.ndarray]:
    """Centre tiles of a validation folder: {"lr": [B, t, t, 3], "hr": [B, 4t, 4t, 3]} in [0, 1]."""
    lr, hr = [], []
    side, scale = method.tile.size, method.scale
    for pair in _pairs(root, limit):
        height, width = pair["lr"].shape[:2]
        if min(height, width) < side:
            continue
        top, left = (height - side) // 2, (width - side) // 2
        lr.append(pair["lr"][top : top + side, left : left + side])
        top, left, long = top * scale, left * scale, side * scale
        hr.append(pair["hr"][top : top + long, left : left + long])
    if not lr:
        raise UserError(f"{root}: no validation image with sides of at least {side} LR pixels")
    return {"lr": np.stack(lr) / np.float32(255), "hr": np.stack(hr) / np.float32(255)}


def _pairs(root: str, limit: int) -> Iterator[dict[str, Any]]:
    try:
        yield from validation_pairs(root, limit)
    except ValueError as error:
        raise UserError(f"--config.data.validation: {error}") from error


def validator(method: Method, stage: str, batch: dict[str, np.ndarray]) -> Validate:
    """EMA weights → PSNR and LPIPS of the stage's panel output against HR."""
    from maskgit_sr import metrics
    from maskgit_sr.metrics import lpips

    distance = lpips.load("alex")
    panel = method.stages[stage].panel
    hr = jnp.asarray(batch["hr"])

    @jax.jit
    def outputs(params: Params, stats: Params, batch: dict[str, jax.Array]) -> jax.Array:
        return jnp.clip(panel(params, stats, batch, jax.random.key(0))["output"], 0, 1)

    def validate(params: Params) -> dict[str, float]:
        stats = {"codebook": params["codebook"]}
        output = outputs(params, stats, batch)
        scores = {
            "psnr": metrics.psnr(output, hr),
            "lpips": distance(output, hr),
        }
        return {name: float(np.mean(value)) for name, value in scores.items()}

    return validate


def run(config: Any, workdir: paths.PathLike, max_seconds: float, at_least: float = 0.0) -> Outcome:
    """Wires data, method and trainer, and trains as `Trainer.run` does.

    Raises:
        UserError: no data root, or groups of earlier stages missing, or a workdir out of reach.
    """
    folder = paths.absolute(workdir)
    if not config.data.root:
        raise UserError(
            "--config.data.root: expected a folder of photographs, a list, shards or tfds:NAME, "
            "found nothing"
        )
    _check_batch(config)
    config.init = find_init(config.init)
    saved = folder / f"config-{config.stage_name}.json"
    with _reaching(folder):
        _check_model(config, saved)
    execution = Execution(parse_dtype(config.dtype or None), config.remat)
    try:
        method = registry.build(config.method, config.model.to_dict(), execution)
    except (TypeError, ValueError) as error:
        raise UserError(f"--config.model: {error}") from error
    iterator = _iterator(config, method.scale)
    validate = panel = None
    if config.data.validation:
        batch = validation_batch(config.data.validation, method, config.data.validation_limit)
        validate = validator(method, config.stage_name, batch)
        panel = {name: array[:4] for name, array in batch.items()}
    with _reaching(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            saved.write_text(config.to_json_best_effort(indent=2))
    trainer = Trainer(method, config.stage_name, config, folder, iterator, validate, panel)
    try:
        return trainer.run(max_seconds, at_least)
    finally:
        iterator.close()


def find_init(name: str) -> str:
    """``config.init`` as a path: a bundle's, or the name of one that ships; "" stays.

    Raises:
        UserError: neither.
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


def _check_batch(config: Any) -> None:
    """The global batch against mesh, hosts and parts, before anything is allocated.

    Raises:
        UserError: they do not divide it, or the mesh does not fit the devices.
    """
    mesh = sharding.make_mesh(**config.mesh)
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    parts = {
        f"the mesh's data x fsdp = {shards}": shards,
        f"{jax.process_count()} hosts": jax.process_count(),
        f"accumulate x data x fsdp = {config.stage.accumulate * shards}": (
            config.stage.accumulate * shards
        ),
    }
    for name, count in parts.items():
        if count < 1 or config.stage.batch % count:
            raise UserError(f"--config.stage.batch: {config.stage.batch} is no multiple of {name}")


def _check_model(config: Any, saved: epath.Path) -> None:
    """The model against that of an earlier run of this stage in the same workdir.

    Raises:
        UserError: it is another one; names the first setting that differs.
    """
    if not saved.exists():
        return
    before = json.loads(saved.read_text())
    now = json.loads(config.to_json_best_effort())
    old, new = (flatten({p: tree.get(p) for p in ("method", "model")}) for tree in (before, now))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise UserError(
                f"--workdir {saved.parent}: holds a run of stage {config.stage_name} with "
                f"{name.replace('/', '.')} = {old.get(name)}, this config has {new.get(name)}"
            )


def _iterator(config: Any, scale: int) -> pipeline.Batches:
    """This host's training batches."""
    data, hosts = config.data, jax.process_count()
    try:
        recipe = Recipe.configured(data, config.stage.crop, scale)
        iterator = pipeline.train_iterator(
            data.root,
            recipe,
            batch_size=config.stage.batch // hosts,
            seed=config.seed,
            small=data.small,
            cache=data.cache,
            workers=data.workers if data.workers >= 0 else _spare_cores(),
            threads=data.threads,
            shard_index=jax.process_index(),
            shard_count=hosts,
        )
        if iterator.images < config.stage.batch:
            iterator.close()
            raise ValueError(
                f"{iterator.images} images in {data.root!r} are fewer than the batch of "
                f"{config.stage.batch}"
            )
        return iterator
    except ValueError as error:  # of the data or its settings, before the first step
        raise UserError(f"--config.data: {error}") from error


def _spare_cores() -> int:
    """All cores of this process but one, which the trainer itself needs."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores - 1)


def join_hosts() -> None:
    """Joins the other processes of the run, if the environment tells of any.

    Slurm, Open MPI and TPU pods say who and how many they are, which JAX reads itself; elsewhere
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID do.
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


def main(argv: list[str]) -> None:
    """Command-line entry; a user's mistake is one line and exit code 2."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    join_hosts()
    narrate()
    with one_line("launch.train"):
        run(_CONFIG.value, _WORKDIR.value or ".", _MAX_SECONDS.value)


def narrate() -> None:
    """Progress of the trainer and the data on stderr."""
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax narrates every save at INFO
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("maskgit_sr", "data", "launch"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False


@contextlib.contextmanager
def one_line(command: str) -> Iterator[None]:
    """A user's mistake ends the process with one line and 2, a run that cannot go on with 1."""
    try:
        yield
    except UserError as error:
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingStopped as error:
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(1)


def parse_flags(argv: list[str], command: str = "launch.train") -> list[str]:
    """Reads flags and config; a mistake in either is one line and exit code 2."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # absl puts whole tracebacks into its messages, ml_collections a repr into its own.
        text = str(error).replace("\\n", " ").replace("\\'", "'")
        text = text[1:-1] if text[:1] == text[-1:] == "'" else text
        line = text.strip().splitlines()[-1] if "Traceback" in text else " ".join(text.split())
        print(f"{command}: {line}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
