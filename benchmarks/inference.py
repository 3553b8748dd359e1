"""Restoration speed and memory.

    python -m benchmarks.inference [--model NAME|PATH] [--sides 128 256]

Each input size runs in its own process, so that peak memory is that size's. Seconds are the median
of the runs after the first, which compiles. "peak over" is the peak memory less that of the process
before the first image.
"""

from __future__ import annotations

import resource
import statistics

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


def _peak() -> float:
    """Returns the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Measures all sizes and prints the table."""
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
    print(f"{found[0][0]}\n\n{common.table(head, (row for _, row in found))}")


if __name__ == "__main__":
    main()
