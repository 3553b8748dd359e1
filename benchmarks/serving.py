"""Load tests of the HTTP server: correctness of responses, memory growth, and the cost of HTTP.

    python -m benchmarks.serving mixed [--requests 200] [--clients 8]
    python -m benchmarks.serving speed [--clients 1 4 16] [--requests 32]

Both start `python -m launch.serve` on a free port of this machine; unknown options are passed on to
it. `mixed` sends images of many sizes and formats, damaged and too large ones among them, and
compares every response byte by byte with the Upscaler's output for the same file in this process;
it also prints the server's resident memory. `speed` sends images of one tile and compares requests
a second with the bare Upscaler's, which decodes, restores and encodes the same file in this process
before the server starts and after it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import httpx
import numpy as np
from PIL import Image

import maskgit_sr
from benchmarks import common
from maskgit_sr import DEFAULT_MODEL, Upscaler, images

MAX_PIXELS = 40_000
TIMEOUT = 600.0
SIZES = [(1, 1), (1, 64), (64, 1), (7, 5), (33, 57), (64, 64), (50, 41), (61, 64)]
SIZES += [(90, 40), (160, 120), (64, 63), (12, 60), (3, 64), (40, 40)]


class Case(NamedTuple):
    """A request's body and parameters, and the status that it must get."""

    name: str
    body: bytes
    parameters: dict[str, str]
    status: int = 200


