"""Speed of restoration against the device's limits, and the share of each part in it.

    python -m benchmarks.restoration --sizes base nano --sides 128 512 \
        --dtypes float32 bfloat16 [--reference CHECKOUT] [> FILE.md]

The first table is of whole images, LR sides by `--sides`: all tiles (64 every 32 pixels) in batches
from the host's memory back to it, four decoding steps with critic, controlling module and colour
correction; compilation is excluded. Cutting and blending on the host is the same for everyone, and
a column of its own. The second takes the same program apart, one batch of tiles on the device.
Weights are random at the published shapes, because speed does not depend on their values.

With `--reference` the public PyTorch code restores the same tiles with the same weights (`base`),
in float32 as it is published and by PyTorch's autocast (`benchmarks.references`). All take
turns so that other load on the machine meets each of them; the largest difference from the first
row's tiles stands beside. On a busy CPU use `--threads 1` and compare CPU times: threads that wait
for each other are counted as working.

FLOPs and GB are counted in the traced program, PyTorch's by its own counter; a tile takes the
PyTorch code 2.19 TFLOP and this package 1.75, which encodes the LR tokens once for all steps and
skips the critic after the last one. Peaks, the floor of a part's time and the measured
matrix product: `benchmarks.roofline`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, references, roofline
from configs import realsrt
from maskgit_sr import images
from maskgit_sr.arrays import Execution, Image, Keys, Params, Tokens, parse_dtype
from maskgit_sr.bundles import Metadata
from maskgit_sr.convert.realsrt import map_state
from maskgit_sr.errors import one_line
from maskgit_sr.inference.upscaler import Upscaler, fetch
from maskgit_sr.methods import registry
from maskgit_sr.methods.realsrt import RealSRT, RealSRTOptions
from maskgit_sr.models.transformer import Memory
from maskgit_sr.ops import color

DTYPES = ("float32", "bfloat16")
Row = tuple[object, ...]
WHOLE = "network|LR|system|dtype|tiles|s|ms a tile|CPU ms a tile|largest difference|host's tiling s"
PARTS = "network|dtype|part|times|ms"


def networks(
    size: str, dtypes: Sequence[str], batch: int, reference: references.RealSRT | None
) -> dict[str, Upscaler]:
    """Returns a size in each dtype, all with the weights of ``reference`` or else random ones."""
    device, found = jax.devices()[0], {}
    params: Params = {}
    for dtype in dtypes:
        method = build(size, dtype)
        if not params and reference is not None:
            params = map_state(reference.state, method.config)
        params = params or roofline.random_params(method.shapes())
        metadata = Metadata(method.name, method.describe(), method.scale)
        found[dtype] = Upscaler(method, params, metadata, batch=batch, device=device)
        params = found[dtype].params  # on the device, where one copy serves all
    return found


def build(size: str, dtype: str) -> RealSRT:
    """Returns the method of a config's size, with ``dtype`` as compute dtype."""
    config = realsrt.get_config(size)
    method = registry.build(config.method, config.model.to_dict(), Execution(parse_dtype(dtype)))
    assert isinstance(method, RealSRT)
    return method


def options_of(upscaler: Upscaler) -> RealSRTOptions:
    """Returns the measured options: decoding as in the public code, without confidence."""
    options = upscaler.options(steps=references.STEPS, confidence=False)
    assert isinstance(options, RealSRTOptions)
    return options


def restored(upscaler: Upscaler, tiles: np.ndarray) -> np.ndarray:
    """Returns restored tiles; a batch is fetched while the next ones are computed."""
    options, batch = options_of(upscaler), upscaler.batch
    places, seeds = np.zeros((len(tiles), 3), np.int32), np.zeros(len(tiles), np.uint32)
    places[:, 0] = np.arange(len(tiles))
    started = []
    for begin in range(0, len(tiles), batch):
        part = slice(begin, begin + batch)
        run = upscaler.run(tiles[part], places[part], seeds[part], options)
        started.append((len(tiles[part]), run))
    return np.concatenate([fetch(*part).image for part in started])


class System(NamedTuple):
    """A system: name, precision, [FLOPs, bytes] of a tile, and the call that restores tiles."""

    name: str
    dtype: str
    cost: np.ndarray
    run: Callable[[], np.ndarray]


