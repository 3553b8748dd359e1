"""Mutated pictures and bundles are read or refused in one line, in little time and memory.

    python tests/drills/fuzz.py [--pictures 8000] [--bundles 5000] [--seed 0] [--processes 2]
    python tests/drills/fuzz.py --case picture:SEED [--save FILE]

A case is a function of its kind and seed alone. Processes run the cases one by one and say on a
pipe which one begins and how it ended; one that says nothing for `HANG` seconds of its own, or
takes more than `KILL` bytes, is killed and another goes on behind its case. Seconds are of the
processor, since others may work here too. Exit code 1 if anything was found.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib
import json
import os
import resource
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

HANG, STILL = 5.0, 60.0
"""Seconds of the processor, and of the clock for one that does nothing at all."""
MEMORY, KILL = 1_500_000_000, 4_000_000_000
"""Bytes over those of the idle process: what counts as a finding, and what is ended at once."""
LINE = 500
"""Longest message that is still one line, in characters."""
MODULES = {"picture": "fuzz_pictures", "bundle": "fuzz_bundles"}


class Fault(Exception):
    """Something that a case must not do."""


def refusal(error: Exception) -> str:
    """Returns the message of a mistake.

    Raises:
        Fault: it is not one printable line of at most `LINE` characters.
    """
    text = str(error)
    if not text.isprintable() or not 0 < len(text) <= LINE:
        raise Fault(f"not one line of {LINE} characters: {len(text)}: {text[:200]!r}")
    return text


# ---------------------------------------------------------------- in the processes


def memory(field: str) -> int:
    """Returns a value of this process's memory in bytes: VmRSS or its peak VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise Fault(f"no {field} in /proc/self/status")


def attempt(
    trial: Callable[[bytes, int], tuple[str, str]], data: bytes, seed: int
) -> dict[str, Any]:
    """Returns how a case ended: outcome, seconds, bytes over those before, message or traceback."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory("VmRSS"), time.process_time()
    try:
        outcome, text = trial(data, seed)
    except Exception as error:  # of any kind: that is what is looked for
        outcome, text = "FAULT", "".join(traceback.format_exception(error))
    seconds = time.process_time() - began
    taken = memory("VmHWM") - before
    return {"outcome": outcome, "seconds": seconds, "bytes": taken, "text": text}


def work(kind: str, first: int, last: int, step: int) -> None:
    """Runs the cases `first`, `first + step` … below `last`, telling of each on descriptor 3."""
    module = importlib.import_module(MODULES[kind])
    module.seeds()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Whoever watches may be too slow for the machine's own memory.
    size = memory("VmSize") + 2 * KILL
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    with os.fdopen(3, "w", buffering=1) as pipe:
        for seed in range(first, last, step):
            print(json.dumps({"seed": seed}), file=pipe)
            data = module.case(seed)
            print(json.dumps({"seed": seed, **attempt(module.trial, data, seed)}), file=pipe)


# ---------------------------------------------------------------- watching them


@dataclasses.dataclass
class Worker:
    """A process on cases first, first + step …; `seed` is the one under way, None between two."""

    kind: str
    next: int
    last: int
    step: int
    process: Any = None
    seed: int | None = None
    began: float = 0.0
    worked: float = 0.0
    idle: int = 0
    rest: bytes = b""

    def start(self) -> None:
        """Starts a process on the cases that are left."""
        read, write = os.pipe()
        own = [sys.executable, __file__, "--work", self.kind]
        own += [str(n) for n in (self.next, self.last, self.step)]
        self.process = subprocess.Popen(
            own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.dup2(write, 3),
            close_fds=False,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        os.close(write)
        self.pipe, self.seed, self.rest = read, None, b""
        self.began = time.monotonic()

    def resident(self) -> int:
        """Returns its resident bytes, 0 if it has ended."""
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096
        except (OSError, IndexError):
            return 0

    def seconds(self) -> float:
        """Returns its processor time, 0 if it has ended."""
        try:
            parts = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yields what it has said since."""
        *whole, self.rest = (self.rest + os.read(self.pipe, 1 << 16)).split(b"\n")
        yield from map(json.loads, whole)

    def over(self) -> str | None:
        """Returns why its case has to be ended, or None."""
        if self.seed is None:
            return None
        if self.seconds() - self.worked > HANG or time.monotonic() - self.began > STILL:
            return f"hangs: more than {HANG:g} s"
        if self.resident() - self.idle > KILL:
            return f"memory: more than {KILL / 1e9:g} GB"
        return None

    def end(self) -> None:
        """Kills the process."""
        self.process.kill()
        self.process.wait()
        os.close(self.pipe)


