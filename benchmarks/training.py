"""Speed of training steps against what the device can do, and of the input that feeds them.

    MASKGIT_SR_ASSETS=DIR python -m benchmarks.training --sizes base small \
        --stages tokenizer generator critic control [--batch N] [--photos PHOTOS] [--output FILE.md]

What is timed is the trainer's own step (`training.state.make_step` with the config's optimizers and
losses, all phases of it, the GAN's from the first step on) on one device, with random weights and
random images that lie on the device, so that input is not measured. `--photos` measures input by
itself, examples a second of one worker process by the stage's own settings, and says how many
workers the step asks for.

FLOPs are those of matrix products and convolutions, forward, backward and of all phases, loops
counted as often as they run; with `--remat` they leave out what is computed twice, as MFU does by
definition. GB are XLA's own analysis, which counts bodies of loops once: those of control are too
few, as its decoding is a loop, and with `--accumulate` those of every stage. Floor, peaks and the
matrix product: `benchmarks.roofline`. A stage that does not fit into memory is named at the end;
the published batch of 64 does not on 80 GB without `--accumulate` or `--remat` (docs/scaling.md).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import data, roofline, speed_report, steps, weights
from configs import realsrt
from data.examples import ExampleSpec
from maskgit_sr.arrays import Execution, Params, parse_dtype
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.methods import registry
from maskgit_sr.training import state


def config_of(size: str, batch: int | None, accumulate: int | None) -> Any:
    """The config of a size, its GAN active from the first step on."""
    config = realsrt.get_config(size)
    if "adversarial_start" in config.losses:
        config.losses.adversarial_start = 0
    for stage in config.stages.values():
        stage.batch = batch or stage.batch
        stage.accumulate = accumulate or stage.accumulate
    return config


def begin(made: steps.Step, seed: int) -> tuple[state.TrainState, Params]:
    """A state at step 0 with random weights, and the frozen groups.

    Raises:
        UserError: the perceptual net of the config is not there.
    """
    frozen = weights.random({group: made.frozen[group] for group in made.stage.needs})
    frozen |= {group: make() for group, make in made.stage.frozen.items()}
    stats: Params = {}
    if made.stage.fresh_stats:
        shapes = made.method.shapes()
        groups = weights.random({group: shapes[group] for group in made.stage.fresh_stats})
        stats = made.method.continued_stats(groups)
    params = weights.random(made.state.params, seed=1)
    begun = state.create(made.stage, params, stats, made.optimizers, seed)
    return jax.device_put((begun, frozen), jax.devices()[0])


def step(
    config: Any,
    name: str,
    dtype: str,
    remat: bool,
    limits: roofline.Limits,
    turns: int,
    repeats: int,
) -> dict[str, Any]:
    """A record of one stage's step: seconds, FLOPs, bytes and memory.

    Args:
        turns: steps in a row for each of ``repeats`` measurements, of which the median counts.

    Raises:
        UserError: the perceptual net of the config is not there.
    """
    made, plain = (
        steps.abstract(config, name, Execution(parse_dtype(dtype), again))
        for again in (remat, False)
    )
    flops = plain.cost[0]  # what remat computes twice is no part of the model
    batch, accumulate = made.settings.batch, made.settings.accumulate
    began = time.perf_counter()
    current, frozen = begin(made, config.seed)
    images = {
        name: jax.random.uniform(jax.random.key(index), shape.shape)
        for index, (name, shape) in enumerate(made.batch(batch).items())
    }
    compiled = made.jitted(accumulate).lower(current, frozen, images).compile()
    ready = time.perf_counter() - began

    def several() -> jax.Array:
        nonlocal current
        for _ in range(turns):
            current, _ = compiled(current, frozen, images)
        return current.step

    seconds = roofline.seconds(several, repeats, least=0.0) / turns
    memory, moved = compiled.memory_analysis(), roofline.moved_bytes(compiled)
    return {
        "at_a_time": batch // accumulate if accumulate > 1 else None,
        "seconds": seconds,
        "examples_per_second": batch / seconds,
        "flops_an_example": flops,
        "flops": flops * batch,
        "bytes": moved,
        "floor": limits.floor(flops * batch, moved, dtype),
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "skipped": int(current.skipped),
        "ready_seconds": ready,
        **limits.shares(flops * batch, seconds, dtype),
    }


def input_rate(photos: str, config: Any, name: str, seconds: float) -> float:
    """Examples a second of one worker process, made as the stage asks.

    Raises:
        UserError: the folder has no usable photograph.
    """
    stage, method = config.stages[name], registry.build(config.method, config.model.to_dict())
    try:
        arrays = method.stages[name].batch
        spec = ExampleSpec.configured(config.data, stage.crop, method.scale, arrays)
        return data.rate(photos, spec, stage.batch, seconds, workers=1)
    except ValueError as error:
        raise UserError(f"--photos: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["base"], choices=realsrt.SIZES)
    parser.add_argument("--stages", nargs="+", default=list(realsrt.STAGES), choices=realsrt.STAGES)
    parser.add_argument("--batch", type=int, help="examples a step; the config's by default")
    parser.add_argument("--accumulate", type=int, help="parts of a batch, one after the other")
    parser.add_argument("--remat", action="store_true", help="as --config.remat")
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtype", choices=dtypes, help="float32 on CPU, bfloat16 else")
    parser.add_argument("--steps", type=int, default=10, help="in a row, each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each")
    parser.add_argument("--photos", help="folder of photographs, to measure input as well")
    parser.add_argument("--seconds", type=float, default=8.0, help="that input is measured for")
    parser.add_argument("--output", type=Path, help="file of tables (.md) or of records (.json)")
    given = parser.parse_args()
    for name in ("batch", "accumulate", "steps", "repeats"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name}: expected at least 1, found {value}")
    speed_report.check(parser, given.output)
    with one_line("benchmarks.training"):
        measure(given)
    return 0


def measure(given: argparse.Namespace) -> None:
    """Measures, prints, and writes after each stage, so that what was measured is not lost."""
    dtype = np.dtype(parse_dtype(given.dtype)).name
    cases = [
        (size, stage, config_of(size, given.batch, given.accumulate))
        for size in dict.fromkeys(given.sizes)
        for stage in dict.fromkeys(given.stages)
    ]
    for _, name, config in cases:
        stage = config.stages[name]
        if stage.batch % stage.accumulate:
            raise UserError(
                f"--accumulate: {stage.accumulate} does not divide the batch of {stage.batch}"
            )
    limits = roofline.limits([dtype], given.repeats)
    record = speed_report.start(limits, steps=given.steps, repeats=given.repeats, stages=[])
    for size, name, config in cases:
        print(f"{size}, {name}", file=sys.stderr, flush=True)
        stage = config.stages[name]
        row: dict[str, Any] = {"size": size, "stage": name, "dtype": dtype}
        row |= {"batch": stage.batch, "remat": given.remat}
        if given.photos:  # first, so that a wrong folder is known before anything is compiled
            row["input_per_worker"] = input_rate(given.photos, config, name, given.seconds)
        try:
            row |= step(config, name, dtype, given.remat, limits, given.steps, given.repeats)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            row["failed"] = "does not fit into the device's memory"
        if given.photos and "failed" not in row:
            row["workers"] = row["examples_per_second"] / row["input_per_worker"]
        record["stages"].append(row)
        if given.output is not None:
            speed_report.write(record, speed_report.training(record), given.output)
    print(speed_report.training(record))


if __name__ == "__main__":
    sys.exit(main())