def take_turns(
    runs: Sequence[Callable[[], np.ndarray]], repeats: int
) -> list[tuple[float, float, np.ndarray]]:
    """Returns (median seconds, median CPU seconds, result) of each, without compilation."""
    # In turns, so that other load on the machine meets all of them.
    results = [run() for run in runs]
    rounds = [[common.timed(run)[:2] for run in runs] for _ in range(repeats)]
    medians = np.median(np.array(rounds), axis=0)
    return [(wall, cpu, result) for (wall, cpu), result in zip(medians, results, strict=True)]


def whole(
    side: int,
    upscalers: dict[str, Upscaler],
    reference: references.RealSRT | None,
    limits: roofline.Limits,
    repeats: int,
) -> list[Row]:
    """Returns a row for each system that restores an image [side, side], less size and side."""
    first = next(iter(upscalers.values()))
    picture = images.from_array(common.photograph(side))
    mosaic = first.mosaic(picture, options_of(first))
    cut = common.timed(mosaic.cut, range(mosaic.count))
    tiles, systems = cut.result, []
    if reference is not None:
        for how in reference.precisions:
            run = partial(reference.restore, tiles, how, first.batch)
            systems.append(System("PyTorch", how, np.array([reference.flops, 0.0]), run))
    for dtype, upscaler in upscalers.items():
        run = partial(restored, upscaler, tiles)
        systems.append(System("maskgit_sr", dtype, work_of_a_tile(upscaler), run))
    found = take_turns([system.run for system in systems], repeats)
    expected, count = found[0][2], len(tiles)
    tiling = cut.wall + sum(common.timed(mosaic.add, tile).wall for tile in expected)
    return [
        (
            *(system.name, system.dtype, count, f"{wall:.3f}"),
            *(f"{1e3 * spent / count:.2f}" for spent in (wall, cpu)),
            f"{float(np.abs(image - expected).max()):.1e}",
            f"{tiling:.3f}",
            *limits.cells(system.cost * count, wall, system.dtype),
        )
        for system, (wall, cpu, image) in zip(systems, found, strict=True)
    ]


def work_of_a_tile(upscaler: Upscaler) -> np.ndarray:
    """Returns [FLOPs, bytes] of the restoration of one tile."""
    method, options, side = upscaler.method, options_of(upscaler), upscaler.method.tile.sides[0]
    tile = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    keys = jax.random.split(jax.random.key(0), 1)
    return roofline.traced(
        lambda params, lr: method.restore(params, lr, keys, options).image, upscaler.params, tile
    )


class RunPart(Protocol):
    """Callable that runs a part and returns its results, arrays or their shapes."""

    def __call__(self, part: str, times: int, call: Callable[..., Any], *arguments: Any) -> Any: ...


WITHIN = "· "
"""Prefix of the names of the parts of decoding."""


def take_apart(
    method: RealSRT, options: RealSRTOptions, params: Params, lr: Image, keys: Keys, run: RunPart
) -> None:
    """Runs the parts of `RealSRT.restore` on LR tiles [B, tile, tile, 3], each by itself.

    A test checks that their FLOPs add up to those of the whole.

    Raises:
        ValueError: options with which a restoration has other parts.
    """
    steered = options.rule == "critic" and options.control
    if not steered or options.confidence or options.steps < 2:
        raise ValueError("parts: expected critic and control, no confidence, at least two steps")

    def tokenize(params: Params, upsampled: Image) -> Tokens:
        return method.tokenize(params, upsampled).reshape(upsampled.shape[0], -1)

    def memory(params: Params, lr_tokens: Tokens) -> list[Memory]:
        return [method.memory(params, name, lr_tokens) for name in ("generator", "critic")]

    def decode(params: Params, upsampled: Image, keys: Keys) -> Tokens:
        return method.generate(params, upsampled, keys, options).tokens

    def generator(params: Params, tokens: Tokens, memory: Memory) -> jax.Array:
        mask = jnp.ones(tokens.shape, bool)
        return method.logits(params, "generator", tokens, mask, memory)

    def critic(params: Params, tokens: Tokens, memory: Memory) -> jax.Array:
        return method.logits(params, "critic", tokens, None, memory)

    def render(params: Params, tokens: Tokens, upsampled: Image) -> Image:
        grid = tokens.reshape(tokens.shape[0], *method.grid)
        return method.render(params, grid, upsampled, options.control)

    def correct(image: Image, lr: Image) -> Image:
        return color.correct(image, lr, options.color_fix)

    upsampled = run("upsampling", 1, method.upsample, lr)
    lr_tokens = run(f"{WITHIN}tokens of LR", 1, tokenize, params, upsampled)
    memories = run(f"{WITHIN}LR memory", 1, memory, params, lr_tokens)
    tokens = run("decoding", 1, decode, params, upsampled, keys)
    run(f"{WITHIN}generator pass", options.steps, generator, params, tokens, memories[0])
    run(f"{WITHIN}critic pass", options.steps - 1, critic, params, tokens, memories[1])
    image = run("control and decoder", 1, render, params, tokens, upsampled)
    run("colour", 1, correct, image, lr)