def watch(workers: list[Worker]) -> Iterator[tuple[Worker, dict[str, Any]]]:
    """Yields the end of every case, those that were ended here or took the process along too."""
    with selectors.DefaultSelector() as ready:

        def start(worker: Worker) -> None:
            worker.start()
            ready.register(worker.pipe, selectors.EVENT_READ, worker)

        def stop(worker: Worker) -> None:
            ready.unregister(worker.pipe)
            worker.end()

        for worker in workers:
            start(worker)
        try:
            while ready.get_map():
                for key, _ in ready.select(0.02):
                    worker = key.data
                    said = list(worker.lines())
                    for line in said:
                        if "outcome" in line:
                            worker.seed, worker.next = None, line["seed"] + worker.step
                            yield worker, line
                        else:
                            worker.seed, worker.began = line["seed"], time.monotonic()
                            worker.idle, worker.worked = worker.resident(), worker.seconds()
                    if said or worker.process.poll() is None:
                        continue
                    stop(worker)
                    if worker.next >= worker.last:
                        continue
                    code = worker.process.returncode
                    yield worker, ended(worker, f"crash: the process ended with code {code}")
                    start(worker)
                for worker in [key.data for key in list(ready.get_map().values())]:
                    if (why := worker.over()) is not None:
                        stop(worker)
                        yield worker, ended(worker, why)
                        start(worker)
        finally:
            for key in list(ready.get_map().values()):
                stop(key.data)


def ended(worker: Worker, why: str) -> dict[str, Any]:
    """Returns the end of the case under way of a process that was stopped, or has stopped."""
    seed = worker.next if worker.seed is None else worker.seed
    worker.seed, worker.next = None, seed + worker.step
    seconds = time.monotonic() - worker.began
    return {"seed": seed, "outcome": "FAULT", "seconds": seconds, "bytes": 0, "text": why}


@dataclasses.dataclass
class Tally:
    """What came of the cases of one kind."""

    kind: str
    limit: float  # seconds, of a refusal
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    slowest: tuple[float, int] = (0.0, 0)
    largest: tuple[int, int] = (0, 0)
    faults: int = 0

    def add(self, line: dict[str, Any]) -> None:
        """Counts a case, and prints it if it is a finding."""
        seed, seconds, taken = line["seed"], line["seconds"], line["bytes"]
        self.outcomes[line["outcome"]] += 1
        self.slowest = max(self.slowest, (seconds, seed))
        self.largest = max(self.largest, (taken, seed))
        why = []
        if line["outcome"] == "FAULT":
            why.append(line["text"].strip())
        limit = self.limit if line["outcome"] == "refused" else HANG
        if seconds > limit:
            why.append(f"{line['outcome']} in {seconds:.1f} s, expected at most {limit:g}")
        if taken > MEMORY:
            why.append(f"took {taken / 1e9:.2f} GB, expected at most {MEMORY / 1e9:g}")
        if why:
            self.faults += 1
            print(f"{self.kind}:{seed}: " + "; ".join(why), flush=True)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        return (
            f"{self.kind}: {self.outcomes.total()} cases: {outcomes}; slowest "
            f"{self.slowest[0]:.2f} s ({self.kind}:{self.slowest[1]}), largest "
            f"{self.largest[0] / 1e6:.0f} MB ({self.kind}:{self.largest[1]}); "
            f"{self.faults} findings"
        )


def run(kind: str, count: int, seed: int, processes: int) -> Tally:
    """Returns what came of `count` cases from `seed` on."""
    limit = {"picture": HANG, "bundle": 1.0}[kind]
    tally = Tally(kind, limit)
    first = seed * 1_000_000
    workers = [Worker(kind, first + i, first + count, processes) for i in range(processes)]
    for _, line in watch([worker for worker in workers if worker.next < worker.last]):
        tally.add(line)
    return tally


def single(text: str, save: str | None) -> int:
    """Runs one case in this process."""
    kind, _, seed = text.partition(":")
    module = importlib.import_module(MODULES[kind])
    data = module.case(int(seed))
    if save:
        Path(save).write_bytes(data)
    print(f"{kind}:{seed}: {len(data)} bytes: {module.told(int(seed))}", flush=True)
    line = attempt(module.trial, data, int(seed))
    print(f"{line['outcome']} in {line['seconds']:.2f} s, {line['bytes'] / 1e6:.0f} MB")
    print(line["text"])
    return int(line["outcome"] == "FAULT")


def main() -> int:
    """Command-line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,500 of each, in about a minute")
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--bundles", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--case", help="picture:SEED or bundle:SEED, here and alone")
    parser.add_argument("--save", help="file to write the case's bytes to")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        kind, *numbers = given.work
        work(kind, *map(int, numbers))
        return 0
    if given.case:
        return single(given.case, given.save)
    usual = {"picture": 8000, "bundle": 5000}
    if given.quick:
        usual = dict.fromkeys(usual, 2500)
    faults = 0
    for kind, count in (("picture", given.pictures), ("bundle", given.bundles)):
        began = time.monotonic()
        tally = run(kind, usual[kind] if count is None else count, given.seed, given.processes)
        print(f"{tally} ({time.monotonic() - began:.0f} s)", flush=True)
        faults += tally.faults
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
