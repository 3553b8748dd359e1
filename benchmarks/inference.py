"""Restoration speed and memory.

    python -m benchmarks.inference [--model NAME|PATH] [--sides 128 256]

Each input size runs in a process of its own, so that peak memory is that size's. Seconds are the
median of the runs after the first, which compiles. "peak over" is peak memory less what the process
had before the first image.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from maskgit_sr import DEFAULT_MODEL


def photograph(side: int) -> np.ndarray:
    """A smooth picture with some texture, uint8 [side, side, 3]; content does not matter."""
    y, x = np.mgrid[:side, :side] / side
    rng = np.random.default_rng(0)
    base = np.stack([x, y, (x + y) / 2], -1) * 200 + rng.normal(0, 12, (side, side, 3))
    return np.clip(base + 20, 0, 255).astype(np.uint8)


def measure(
    model: str, side: int, runs: int, batch: int | None, device: str | None
) -> dict[str, Any]:
    """Returns seconds, tiles and peak memory (bytes) of one input size in this process."""
    import maskgit_sr
    from maskgit_sr import images

    upscaler = maskgit_sr.load(model, batch=batch, device=device)
    picture = photograph(side)
    before = _peak()
    began = time.perf_counter()
    upscaler(picture, confidence=False)
    first = time.perf_counter() - began
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        upscaler(picture, confidence=False)
        seconds.append(time.perf_counter() - began)
    return {
        "side": side,
        "tiles": upscaler.mosaic(
            images.from_array(picture), upscaler.options(confidence=False)
        ).count,
        "scale": upscaler.method.scale,
        "first": first,
        "seconds": statistics.median(seconds),
        "peak": _peak(),
        "before": before,
        "device": f"{upscaler.device.platform} {upscaler.device.device_kind}",
        "batch": upscaler.batch,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--device")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        found = measure(
            arguments.model, arguments.one, arguments.runs, arguments.batch, arguments.device
        )
        sys.stdout.write(json.dumps(found))
        return
    table = Table(
        "input",
        "tiles",
        "first run s",
        "seconds",
        "tiles/s",
        "peak MB",
        "peak over MB",
        "images MB",
    )
    rows = []
    for side in arguments.sides:
        command = [sys.executable, "-m", "benchmarks.inference", "--model", arguments.model]
        command += ["--one", str(side), "--runs", str(arguments.runs)]
        for name in ("batch", "device"):
            if getattr(arguments, name) is not None:
                command += [f"--{name}", str(getattr(arguments, name))]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(row)
        table.add_row(
            f"{side}×{side}",
            str(row["tiles"]),
            f"{row['first']:.1f}",
            f"{row['seconds']:.2f}",
            f"{row['tiles'] / row['seconds']:.1f}",
            f"{row['peak'] / 1e6:.0f}",
            f"{(row['peak'] - row['before']) / 1e6:.0f}",
            f"{side * side * 3 * (1 + row['scale'] ** 2) / 1e6:.0f}",
        )
    table.title = f"{arguments.model}, {rows[0]['device']}, batches of {rows[0]['batch']} tiles"
    Console().print(table)


if __name__ == "__main__":
    main()
