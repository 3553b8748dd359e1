"""Batch on Beam's DirectRunner beside the command line, and a run that is killed and started again.

    python -m benchmarks.beam --input PHOTOS                  # seconds, memory, equal outputs
    python -m benchmarks.beam --input PHOTOS --kill 120       # SIGKILL after so many outputs

Every run is a process of its own, so its time includes start-up and compilation.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import common
from maskgit_sr import DEFAULT_MODEL, images

COMMANDS = {
    "maskgit-sr upscale": ("maskgit_sr.cli", "upscale"),
    "launch.beam_upscale": ("launch.beam_upscale", "--input"),
}


def start(name: str, source: str, output: Path, model: str) -> subprocess.Popen[bytes]:
    """Starts one of `COMMANDS` and returns its process."""
    module, word = COMMANDS[name]
    words = ["--output", str(output), "--model", model]
    return subprocess.Popen([sys.executable, "-m", module, word, source, *words])


def finish(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Waits for a process; returns its CPU seconds and peak resident memory in MiB.

    Raises:
        RuntimeError: its exit code is not 0.
    """
    _, status, usage = os.wait4(process.pid, 0)  # of this child alone, which getrusage cannot tell
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def stamps(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Returns (inode, modification time in ns, content) of all files, hidden ones included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    states = {path: path.stat() for path in files}
    return {
        path.relative_to(folder).as_posix(): (state.st_ino, state.st_mtime_ns, path.read_bytes())
        for path, state in states.items()
    }


def compare(source: str, model: str, folder: Path) -> None:
    """Prints time and memory of both commands, and how their outputs differ."""
    found = []
    for name in COMMANDS:
        run = common.timed(lambda name=name: finish(start(name, source, folder / name, model)))
        count, (cpu, memory) = len(stamps(folder / name)), run.result
        found.append((run.wall, cpu))
        print(
            f"{name:20} {count} pictures, {run.wall:.1f} s (CPU {cpu:.1f} s), "
            f"{count / run.wall:.2f} a second, peak {memory:.0f} MiB",
            flush=True,
        )
    wall, used = (plain / beam for plain, beam in zip(*found, strict=True))
    print(f"throughput of Beam over the command line: {wall:.2f}, by CPU {used:.2f}")
    one, other = (folder / name for name in COMMANDS)
    apart = []
    for path in one.rglob("*.png"):
        pair = (path, other / path.relative_to(one))
        # Signed, since a difference of uint8 wraps around.
        first, second = (images.read(file).color.astype(int) for file in pair)
        apart.append(int(abs(first - second).max()))
    differing = sum(levels > 0 for levels in apart)
    print(f"outputs that differ: {differing}, by at most {max(apart, default=0)} levels")


def kill(source: str, model: str, output: Path, after: int) -> None:
    """Kills a run after ``after`` outputs, starts it again, and checks the outputs."""
    process = start("launch.beam_upscale", source, output, model)
    while process.poll() is None and len(list(output.glob("*.png"))) < after:
        time.sleep(0.02)
    process.kill()
    process.wait()
    left = stamps(output)
    before = {name: stamp for name, stamp in left.items() if name.endswith(".png")}
    parts = sum(name.endswith(".part") for name in left)
    print(f"killed: {len(before)} outputs, {parts} unfinished files", flush=True)
    run = common.timed(lambda: finish(start("launch.beam_upscale", source, output, model)))
    files = stamps(output)
    # The inode tells: outputs are renamed into place, and the same bytes may come again.
    again = sum(files[name] != stamp for name, stamp in before.items())
    for name in files:
        images.read(output / name)  # raises for a file that is not whole
    expected = sum(path.is_file() for path in Path(source).iterdir())
    print(
        f"started again: {len(files)} files for {expected} pictures, {again} written twice, "
        f"all whole; {run.wall:.1f} s, peak {run.result[1]:.0f} MiB"
    )


def main() -> None:
    """Runs the command."""
    parser = common.parser(__doc__)
    parser.add_argument("--input", required=True, help="folder of photographs")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--kill", type=common.positive, help="after so many outputs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.kill is None:
            compare(given.input, given.model, Path(folder))
        else:
            kill(given.input, given.model, Path(folder), given.kill)


if __name__ == "__main__":
    main()
