"""Exported models beside the upscaler: tiles a second, seconds an image, load time, size.

    python -m benchmarks.export [--model NAME|PATH] [--tiles 8] [--batch 1] [--rounds 5]

Each system runs in its own process, warmed up before the first round. Systems take turns within a
round, so that other load on the machine meets all of them; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from maskgit_sr import DEFAULT_MODEL

Works = dict[str, Callable[[], Any]]
"""Workloads of a system by name: ``tiles`` restores the tiles, ``image`` the image."""
_works: Works = {}


def tiles(count: int, side: int) -> np.ndarray:
    """Returns LR tiles, float32 [count, side, side, 3] in [0, 1]."""
    image = common.photograph(side * count).astype(np.float32) / 255
    return np.stack([image[side * k : side * (k + 1), :side] for k in range(count)])


def describe(folder: Path) -> tuple[int, bool]:
    """Returns (largest tile side of an artifact, True if it takes a seed)."""
    info = json.loads((folder / "maskgit_sr.json").read_text())
    return info["tile"]["sides"][-1], info["stochastic"]


def upscaler(given: argparse.Namespace) -> Works:
    """Returns the workloads of the package itself."""
    import jax

    import maskgit_sr

    device = None if given.device == "gpu" else "cpu"
    model = maskgit_sr.load(given.model, batch=given.batch, dtype=given.dtype, device=device)
    lr, options = tiles(given.tiles, model.method.tile.sides[-1]), model.options()
    places, seeds = np.zeros((given.batch, 3), np.int32), np.zeros(given.batch, np.uint32)

    def restore() -> None:
        for begin in range(0, len(lr), given.batch):
            part = lr[begin : begin + given.batch]
            count = len(part)
            jax.device_get(model.run(part, places[:count], seeds[:count], options))

    image = common.photograph(given.side)
    return {"tiles": restore, "image": lambda: model(image)}


def savedmodel(given: argparse.Namespace) -> Works:
    """Returns workloads that call the SavedModel's signatures `tiles` and `image`."""
    import tensorflow as tf

    folder = given.folder / "savedmodel"
    side, stochastic = describe(folder)
    signatures = tf.saved_model.load(str(folder)).signatures
    inputs = {"tiles": tiles(given.tiles, side), "image": common.photograph(given.side)}
    seed = {"seed": tf.constant(0, tf.uint32)} if stochastic else {}

    def work(name: str, value: Any) -> Callable[[], Any]:
        def fetch() -> list[np.ndarray]:
            outputs = signatures[name](**{name: value}, **seed)
            return [output.numpy() for output in outputs.values()]

        return fetch

    return {name: work(name, tf.constant(value)) for name, value in inputs.items()}


def stablehlo(given: argparse.Namespace) -> Works:
    """Returns the workload of the StableHLO runner, which takes tiles only."""
    folder = given.folder / "stablehlo"
    sys.path.insert(0, str(folder))  # of run.py, which an artifact brings along
    import jax
    import run

    side, stochastic = describe(folder)
    call, lr = run.load(folder), tiles(given.tiles, side)

    def restore() -> None:
        for begin in range(0, len(lr), given.batch):
            cut = np.arange(begin, min(begin + given.batch, len(lr)), dtype=np.uint32)
            jax.device_get(call(lr[cut], *((np.uint32(0), cut) if stochastic else ())))

    return {"tiles": restore}


def onnx(given: argparse.Namespace) -> Works:
    """Returns the workloads of the ONNX runner, which takes the image whole, on the CPU."""
    folder = given.folder / "onnx"
    sys.path.insert(0, str(folder))  # of run.py, which an artifact brings along
    import run

    side, _ = describe(folder)
    session, lr, image = run.load(folder), tiles(given.tiles, side), common.photograph(given.side)

    def restore() -> None:
        for begin in range(0, len(lr), given.batch):
            run.restore(session, lr[begin : begin + given.batch])

    def whole() -> np.ndarray:
        return np.rint(run.restore(session, image).clip(0, 1) * 255).astype(np.uint8)

    return {"tiles": restore, "image": whole}


SYSTEMS: dict[str, Callable[[argparse.Namespace], Works]]
SYSTEMS = {"upscaler": upscaler, "savedmodel": savedmodel, "stablehlo": stablehlo, "onnx": onnx}


def warm(system: str, given: argparse.Namespace) -> tuple[float, float]:
    """Loads a system, runs each workload once; returns seconds of (loading, loading and runs)."""
    load = common.timed(SYSTEMS[system], given)
    _works.update(load.result)
    return load.wall, load.wall + sum(common.timed(work).wall for work in _works.values())


def once(what: str) -> float | None:
    """Returns the seconds of a workload of this process's system; None if it has no such one."""
    return common.timed(_works[what]).wall if what in _works else None


def measure(given: argparse.Namespace) -> Sequence[Sequence[object]]:
    """Returns a table row for each system."""
    rows, reference = [], 0.0
    with contextlib.ExitStack() as stack:
        processes = {system: stack.enter_context(common.alone()) for system in given.systems}
        # one after another, so that their load times do not disturb each other
        ready = {name: run.submit(warm, name, given).result() for name, run in processes.items()}
        seconds: dict[tuple[str, str], list[float | None]] = {}
        for _ in range(given.rounds):
            for what in ("tiles", "image"):
                for name, run in processes.items():
                    seconds.setdefault((name, what), []).append(run.submit(once, what).result())
    for name, (load, first) in ready.items():
        took, image = (
            statistics.median(found) if (found := list(filter(None, seconds[name, what]))) else None
            for what in ("tiles", "image")
        )
        assert took is not None
        reference, artifact = reference or took, given.folder / name
        size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
        rate, ratio = f"{given.tiles / took:.2f}", f"{reference / took:.3f}"
        shown = (image and f"{image:.2f}", f"{load:.1f}", f"{first:.1f}")
        rows.append((name, rate, ratio, *shown, f"{size / 1e6:.1f}" if size else None))
    return rows


def main() -> None:
    """Exports the artifacts that are missing, measures, and prints the table."""
    parser = common.parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tiles", type=common.positive, default=8)
    parser.add_argument("--side", type=common.positive, default=128, help="of the image")
    parser.add_argument("--batch", type=common.positive, default=1)
    parser.add_argument("--rounds", type=common.positive, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS)[:3])
    parser.add_argument("--folder", type=Path, help="of artifacts made before, or to make")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        given.folder = given.folder or Path(name)
        for system in given.systems:
            if system != "upscaler" and not (given.folder / system).exists():
                command = [sys.executable, "-m", "maskgit_sr", "export", "--format", system]
                command += ["--model", given.model, "--dtype", given.dtype]
                command += ["--max-batch", str(given.batch)]
                subprocess.run([*command, "--output", str(given.folder / system)], check=True)
        rows = measure(given)
    print(f"{given.model}, {given.dtype}, batches of {given.batch} tiles\n")
    head = f"system|tiles/s|ratio|{given.side}×{given.side} s|load s|first results s|MB"
    print(common.table(head, rows))


if __name__ == "__main__":
    main()
