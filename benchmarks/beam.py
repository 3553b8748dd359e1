"""Batch on Beam's DirectRunner beside the command line, and a run that is killed and started again.

    python -m benchmarks.beam --input PHOTOS                  # seconds, memory, equal outputs
    python -m benchmarks.beam --input PHOTOS --kill 120       # SIGKILL after so many outputs

Every run is a process of its own, so its time holds start-up and compilation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from maskgit_sr import DEFAULT_MODEL, images

Stamp = tuple[int, int, bytes]


def start(module: str, *words: str) -> subprocess.Popen[bytes]:
    """Starts a program of this repository."""
    return subprocess.Popen([sys.executable, "-m", module, *words])


def finish(process: subprocess.Popen[bytes], began: float) -> tuple[float, float, float]:
    """Returns seconds since `began`, seconds on cores, and peak resident memory in MiB.

    Raises:
        RuntimeError: it failed.
    """
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - began, cpu, usage.ru_maxrss / 1024


def stamps(folder: Path) -> dict[str, Stamp]:
    """Returns inode, time and content of all files, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    states = {path: path.stat() for path in files}
    return {
        path.relative_to(folder).as_posix(): (state.st_ino, state.st_mtime_ns, path.read_bytes())
        for path, state in states.items()
    }


def compare(source: str, model: str, folder: Path) -> None:
    """Prints time and memory of both, and where their outputs differ."""
    found = {}
    for name, module, words in (
        ("maskgit-sr upscale", "maskgit_sr.cli", ["upscale", source, "--output"]),
        ("launch.beam_upscale", "launch.beam_upscale", ["--input", source, "--output"]),
    ):
        output, began = folder / name, time.perf_counter()
        found[name] = finish(start(module, *words, str(output), "--model", model), began)
        count = len(stamps(output))
        seconds, cpu, memory = found[name]
        print(
            f"{name:20} {count} pictures, {seconds:.1f} s (CPU {cpu:.1f} s), "
            f"{count / seconds:.2f} a second, peak {memory:.0f} MiB",
            flush=True,
        )
    plain, beam = found.values()
    ratios = [plain[i] / beam[i] for i in (0, 1)]
    print(f"throughput of Beam over the command line: {ratios[0]:.2f}, by CPU {ratios[1]:.2f}")
    one, other = (folder / name for name in found)
    differing, most = 0, 0
    for path in one.rglob("*.png"):
        first, second = (
            images.read(root / path.relative_to(one)).color.astype(int) for root in (one, other)
        )
        apart = int(abs(first - second).max())
        differing, most = differing + bool(apart), max(most, apart)
    print(f"outputs that differ: {differing}, by at most {most} levels")


def kill(source: str, model: str, output: Path, after: int) -> None:
    """Kills a run after so many outputs, starts it again, and checks what is there."""
    words = ["--input", source, "--output", str(output), "--model", model]
    process = start("launch.beam_upscale", *words)
    while process.poll() is None and len(list(output.glob("*.png"))) < after:
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = {name: stamp for name, stamp in stamps(output).items() if name.endswith(".png")}
    parts = sum(name.endswith(".part") for name in stamps(output))
    print(f"killed: {len(before)} outputs, {parts} unfinished files", flush=True)
    seconds, _, memory = finish(start("launch.beam_upscale", *words), time.perf_counter())
    files = stamps(output)
    again = sum(files[name] != stamp for name, stamp in before.items())
    for name in files:
        images.read(output / name)  # a half file raises
    expected = sum(path.is_file() for path in Path(source).iterdir())
    print(
        f"started again: {len(files)} files for {expected} pictures, {again} written twice, "
        f"all whole; {seconds:.1f} s, peak {memory:.0f} MiB"
    )


def main() -> None:
    """Command-line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, help="folder of photographs")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--kill", type=int, help="after so many outputs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.kill is None:
            compare(given.input, given.model, Path(folder))
        else:
            kill(given.input, given.model, Path(folder), given.kill)


if __name__ == "__main__":
    main()