def cases() -> list[Case]:
    """Returns images from 1x1 to 160x120, grey, with alpha or 16 bits, and invalid requests."""
    found = []
    for n, (width, height) in enumerate(SIZES):
        mode = ("RGB", "L", "RGB", "RGBA")[n % 4]
        color = Image.fromarray(common.photograph(160)).crop((n, n, n + width, n + height))
        color = color.convert(mode)
        if mode == "RGBA":
            color.putalpha(Image.linear_gradient("L").resize(color.size))
        kind = "PNG" if mode == "RGBA" else ("PNG", "JPEG", "WEBP")[n % 3]
        wanted = ("png", "jpeg", "webp", "png")[n % 4]
        parameters = {"format": wanted, "scale": ("4", "4", "2", "4", "3")[n % 5]}
        found.append(Case(f"{width}x{height} {mode} {kind}", encoded(color, kind), parameters))
    deep = common.photograph(40).astype(np.uint16) * 257
    whole = encoded(Image.fromarray(common.photograph(64)))
    return [
        *found,
        Case("16 bits", images.to_bytes(images.from_array(deep), "PNG")[0], {}),
        Case("truncated", whole[: len(whole) // 2], {}, 415),
        Case("text", b"no picture", {}, 415),
        Case("empty", b"", {}, 415),
        Case("too large", encoded(Image.new("L", (300, 200))), {}, 413),
        Case("bad scale", whole, {"scale": "99"}, 422),
    ]


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """Returns the bytes of `image` as a file of format `kind`."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def restored(upscaler: Upscaler, case: Case) -> bytes:
    """Returns the bytes that the server must respond with."""
    picture = images.from_bytes(case.body)
    scale = float(case.parameters["scale"]) if "scale" in case.parameters else None
    output = upscaler.restore(picture, scale=scale, confidence=False).picture
    return images.to_bytes(output, case.parameters.get("format", "png").upper())[0]


@contextlib.contextmanager
def server(*options: str) -> Iterator[tuple[str, int]]:
    """Yields (address, process id) of a server that is ready, and ends it afterwards."""
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


def load(
    address: str,
    order: Sequence[Case],
    clients: int,
    check: Callable[[Case, httpx.Response], object],
) -> tuple[float, list[float]]:
    """Sends each case once; returns the seconds of all together and of each.

    Args:
        clients: number of concurrent requests.
        check: called with every case and its response.
    """
    taken: list[float] = []
    queue = iter(order)  # shared by all clients, each takes the next case when it is free

    async def client() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT) as connection:
            for case in queue:
                began = time.perf_counter()
                response = await connection.post(
                    "/upscale", params=case.parameters, content=case.body
                )
                taken.append(time.perf_counter() - began)
                check(case, response)

    async def all_clients() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    return common.timed(lambda: asyncio.run(all_clients())).wall, taken


def mixed(upscaler: Upscaler, requests: int, clients: int, options: list[str]) -> int:
    """Runs the load test; returns the number of wrong or missing responses."""
    known = cases()
    right = {case.name: restored(upscaler, case) for case in known if case.status == 200}
    order = [known[n % len(known)] for n in range(requests)]
    random.Random(0).shuffle(order)
    wrong: list[str] = []
    done = 0

    def report() -> None:
        print(f"{done:4} responses, {common.resident(pid):.0f} MiB resident", flush=True)

    def check(case: Case, found: httpx.Response) -> None:
        nonlocal done
        if found.status_code != case.status:
            wrong.append(f"{case.name}: {found.status_code} {found.text[:80]}")
        elif case.status == 200 and found.content != right[case.name]:
            wrong.append(f"{case.name}: other bytes")
        elif case.status != 200 and set(found.json()) != {"error"}:
            wrong.append(f"{case.name}: {found.text[:80]}")
        done += 1
        if done % max(1, requests // 8) == 0:
            report()

    words = ["--max_pixels", str(MAX_PIXELS), *options]
    words += ["--max_total_pixels", str(clients * MAX_PIXELS)]  # no request is refused for load
    with server(*words) as (address, pid):
        report()
        total, taken = load(address, order, clients, check)
        text = httpx.get(f"{address}/metrics").text
    for line in wrong:
        print(line)
    p50, p99 = percentiles(taken, 2)
    print(
        f"{done} responses of {requests} in {total:.1f} s, {clients} at a time,"
        f" {sum(case.status != 200 for case in order)} of them errors on purpose;"
        f" wrong or lost: {len(wrong) + requests - done}; p50 {p50} s, p99 {p99} s"
    )
    print(*(line for line in text.splitlines() if line.startswith("maskgit_sr_requests_total")))
    return len(wrong) + requests - done


def percentiles(seconds: list[float], digits: int) -> list[str]:
    """Returns the 50th and the 99th percentile as text."""
    return [f"{value:.{digits}f}" for value in np.percentile(seconds, (50, 99))]


def speed(
    upscaler: Upscaler, clients: list[int], requests: int, side: int, options: list[str]
) -> str:
    """Returns a table of requests a second, with the bare Upscaler's."""
    case = Case("", encoded(Image.fromarray(common.photograph(side))), {})

    def bare() -> list[float]:
        times = range(max(1, requests // 2))
        return [common.timed(restored, upscaler, case).wall for _ in times]

    restored(upscaler, case)  # compiles
    alone, found = bare(), {}
    with server(*options) as (address, _):
        for number in clients:
            every = [case] * requests
            total, taken = load(address, every, number, lambda _, got: got.raise_for_status())
            found[f"{number} clients"] = requests / total, taken
    # Before and after, so that a drift of the machine's speed meets both.
    alone += bare()
    reference = 1 / float(np.mean(alone))
    rows = [
        (name, *(f"{x:.2f}" for x in (rate, rate / reference)), *percentiles(taken, 3))
        for name, (rate, taken) in {"Upscaler": (reference, alone), **found}.items()
    ]
    return common.table("|requests/s|of the Upscaler|p50 s|p99 s", rows)


def main() -> int:
    """Runs one of both load tests; exit code 1 if a response was wrong."""
    parser = common.parser(__doc__)
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
        return int(mixed(upscaler, given.requests or 200, (given.clients or [8])[0], options) > 0)
    rows = speed(upscaler, given.clients or [1, 4, 16], given.requests or 32, given.side, options)
    device = upscaler.device.device_kind
    print(
        f"{given.model}, images of {given.side}², {device}, batches of {upscaler.batch}\n\n{rows}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