def inside(upscaler: Upscaler, limits: roofline.Limits, dtype: str, repeats: int) -> list[Row]:
    """Returns the rows of the parts of one batch's restoration, and of the whole."""
    method, options, batch = upscaler.method, options_of(upscaler), upscaler.batch
    assert isinstance(method, RealSRT)
    side = method.tile.sides[0]
    tiles = np.random.default_rng(0).random((batch, side, side, 3), np.float32)
    keys = jax.random.split(jax.random.key(0), batch)
    rows: list[Row] = []

    def add(name: str, times: int, taken: float, cost: np.ndarray) -> None:
        rows.append((name, times, f"{1e3 * taken:.3f}", *limits.cells(cost, taken, dtype)))

    def run(part: str, times: int, call: Callable[..., Any], *arguments: Any) -> Any:
        started = partial(jax.jit(call), *arguments)
        add(part, times, common.seconds(started, repeats), roofline.traced(call, *arguments))
        return started()

    take_apart(method, options, upscaler.params, jax.device_put(tiles), keys, run)
    places, seeds = np.zeros((batch, 3), np.int32), np.zeros(batch, np.uint32)
    taken = common.seconds(lambda: upscaler.run(tiles, places, seeds, options).image, repeats)
    add("all of it", 1, taken, batch * work_of_a_tile(upscaler))
    return rows


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--sizes", nargs="+", default=["base"], choices=realsrt.SIZES)
    parser.add_argument("--sides", nargs="+", type=common.positive, default=[128, 512], help="LR")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--reference", type=Path, help="checkout of the public PyTorch code")
    parser.add_argument("--batch", type=common.positive, help="tiles a call; 1 on CPU, 32 else")
    parser.add_argument("--repeats", type=common.positive, default=5, help="measurements of each")
    parser.add_argument("--threads", type=int, default=0, help="CPU cores all may use, 0: all")
    given = parser.parse_args()
    if given.reference is not None and "base" not in given.sizes:
        parser.error("--reference: the public code is base, which --sizes leaves out")
    if given.threads and hasattr(os, "sched_setaffinity"):  # before either runtime counts cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    with one_line("benchmarks.restoration"):
        reference = None
        if given.reference is not None:
            # else JAX takes most of the memory of a GPU that PyTorch works on as well
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
            reference = references.RealSRT(given.reference, given.threads)
        limits = roofline.limits(given.dtypes, given.repeats)
        batch = given.batch or (1 if limits.platform == "cpu" else 32)
        print(f"{limits.describe()}; jax {jax.__version__}, batches of {batch} tiles", flush=True)
        for size in dict.fromkeys(given.sizes):
            theirs = reference if size == "base" else None
            upscalers = networks(size, given.dtypes, batch, theirs)
            print(f"\n{common.table(f'{WHOLE}|{roofline.HEAD}', ())}")
            for side in given.sides:
                for row in whole(side, upscalers, theirs, limits, given.repeats):
                    print(common.line(size, f"{side}×{side}", *row), flush=True)
            print(f"\n{common.table(f'{PARTS}|{roofline.HEAD}', ())}")
            for dtype, upscaler in upscalers.items():
                for row in inside(upscaler, limits, dtype, given.repeats):
                    print(common.line(size, dtype, *row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
