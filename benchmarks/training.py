"""Speed of training steps against the device's limits, and of the input that feeds them.

    MASKGIT_SR_ASSETS=DIR python -m benchmarks.training --sizes base nano \
        --stages tokenizer generator critic control [--batch N] [--photos PHOTOS] [> FILE.md]

Timed is the trainer's own step (`training.state.make_step` with the config's optimizers and losses,
all phases, the GAN's from the first step on) on one device, with random weights and random images
on the device, so that input is not measured. `--photos` measures input by itself, in examples a
second of one worker process with the stage's settings, and prints how many workers the step needs.

FLOPs and GB are counted in the traced step (`benchmarks.steps`), forward and backward over all
phases, loops as often as they run; with `--remat` they leave out what is computed twice, as MFU
does by definition. Floor, peaks and the matrix product: `benchmarks.roofline`. The row of a stage
that does not fit into memory says so; the published batch of 64 needs `--accumulate` or `--remat`
on 80 GB (docs/scaling.md).
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import numpy as np

from benchmarks import common, data, roofline, steps
from configs import realsrt
from data.examples import ExampleSpec
from maskgit_sr.arrays import Execution, Params, parse_dtype
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.methods import registry
from maskgit_sr.training import state

HEAD = "network|stage|dtype|batch|ms a step|examples/s|input examples/s a worker|workers to keep up"


def config_of(size: str, batch: int | None, accumulate: int | None) -> Any:
    """Returns the config of a size, with its GAN active from the first step on."""
    config = realsrt.get_config(size)
    if "adversarial_start" in config.losses:
        config.losses.adversarial_start = 0
    for stage in config.stages.values():
        stage.batch = batch or stage.batch
        stage.accumulate = accumulate or stage.accumulate
    return config


def begin(made: steps.Step, seed: int) -> tuple[state.TrainState, Params]:
    """Returns a state at step 0 with random weights, and the frozen groups.

    Raises:
        UserError: the file of the config's perceptual net is missing.
    """
    frozen = roofline.random_params({group: made.frozen[group] for group in made.stage.needs})
    frozen |= {group: make() for group, make in made.stage.frozen.items()}
    stats: Params = {}
    if made.stage.fresh_stats:
        shapes = made.method.shapes()
        groups = roofline.random_params({group: shapes[group] for group in made.stage.fresh_stats})
        stats = made.method.continued_stats(groups)
    params = roofline.random_params(made.state.params, seed=1)
    begun = state.create(made.stage, params, stats, made.optimizers, seed)
    return jax.device_put((begun, frozen), jax.devices()[0])


def step_seconds(made: steps.Step, seed: int, turns: int, repeats: int) -> float:
    """Returns the median seconds of a step.

    Args:
        turns: consecutive steps in each of ``repeats`` measurements.

    Raises:
        UserError: the file of the config's perceptual net is missing.
    """
    current, frozen = begin(made, seed)
    images = {
        name: jax.random.uniform(jax.random.key(index), shape.shape)
        for index, (name, shape) in enumerate(made.batch(made.settings.batch).items())
    }
    compiled = made.jitted(made.settings.accumulate).lower(current, frozen, images).compile()

    def several() -> jax.Array:
        nonlocal current  # the step donates it, so a measurement goes on from the one before
        for _ in range(turns):
            current, _ = compiled(current, frozen, images)
        return current.step

    return common.seconds(several, repeats, least=0.0) / turns


def input_rate(photos: str, config: Any, name: str, seconds: float) -> float:
    """Returns the examples a second of one worker process with the stage's settings.

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
    parser = common.parser(__doc__)
    parser.add_argument("--sizes", nargs="+", default=["base"], choices=realsrt.SIZES)
    parser.add_argument("--stages", nargs="+", default=realsrt.STAGES, choices=realsrt.STAGES)
    parser.add_argument("--batch", type=common.positive, help="examples a step, not the config's")
    parser.add_argument("--accumulate", type=common.positive, help="microbatches of a batch")
    parser.add_argument("--remat", action="store_true", help="as --config.remat")
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtype", choices=dtypes, help="float32 on CPU, bfloat16 else")
    parser.add_argument("--steps", type=common.positive, default=10, help="each measurement")
    parser.add_argument("--repeats", type=common.positive, default=3, help="measurements of each")
    parser.add_argument("--photos", help="folder of photographs, to measure input as well")
    parser.add_argument("--seconds", type=float, default=8.0, help="that input is measured for")
    given = parser.parse_args()
    dtype = np.dtype(parse_dtype(given.dtype)).name
    with one_line("benchmarks.training"):
        cases = [
            (size, stage, config_of(size, given.batch, given.accumulate))
            for size in dict.fromkeys(given.sizes)
            for stage in dict.fromkeys(given.stages)
        ]
        for _, name, config in cases:
            batch, count = config.stages[name].batch, config.stages[name].accumulate
            if batch % count:
                raise UserError(f"--accumulate: {count} does not divide the batch of {batch}")
        limits = roofline.limits([dtype], given.repeats)
        print(f"{limits.describe()}; jax {jax.__version__}\n")
        print(common.table(f"{HEAD}|{roofline.HEAD}", ()), flush=True)
        for size, name, config in cases:
            row = measure(config, name, dtype, limits, given)
            print(common.line(size, name, dtype, *row), flush=True)
    return 0


def measure(
    config: Any, name: str, dtype: str, limits: roofline.Limits, given: Any
) -> tuple[object, ...]:
    """Returns the row of a stage from its batch on, a short one if it does not fit into memory.

    Raises:
        UserError: the file of the config's perceptual net, or the photographs, are missing.
    """
    # what remat computes twice is no part of the model
    plain = steps.abstract(config, name, Execution(parse_dtype(dtype)))
    made = plain
    if given.remat:
        made = steps.abstract(config, name, Execution(parse_dtype(dtype), remat=True))
    batch, count = made.settings.batch, made.settings.accumulate
    shown = f"{batch}" + f" in {count} parts" * (count > 1) + ", remat" * given.remat
    # first, so that a wrong folder is reported before anything is compiled
    fed = input_rate(given.photos, config, name, given.seconds) if given.photos else None
    try:
        seconds = step_seconds(made, config.seed, given.steps, given.repeats)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return (shown, "does not fit into the device's memory")
    rate = batch / seconds
    return (
        *(shown, f"{1e3 * seconds:.2f}", f"{rate:.4g}"),
        *((f"{fed:.1f}", f"{rate / fed:.1f}") if fed else (None, None)),
        *limits.cells(batch * plain.cost, seconds, dtype),
    )


if __name__ == "__main__":
    sys.exit(main())
