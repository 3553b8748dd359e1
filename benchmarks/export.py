"""Exported models beside the upscaler: tiles a second, seconds an image, load time, size.

    python -m benchmarks.export [--model NAME|PATH] [--tiles 8] [--batch 1] [--rounds 5]

Each system is a process of its own that is warm before the first round. Rounds are taken in turn,
so that what else the machine does meets all of them; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.inference import photograph
from maskgit_sr import DEFAULT_MODEL

SYSTEMS = ("upscaler", "savedmodel", "stablehlo")
Work = Callable[[], Any]


def tiles(count: int, side: int) -> np.ndarray:
    """Returns float32 [count, side, side, 3] in [0, 1]."""
    image = photograph(side * count).astype(np.float32) / 255
    return np.stack([image[side * k : side * (k + 1), :side] for k in range(count)])


def describe(folder: Path) -> tuple[int, bool]:
    """Returns the largest side of an artifact's tiles, and if it takes a seed."""
    info = json.loads((folder / "maskgit_sr.json").read_text())
    return info["tile"]["sides"][-1], info["stochastic"]


def upscaler(arguments: argparse.Namespace) -> tuple[Work, Work | None]:
    """Returns what restores the tiles, and what restores the image."""
    import jax

    import maskgit_sr

    device = None if arguments.device == "gpu" else "cpu"
    model = maskgit_sr.load(
        arguments.model, batch=arguments.batch, dtype=arguments.dtype, device=device
    )
    lr, options = tiles(arguments.tiles, model.method.tile.sides[-1]), model.options()
    keys = jax.random.split(jax.random.key(0), arguments.batch)
    indices = np.zeros(arguments.batch, np.uint32)
    cuts = range(0, len(lr), arguments.batch)

    def restore() -> None:
        for begin in cuts:
            part = lr[begin : begin + arguments.batch]
            jax.device_get(model.run(part, indices[: len(part)], keys[: len(part)], options))

    image = photograph(arguments.side)
    return restore, lambda: model(image)


def savedmodel(arguments: argparse.Namespace) -> tuple[Work, Work | None]:
    """Returns calls of the signatures `tiles` and `image`."""
    import tensorflow as tf

    folder = arguments.folder / "savedmodel"
    side, stochastic = describe(folder)
    signatures = tf.saved_model.load(str(folder)).signatures
    lr, image = tf.constant(tiles(arguments.tiles, side)), tf.constant(photograph(arguments.side))
    seed = {"seed": tf.constant(0, tf.uint32)} if stochastic else {}

    def fetch(outputs: dict[str, Any]) -> None:
        for value in outputs.values():
            value.numpy()

    return (
        lambda: fetch(signatures["tiles"](tiles=lr, **seed)),
        lambda: fetch(signatures["image"](image=image, **seed)),
    )


def stablehlo(arguments: argparse.Namespace) -> tuple[Work, Work | None]:
    """Returns a call of the runner, which knows tiles only."""
    folder = arguments.folder / "stablehlo"
    sys.path.insert(0, str(folder))
    import jax
    import run

    side, stochastic = describe(folder)
    call, lr = run.load(folder), tiles(arguments.tiles, side)
    cuts = np.split(
        np.arange(len(lr), dtype=np.uint32), range(arguments.batch, len(lr), arguments.batch)
    )

    def restore() -> None:
        for cut in cuts:
            jax.device_get(call(lr[cut], *((np.uint32(0), cut) if stochastic else ())))

    return restore, None


def serve(arguments: argparse.Namespace) -> None:
    """Worker: a line of JSON once warm, then the seconds of each work it is asked for."""
    began = time.perf_counter()
    works = {"upscaler": upscaler, "savedmodel": savedmodel, "stablehlo": stablehlo}
    named = dict(zip(("tiles", "image"), works[arguments.worker](arguments), strict=True))
    loaded = time.perf_counter() - began
    for work in named.values():
        if work is not None:
            work()
    ready = time.perf_counter() - began
    print(json.dumps({"load": loaded, "ready": ready}), flush=True)
    for line in sys.stdin:
        work = named[line.strip()]
        began = time.perf_counter()
        if work is not None:
            work()
        print(json.dumps(time.perf_counter() - began), flush=True)


def ask(worker: subprocess.Popen[str], what: str | None = None) -> Any:
    """The worker's next line of JSON, after a question if there is one."""
    assert worker.stdin is not None and worker.stdout is not None
    if what is not None:
        worker.stdin.write(what + "\n")
        worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"{worker.args!r}: ended early")
    return json.loads(line)


def size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Exports, measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tiles", type=int, default=8)
    parser.add_argument("--side", type=int, default=128, help="of the image")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--folder", type=Path, help="of artifacts made before, or to make")
    parser.add_argument("--worker", choices=SYSTEMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder = arguments.folder or Path(name)
        for system in arguments.systems:
            if system != "upscaler" and not (folder / system).exists():
                command = [sys.executable, "-m", "maskgit_sr.cli", "export", "--format", system]
                command += ["--model", arguments.model, "--dtype", arguments.dtype]
                command += ["--max-batch", str(arguments.batch)]
                subprocess.run([*command, "--output", str(folder / system)], check=True)
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Rounds in turn."""
    shared = [sys.executable, "-m", "benchmarks.export"]
    for name in ("model", "tiles", "side", "batch", "dtype", "device", "folder"):
        shared += [f"--{name}", str(getattr(arguments, name))]
    workers, ready = {}, {}
    for system in arguments.systems:  # one after another: their load times count
        workers[system] = subprocess.Popen(
            [*shared, "--worker", system],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        ready[system] = ask(workers[system])
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for what in ("tiles", "image"):
            for system, worker in workers.items():
                seconds.setdefault((system, what), []).append(ask(worker, what))
    side = arguments.side
    table = Table(
        "system", "tiles/s", "ratio", f"{side}×{side} s", "load s", "first results s", "MB"
    )
    first = arguments.systems[0]
    for system, worker in workers.items():
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()
        took, reference = (statistics.median(seconds[name, "tiles"]) for name in (system, first))
        image = statistics.median(seconds[system, "image"])
        artifact = arguments.folder / system
        table.add_row(
            system,
            f"{arguments.tiles / took:.2f}",
            f"{reference / took:.3f}",
            "–" if system == "stablehlo" else f"{image:.2f}",
            f"{ready[system]['load']:.1f}",
            f"{ready[system]['ready']:.1f}",
            f"{size(artifact) / 1e6:.1f}" if artifact.exists() else "–",
        )
    table.title = f"{arguments.model}, {arguments.dtype}, batches of {arguments.batch} tiles"
    Console().print(table)


if __name__ == "__main__":
    main()
