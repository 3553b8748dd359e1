"""Restoration speed and memory.

    python -m benchmarks.inference [--model NAME|PATH] [--sides 128 256]

Each input size runs in its own process, so that peak memory is that size's. Seconds are the median
of the runs after the first, which compiles. "peak over" is the peak memory less that of the process
before the first image.

A second table has the starts of `maskgit-sr upscale` on a file of 128×128, seconds and CPU seconds
of the whole command: the first with an empty folder of compiled programs, and the median of later
ones.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import common
from maskgit_sr import DEFAULT_MODEL


def measure(
    model: str, side: int, runs: int, batch: int | None, device: str | None
) -> tuple[str, tuple[object, ...]]:
    """Returns (title, table row) of one input size, measured in this process."""
    import maskgit_sr
    from maskgit_sr import images

    upscaler = maskgit_sr.load(model, batch=batch, device=device)
    image = common.photograph(side)
    before = _peak()
    first, *others = (
        common.timed(lambda: upscaler(image, confidence=False)).wall for _ in range(1 + runs)
    )
    seconds, peak = statistics.median(others), _peak()
    mosaic = upscaler.mosaic(images.from_array(image), upscaler.options(confidence=False))
    held = side * side * 3 * (1 + upscaler.method.scale**2) / 1e6  # input and output, uint8
    numbers = (peak, peak - before, held)
    speeds = (f"{first:.1f}", f"{seconds:.2f}", f"{mosaic.count / seconds:.1f}")
    row = (f"{side}×{side}", mosaic.count, *speeds, *(f"{megabytes:.0f}" for megabytes in numbers))
    device_kind = f"{upscaler.device.platform} {upscaler.device.device_kind}"
    return f"{model}, {device_kind}, batches of {upscaler.batch} tiles", row


def starts(model: str, runs: int, device: str | None) -> list[tuple[object, ...]]:
    """Returns the table rows of the first start and of the later ones, each in its own process."""
    from maskgit_sr import images

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.png", Path(folder) / "out.png"
        images.write(images.from_array(common.photograph(128)), source)
        command = [sys.executable, "-m", "maskgit_sr", "upscale", str(source)]
        command += ["-o", str(target), "--overwrite", "--model", model]
        command += ["--device", device] if device else []
        environment = {**os.environ, "XDG_CACHE_HOME": folder}

        def start() -> tuple[float, float]:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            run = common.timed(
                lambda: subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return run.wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        first, *others = (start() for _ in range(1 + runs))
    later = tuple(statistics.median(part) for part in zip(*others, strict=True))
    rows = {"first start": first, "later start": later}
    return [(name, *(f"{part:.2f}" for part in parts)) for name, parts in rows.items()]


def _peak() -> float:
    """Returns the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Measures all sizes and the starts, and prints the tables."""
    parser = common.parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--sides", type=common.positive, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--runs", type=common.positive, default=3)
    parser.add_argument("--batch", type=common.positive)
    parser.add_argument("--device")
    given = parser.parse_args()
    found = []
    for side in given.sides:
        with common.alone() as process:
            job = process.submit(measure, given.model, side, given.runs, given.batch, given.device)
            found.append(job.result())
    head = "input|tiles|first run s|seconds|tiles/s|peak MB|peak over MB|images MB"
    print(f"{found[0][0]}\n\n{common.table(head, (row for _, row in found))}\n")
    rows = starts(given.model, given.runs, given.device)
    print(common.table("upscale 128×128|seconds|CPU seconds", rows))


if __name__ == "__main__":
    main()
