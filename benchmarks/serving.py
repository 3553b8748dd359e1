"""The HTTP server under load: is every response right, does memory grow, what does HTTP cost?

    python -m benchmarks.serving mixed [--requests 200] [--clients 8]
    python -m benchmarks.serving speed [--clients 1 4 16] [--requests 32]

Both start `python -m launch.serve` on a free port of this machine; options that are not known here
go to it. `mixed` sends images of many sizes and formats, damaged and too large ones among them,
and compares every response byte by byte with what the Upscaler makes of the same file in this
process; it also prints the server's resident memory. `speed` sends images of one tile and sets
requests a second beside the bare Upscaler's, which decodes, restores and encodes the same file in
this process before the server starts and after it has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import maskgit_sr
from benchmarks.inference import photograph
from maskgit_sr import DEFAULT_MODEL, Upscaler, images

MAX_PIXELS = 40_000
TIMEOUT = 600.0
SIZES = [(1, 1), (1, 64), (64, 1), (7, 5), (33, 57), (64, 64), (50, 41), (61, 64)]
SIZES += [(90, 40), (160, 120), (64, 63), (12, 60), (3, 64), (40, 40)]


class Case(NamedTuple):
    """A body, its parameters and the status that it must get."""

    name: str
    body: bytes
    parameters: dict[str, str]
    status: int = 200


def cases() -> list[Case]:
    """Returns images of 1x1 to 160x120, grey, with alpha, of 16 bits; and bad ones."""
    found = []
    kinds = ("PNG", "JPEG", "WEBP")
    for n, (width, height) in enumerate(SIZES):
        color = Image.fromarray(photograph(160)).crop((n, n, n + width, n + height))
        mode = ("RGB", "L", "RGB", "RGBA")[n % 4]
        color = color.convert(mode)
        if mode == "RGBA":
            color.putalpha(Image.linear_gradient("L").resize(color.size))
        kind = "PNG" if mode == "RGBA" else kinds[n % 3]
        wanted = ("png", "jpeg", "webp", "png")[n % 4]
        parameters = {"format": wanted, "scale": ("4", "4", "2", "4", "3")[n % 5]}
        found.append(Case(f"{width}x{height} {mode} {kind}", encoded(color, kind), parameters))
    deep = np.asarray(photograph(40)).astype(np.uint16) * 257
    found.append(Case("16 bits", images.to_bytes(images.from_array(deep), "PNG")[0], {}))
    whole = encoded(Image.fromarray(photograph(64)), "PNG")
    found += [
        Case("truncated", whole[: len(whole) // 2], {}, 415),
        Case("text", b"no picture", {}, 415),
        Case("empty", b"", {}, 415),
        Case("too large", encoded(Image.new("L", (300, 200)), "PNG"), {}, 413),
        Case("bad scale", whole, {"scale": "99"}, 422),
    ]
    return found


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def restored(upscaler: Upscaler, case: Case) -> bytes:
    """Returns the bytes that the server has to respond with."""
    picture = images.from_bytes(case.body)
    scale = float(case.parameters["scale"]) if "scale" in case.parameters else None
    output = upscaler.restore(picture, scale=scale, confidence=False).picture
    return images.to_bytes(output, case.parameters.get("format", "png").upper())[0]


@contextlib.contextmanager
def server(*options: str) -> Iterator[tuple[str, int]]:
    """Yields (address, process id) of a server that is ready."""
    command = [sys.executable, "-m", "launch.serve", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[-1]
        print(process.stdout.readline().strip(), flush=True)
        yield address, process.pid
        process.terminate()
        if process.wait(60):
            raise RuntimeError(f"the server ended with exit code {process.returncode}")
    finally:
        process.kill()
        process.wait()


def resident(pid: int) -> float:
    """Returns the resident memory of a process in megabytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def mixed(upscaler: Upscaler, requests: int, clients: int, options: list[str]) -> int:
    """Runs the load test; returns the number of responses that were wrong or missing."""
    known = cases()
    right = {case.name: restored(upscaler, case) for case in known if case.status == 200}
    order = [known[n % len(known)] for n in range(requests)]
    random.Random(0).shuffle(order)
    wrong: list[str] = []
    seconds: list[float] = []
    done = 0

    async def run(address: str, pid: int) -> None:
        queue = list(reversed(order))

        async def client() -> None:
            nonlocal done
            async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT) as connection:
                while queue:
                    case = queue.pop()
                    began = time.perf_counter()
                    found = await connection.post(
                        "/upscale", params=case.parameters, content=case.body
                    )
                    seconds.append(time.perf_counter() - began)
                    if found.status_code != case.status:
                        wrong.append(f"{case.name}: {found.status_code} {found.text[:80]}")
                    elif case.status == 200 and found.content != right[case.name]:
                        wrong.append(f"{case.name}: other bytes")
                    elif case.status != 200 and set(found.json()) != {"error"}:
                        wrong.append(f"{case.name}: {found.text[:80]}")
                    done += 1
                    if done % max(1, requests // 8) == 0:
                        print(f"{done:4} responses, {resident(pid):.0f} MB resident", flush=True)

        print(f"   0 responses, {resident(pid):.0f} MB resident", flush=True)
        await asyncio.gather(*(client() for _ in range(clients)))

    words = ["--max_pixels", str(MAX_PIXELS), *options]
    words += ["--max_total_pixels", str(clients * MAX_PIXELS)]  # nobody is to be sent away
    with server(*words) as (address, pid):
        began = time.perf_counter()
        asyncio.run(run(address, pid))
        total = time.perf_counter() - began
        text = httpx.get(f"{address}/metrics").text
    for line in wrong:
        print(line)
    print(
        f"{done} responses of {requests} in {total:.1f} s, {clients} at a time,"
        f" {sum(case.status != 200 for case in order)} of them errors on purpose;"
        f" wrong or lost: {len(wrong) + requests - done}; p50 {percentile(seconds, 50):.2f} s,"
        f" p99 {percentile(seconds, 99):.2f} s"
    )
    print(*(line for line in text.splitlines() if line.startswith("maskgit_sr_requests_total")))
    return len(wrong) + requests - done


def percentile(values: list[float], percent: int) -> float:
    return float(np.percentile(values, percent))


def speed(
    upscaler: Upscaler,
    title: str,
    clients: list[int],
    requests: int,
    side: int,
    options: list[str],
) -> None:
    """Prints requests a second beside the bare Upscaler's."""
    case = Case("", encoded(Image.fromarray(photograph(side)), "PNG"), {})
    restored(upscaler, case)  # compiles
    bare = seconds_of(upscaler, case, requests // 2)
    served = {}
    with server(*options) as (address, _):
        for number in clients:
            served[number] = asyncio.run(load(address, case.body, number, requests))
    bare += seconds_of(upscaler, case, requests // 2)
    alone = 1 / statistics.mean(bare)
    device = upscaler.device.device_kind
    table = Table("", "requests/s", "of the Upscaler", "p50 s", "p99 s")
    table.title = f"{title}, {device}, batches of {upscaler.batch}"
    table.add_row(
        "Upscaler",
        f"{alone:.2f}",
        "1.00",
        f"{percentile(bare, 50):.3f}",
        f"{percentile(bare, 99):.3f}",
    )
    for number, (rate, seconds) in served.items():
        table.add_row(
            f"{number} clients",
            f"{rate:.2f}",
            f"{rate / alone:.2f}",
            f"{percentile(seconds, 50):.3f}",
            f"{percentile(seconds, 99):.3f}",
        )
    Console().print(table)


def seconds_of(upscaler: Upscaler, case: Case, times: int) -> list[float]:
    found = []
    for _ in range(max(1, times)):
        began = time.perf_counter()
        restored(upscaler, case)
        found.append(time.perf_counter() - began)
    return found


async def load(address: str, body: bytes, clients: int, requests: int) -> tuple[float, list[float]]:
    """Returns requests a second, and the seconds of each."""
    seconds: list[float] = []
    left = requests

    async def client() -> None:
        nonlocal left
        async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT) as connection:
            while left > 0:
                left -= 1
                began = time.perf_counter()
                (await connection.post("/upscale", content=body)).raise_for_status()
                seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return requests / (time.perf_counter() - began), seconds


def main() -> int:
    """Runs one of both; exit code 1 if a response was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["mixed", "speed"])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--requests", type=int, help="200, speed: 32 for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", help="8, speed: 1 4 16")
    parser.add_argument("--side", type=int, default=64, help="of the images of speed")
    parser.add_argument("--max_batch", type=int, help="tiles a device call, here and in the server")
    given, options = parser.parse_known_args()  # the rest is for the server
    options += ["--model", given.model]
    options += [] if given.max_batch is None else ["--max_batch", str(given.max_batch)]
    upscaler = maskgit_sr.load(given.model, batch=given.max_batch)
    if given.what == "mixed":
        clients = (given.clients or [8])[0]
        return 1 if mixed(upscaler, given.requests or 200, clients, options) else 0
    title = f"{given.model}, images of {given.side}x{given.side}"
    clients = given.clients or [1, 4, 16]
    speed(upscaler, title, clients, given.requests or 32, given.side, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
