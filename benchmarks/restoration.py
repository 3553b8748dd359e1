"""Speed of restoration against what the device can do, and where the time goes.

    python -m benchmarks.restoration --sizes base small --sides 128 512 \
        --dtypes float32 bfloat16 [--reference CHECKOUT] [--output FILE.md]

The first table is of whole images, LR sides by `--sides`: all tiles (64 every 32 pixels) in batches
from the host's memory back to it, four decoding steps with critic, controlling module and colour
correction; compilation is excluded. Cutting and blending on the host is the same for everyone, and
a column of its own. The second takes the same program apart, one batch of tiles on the device.
Weights are random at the published shapes, because speed does not depend on their values.

With `--reference` the public PyTorch code restores the same tiles with the same weights (`base`),
in float32 as it is published and by PyTorch's autocast (`benchmarks.realsrt_reference`). All take
turns so that other load on the machine meets each of them; the largest difference from the first
row's tiles stands beside. On a busy CPU use `--threads 1` and compare CPU times: threads that wait
for each other are counted as working.

FLOPs are those of matrix products and convolutions, loops counted as often as they run; a tile
takes the PyTorch code 2.19 TFLOP and this package 1.75, which encodes the LR tokens once for
all steps and asks no critic after the last one. Peaks, the floor of a part's time and the measured
matrix product: `benchmarks.roofline`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import flops, restoration_parts, roofline, speed_report, weights
from benchmarks.inference import photograph
from benchmarks.realsrt_reference import STEPS, Reference
from configs import realsrt
from maskgit_sr import images
from maskgit_sr.arrays import Execution, Params, parse_dtype
from maskgit_sr.bundles import Metadata
from maskgit_sr.convert.realsrt import map_state
from maskgit_sr.errors import one_line
from maskgit_sr.inference.mosaic import Mosaic
from maskgit_sr.inference.upscaler import Upscaler, fetch
from maskgit_sr.methods import registry
from maskgit_sr.methods.realsrt import RealSRT, RealSRTOptions

Run = Callable[[], np.ndarray]


def networks(
    size: str, dtypes: Sequence[str], batch: int, reference: Reference | None
) -> dict[str, Upscaler]:
    """A size in each dtype, all with the same weights: those of ``reference``, else random ones."""
    device, found = jax.devices()[0], {}
    params: Params = {}
    for dtype in dtypes:
        method = build(size, dtype)
        if not params and reference is not None:
            params = map_state(reference.state, method.config)
        params = params or weights.random(method.shapes())
        metadata = Metadata(method.name, method.describe(), method.scale)
        found[dtype] = Upscaler(method, params, metadata, batch=batch, device=device)
        params = found[dtype].params  # on the device, where one copy serves all
    return found


def build(size: str, dtype: str) -> RealSRT:
    """The network of a size of the configs, computing in ``dtype``."""
    config = realsrt.get_config(size)
    method = registry.build(config.method, config.model.to_dict(), Execution(parse_dtype(dtype)))
    assert isinstance(method, RealSRT)
    return method


def options_of(upscaler: Upscaler) -> RealSRTOptions:
    """Returns the options that are measured: as the public code decodes, without confidence."""
    options = upscaler.options(steps=STEPS, confidence=False)
    assert isinstance(options, RealSRTOptions)
    return options


def restored(upscaler: Upscaler, tiles: np.ndarray) -> np.ndarray:
    """Restored tiles; a batch is fetched while the next one is computed, as `complete` does."""
    options = options_of(upscaler)
    bases = jax.numpy.broadcast_to(jax.random.key(0), (upscaler.batch,))
    found: list[np.ndarray] = []
    waiting: tuple[int, Any] | None = None
    for start in range(0, len(tiles), upscaler.batch):
        part = tiles[start : start + upscaler.batch]
        indices = np.arange(start, start + len(part), dtype=np.uint32)
        started = upscaler.run(part, indices, bases, options)
        if waiting is not None:
            found.append(np.asarray(fetch(*waiting).image))
        waiting = len(part), started
    assert waiting is not None
    return np.concatenate([*found, fetch(*waiting).image])


class System(NamedTuple):
    """Who restores tiles, in which precision, its FLOPs a tile, and the restoration itself."""

    name: str
    dtype: str
    flops: float
    run: Run


def take_turns(runs: Sequence[Run], repeats: int) -> list[tuple[float, float, np.ndarray]]:
    """(median seconds, median CPU seconds, result) of each; the first time each one compiles."""
    results = [run() for run in runs]
    wall: list[list[float]] = [[] for _ in runs]
    cpu: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for index, run in enumerate(runs):
            start, used = time.perf_counter(), time.process_time()
            run()
            wall[index].append(time.perf_counter() - start)
            cpu[index].append(time.process_time() - used)
    medians = (map(statistics.median, times) for times in (wall, cpu))
    return list(zip(*medians, results, strict=True))


def whole(
    side: int,
    upscalers: dict[str, Upscaler],
    reference: Reference | None,
    limits: roofline.Limits,
    repeats: int,
) -> list[dict[str, Any]]:
    """A row for everyone who restores a picture of that side."""
    first = next(iter(upscalers.values()))
    color = photograph(side)
    tiles = cut(color, first)[1]
    systems = []
    if reference is not None:
        for how in reference.precisions:
            run = partial(reference.restore, tiles, how, first.batch)
            systems.append(System("PyTorch", how, reference.flops, run))
    systems += [
        System("maskgit_sr", dtype, work_of_a_tile(upscaler), partial(restored, upscaler, tiles))
        for dtype, upscaler in upscalers.items()
    ]
    found = take_turns([system.run for system in systems], repeats)
    expected = found[0][2]
    tiling = tiling_seconds(color, first, expected)
    return [
        {
            "side": side,
            "tiles": len(tiles),
            "system": system.name,
            "dtype": system.dtype,
            "seconds": wall,
            "cpu_seconds": cpu,
            "flops_a_tile": system.flops,
            "tiling_seconds": tiling,
            "difference": float(np.abs(image - expected).max()),
            **limits.shares(system.flops * len(tiles), wall, system.dtype),
        }
        for system, (wall, cpu, image) in zip(systems, found, strict=True)
    ]


def cut(color: np.ndarray, upscaler: Upscaler) -> tuple[Mosaic, np.ndarray]:
    """A picture as the mosaic of its tiles, and the tiles, float32 [n, tile, tile, 3]."""
    mosaic = upscaler.mosaic(images.from_array(color), options_of(upscaler))
    return mosaic, mosaic.cut(range(mosaic.count))


def work_of_a_tile(upscaler: Upscaler) -> float:
    """FLOPs of the restoration of one tile."""
    method, options, side = upscaler.method, options_of(upscaler), upscaler.method.tile.sides[0]
    tile = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    keys = jax.random.split(jax.random.key(0), 1)
    traced = jax.make_jaxpr(lambda params, lr: method.restore(params, lr, keys, options).image)
    return flops.count(traced(upscaler.params, tile).jaxpr)


def tiling_seconds(color: np.ndarray, upscaler: Upscaler, tiles: np.ndarray) -> float:
    """The host's share: cutting a picture, and putting its restored tiles together."""
    start = time.perf_counter()
    mosaic, _ = cut(color, upscaler)
    for tile in tiles:
        mosaic.add(tile)
    return time.perf_counter() - start


