"""Attacks the HTTP server, and measures what normal clients notice of it.

    python tests/drills/serve_attack.py [--requests 20]

The server runs with its default limits and a model that costs nothing but the time that
realsrt-nano takes for a tile on two cores, in which the device's thread sleeps. Asserts, with eight
clients of each kind of `attackers` at work: 95 % of normal requests are answered within twice their
usual time, measured before and after; the memory of all of the server's processes keeps to the sum
that docs/serving.md states; SIGTERM ends it within its grace and two seconds; the log has few
lines. Exit code 1 if one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import httpx
import jax
import numpy as np
from attackers import KINDS

from maskgit_sr import images
from maskgit_sr.bundles import Metadata
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.subpixel import Subpixel
from maskgit_sr.serving import app, server
from maskgit_sr.serving.request import Limits
from maskgit_sr.serving.service import Service

ROOT = Path(__file__).resolve().parents[2]
GRACE, DEVICE = 2.0, 0.6  # seconds
# docs/serving.md, "Memory", of the default limits; bytes beside those of the idle server
DOCUMENTED = 256e6 + 512 * 0.4e6 + 24 * (64e6 + 2 * 32e6 + 64 * 4e6) + 8e6 * 0.5e3


class Slow(Upscaler):
    """The ×2 example, at a device that takes its time."""

    def run(self, *given: Any) -> Any:
        """A device call."""
        time.sleep(DEVICE)
        return super().run(*given)


def serve() -> None:
    """Serves on a free port, which it prints."""
    method = Subpixel()
    params, _ = method.init(jax.random.key(0), method.groups)
    metadata = Metadata(method.name, {}, method.scale)
    upscaler = Slow(method, params, metadata, batch=1, device=jax.devices("cpu")[0])
    service = Service("slow", Limits())
    listening = server.bind("127.0.0.1", 0)

    def load() -> None:
        service.start(upscaler)
        print(listening.getsockname()[1], flush=True)

    made = server.make(app.build(service), service.limits)
    asyncio.run(server.run(service, made, listening, load, GRACE))


@contextlib.contextmanager
def started(
    name: str, *options: object, nice: str = "0", log: TextIO | None = None
) -> Iterator[Any]:
    """(process, its first line); killed afterwards."""
    process = subprocess.Popen(
        ["nice", "-n", nice, sys.executable, ROOT / "tests" / "drills" / name, *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def memory(pid: int) -> int:
    """Bytes of the server and its codec processes; what they share counts once."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    leaders = [leader for path in tasks for leader in path.read_text().split()]
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            group = folder.joinpath("stat").read_text().rsplit(")", 1)[1].split()[2]
            if folder.name == str(pid) or group in leaders:
                lines = folder.joinpath("smaps_rollup").read_text().splitlines()
                total += next(1024 * int(line.split()[1]) for line in lines if "Pss:" in line)
    return total


def ask(client: httpx.Client, data: bytes, count: int) -> list[float]:
    """Seconds of `count` requests, one after the other; infinite where one is not answered."""
    found = []
    for _ in range(count):
        began = time.monotonic()
        status: int | str
        try:
            status = client.post("/upscale", content=data).status_code
        except httpx.HTTPError as error:
            status = type(error).__name__
        found.append(time.monotonic() - began if status == 200 else float("inf"))
        if status != 200:
            print(f"  a normal request got {status}", flush=True)
    return found


def stop(process: subprocess.Popen[str]) -> str | None:
    """Sends SIGTERM; returns what is wrong with the end."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(GRACE + 10)
    except subprocess.TimeoutExpired:
        code = None
    seconds = time.monotonic() - began
    if code == 0 and seconds <= GRACE + 2:
        return None
    return f"SIGTERM: exit code {code} after {seconds:.1f} s, expected 0 within {GRACE + 2} s"


def load(requests: int, log: TextIO) -> list[str]:
    """All attackers at a time; returns what does not hold."""
    samples = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)  # two tiles
    data = images.to_bytes(images.from_array(samples), "PNG")[0]
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            most[0] = max(most[0], memory(process.pid))

    with (
        started("serve_attack.py", "--serve", log=log) as (process, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=150) as client,
    ):
        ask(client, data, 3)
        idle = memory(process.pid)
        before = np.median(ask(client, data, requests // 2))
        with started("attackers.py", port, nice="10"):
            watching = threading.Thread(target=watch)
            watching.start()
            time.sleep(3)
            times = ask(client, data, requests)
            over.set()
            watching.join()
        # again, for what else goes on at this machine changes; connections are closed by then
        time.sleep(1)
        usual = max(before, np.median(ask(client, data, requests // 2)))
    median, slow = np.quantile(times, (0.5, 0.95))
    print(f"usual {usual:.3f} s; under attack median {median:.3f} s, 95 % {slow:.3f} s")
    print(f"memory: idle {idle / 1e6:.0f} MB, at most {(most[0] - idle) / 1e6:.0f} MB more")
    wrong = []
    if not slow <= 2 * usual:
        wrong.append(f"95 % of the requests took {slow:.3f} s, expected {2 * usual:.3f} s")
    if most[0] - idle > DOCUMENTED:
        wrong.append(f"{most[0] - idle:,} bytes more than idle, expected {DOCUMENTED:,.0f}")
    return wrong


def ends(kinds: tuple[str, ...], log: TextIO) -> list[str]:
    """Kinds of attackers, and SIGTERM; returns what does not hold."""
    with (
        started("serve_attack.py", "--serve", log=log) as (process, port),
        started("attackers.py", port, "--kinds", *kinds),
    ):
        time.sleep(2)
        wrong = stop(process)
    return [f"{', '.join(kinds)}: {wrong}"] if wrong else []


def main() -> int:
    """Command-line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--kinds", nargs="*", choices=[*KINDS], default=["unread", "late"])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return 0
    with tempfile.TemporaryFile("w+") as log:
        # twice at most, for other work at this machine delays requests, too
        wrong = load(given.requests, log) and load(given.requests, log)
        for kinds in (tuple(KINDS), *((kind,) for kind in given.kinds)):
            wrong += ends(kinds, log)
        log.seek(0)
        lines = log.readlines()
    print(f"{len(lines)} lines of log")
    if len(lines) > 20:
        wrong.append("log: " + "".join(lines[:40]))
    for line in wrong:
        print(f"FAILED: {line}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
