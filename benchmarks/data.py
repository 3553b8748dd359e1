"""Speed and memory of the data pipeline.

    python -m benchmarks.data --photos DIR                     # examples a second
    python -m benchmarks.data --photos DIR --memory 20000      # memory of a worker over time
    python -m benchmarks.data --need                           # examples/s that training needs

The last counts the FLOPs of a training step in the traced program, without compiling it, and
divides the accelerator's FLOP/s by them. `benchmarks.degradation_fidelity` compares the speed with
the public code's.
"""

from __future__ import annotations

import multiprocessing
import time

from benchmarks import common
from data import degradations, pipeline
from data.examples import ExampleSpec

MARGIN = {128: 32, 256: 144}


def rate(photos: str, spec: ExampleSpec, batch: int, seconds: float, workers: int) -> float:
    """Returns the examples a second of ``workers`` processes, measured for ``seconds``.

    Raises:
        ValueError: as `pipeline.train_iterator` does.
    """
    batches = pipeline.train_iterator(photos, spec, batch_size=batch, workers=workers, threads=0)
    # Empties the workers' buffers first: examples that were made before do not count.
    for _ in range(1 + 4 * workers):
        next(batches)
    start, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        next(batches)
        done += batch
    batches.close()
    return done / elapsed


def speeds(photos: str, presets: list[str], batch: int, seconds: float, workers: list[int]) -> None:
    """Prints examples a second by preset, crop and number of worker processes."""
    print(f"examples/s, batch {batch}; workers: " + "  ".join(f"{n:6}" for n in workers))
    for preset in presets:
        for crop, margin in MARGIN.items():
            spec = ExampleSpec(crop, margin, preset=preset)
            found = [rate(photos, spec, batch, seconds, count) for count in workers]
            print(f"{preset:12} crop {crop}           " + "  ".join(f"{n:6.1f}" for n in found))


def memory(photos: str, examples: int, batch: int) -> None:
    """Prints the resident memory of one worker as it makes examples."""
    spec = ExampleSpec(128, 32, preset="realesrgan")
    batches = pipeline.train_iterator(photos, spec, batch_size=batch, workers=1)
    marks = {examples * k // 10 // batch for k in range(11)}
    for step in range(examples // batch + 1):
        next(batches)
        if step in marks:
            (worker,) = multiprocessing.active_children()
            size = common.resident(str(worker.pid))
            print(f"after {step * batch:6} examples: {size:7.1f} MiB", flush=True)
    batches.close()


def need(tera: float) -> None:
    """Prints the FLOPs of base's and nano's training steps, and the examples a second at ``tera``.

    Args:
        tera: TFLOP/s that the accelerator reaches.
    """
    from benchmarks import scaling
    from configs import realsrt

    for size in ("base", "nano"):
        for stage in realsrt.STAGES:
            flops = scaling.step(stage, size=size).cost[0]
            asked = f"{tera * 1e12 / flops:7.0f} examples/s at {tera:g} TFLOP/s"
            print(f"{size:6} {stage:10} {flops / 1e9:8.0f} GFLOP an example: {asked}")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--photos", help="folder of photographs")
    every = ["none", *degradations.PRESETS]
    parser.add_argument("--presets", nargs="+", default=every, choices=every)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0, help="each measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--memory", type=int, default=0, help="examples to watch a worker for")
    parser.add_argument("--need", action="store_true")
    parser.add_argument("--tera", type=float, default=400.0, help="TFLOP/s of the accelerator")
    options = parser.parse_args()
    if options.need:
        need(options.tera)
        return
    if not options.photos:
        parser.error("--photos: expected a folder of photographs")
    if options.memory:
        memory(options.photos, options.memory, options.batch)
    else:
        speeds(options.photos, options.presets, options.batch, options.seconds, options.workers)


if __name__ == "__main__":
    main()