def inside(
    upscaler: Upscaler, limits: roofline.Limits, dtype: str, repeats: int
) -> list[dict[str, Any]]:
    """The parts of the restoration of one batch, and all of it as the Upscaler runs it."""
    method, options, batch = upscaler.method, options_of(upscaler), upscaler.batch
    assert isinstance(method, RealSRT)
    side = method.tile.sides[0]
    tiles = np.random.default_rng(0).random((batch, side, side, 3), np.float32)
    keys = jax.random.split(jax.random.key(0), batch)
    lr = jax.device_put(tiles)
    found = restoration_parts.parts(method, options, upscaler.params, lr, keys)
    records = restoration_parts.measure(found, limits, dtype, repeats)
    taken = roofline.seconds(
        lambda: upscaler.run(tiles, np.arange(batch, dtype=np.uint32), keys, options).image, repeats
    )
    return [*records, restoration_parts.total(records, taken, limits, dtype)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["base"], choices=realsrt.SIZES)
    parser.add_argument("--sides", nargs="+", type=int, default=[128, 512], help="of LR images")
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtypes", nargs="+", default=dtypes, choices=dtypes)
    parser.add_argument("--reference", type=Path, help="checkout of the public PyTorch code")
    parser.add_argument("--batch", type=int, help="tiles a device call; 1 on CPU, 32 else")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--threads", type=int, default=0, help="CPU cores all may use, 0: all")
    parser.add_argument("--output", type=Path, help="file of tables (.md) or of records (.json)")
    given = parser.parse_args()
    for name in ("sides", "batch", "repeats"):
        values = getattr(given, name)
        if values is not None and np.min(values) < 1:
            parser.error(f"--{name}: expected at least 1, found {np.min(values)}")
    speed_report.check(parser, given.output)
    if given.reference is not None and "base" not in given.sizes:
        parser.error("--reference: the public code is base, which --sizes leaves out")
    if given.threads and hasattr(os, "sched_setaffinity"):  # before either runtime counts cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    with one_line("benchmarks.restoration"):
        reference = None
        if given.reference is not None:
            # else JAX takes most of the memory of a GPU that PyTorch works on as well
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
            reference = Reference(given.reference, given.threads)
        measure(given, reference)
    return 0


def measure(given: argparse.Namespace, reference: Reference | None) -> None:
    """Measures, prints, and writes after each size, so that what was measured is not lost."""
    limits = roofline.limits(given.dtypes, given.repeats)
    batch = given.batch or (1 if limits.platform == "cpu" else 32)
    record = speed_report.start(limits, batch=batch, repeats=given.repeats, whole=[], parts=[])
    for size in dict.fromkeys(given.sizes):
        theirs = reference if size == "base" else None
        upscalers = networks(size, given.dtypes, batch, theirs)
        for side in given.sides:
            print(f"{size}, images of {side}×{side}", file=sys.stderr, flush=True)
            rows = whole(side, upscalers, theirs, limits, given.repeats)
            record["whole"] += [{"size": size, **row} for row in rows]
        for dtype, upscaler in upscalers.items():
            print(f"{size}, parts in {dtype}", file=sys.stderr, flush=True)
            rows = inside(upscaler, limits, dtype, given.repeats)
            record["parts"] += [{"size": size, "dtype": dtype, **row} for row in rows]
        if given.output is not None:
            speed_report.write(record, speed_report.restoration(record), given.output)
    print(speed_report.restoration(record))


if __name__ == "__main__":
    sys.exit(main())
