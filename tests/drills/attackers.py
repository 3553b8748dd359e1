"""Hostile clients of the HTTP server, eight of each kind, until they are killed.

python tests/drills/attackers.py PORT [--each 8] [--kinds idle drip ...]
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import json
import random
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable

import numpy as np
from PIL import Image

PAUSE = 1.0  # seconds between two attempts of one client, on average
HEAD = "POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n"
Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def scan_bomb(scans: int = 20_000, side: int = 2000) -> bytes:
    """A progressive JPEG whose last scan, an empty refinement, is repeated."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def tile_bomb() -> bytes:
    """A TIFF of 16x16 pixels that consists of one tile of 16384x16384."""
    packed = zlib.compress(bytes(16384 * 16384), 9)
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, 16384)]
    tags += [(323, 16384), (324, 8 + 2 + 12 * 9 + 12 + 4), (325, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed


def late() -> bytes:
    """A PNG of 3.6 megapixels that is decoded as a whole before its damage is found."""
    rows = np.arange(1900, dtype=np.uint16)[:, None] * np.arange(1900, dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(rows.astype(np.uint8)).convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()[:-30]


async def idle(pipe: Pipe) -> None:
    """Says nothing."""
    await pipe[0].read()


async def slow_head(pipe: Pipe) -> None:
    """Sends a head that never ends."""
    await trickle(pipe, b"POST /upscale HTTP/1.1\r\nHost: x\r\nX-Slow: ")


async def drip(pipe: Pipe) -> None:
    """Sends a body byte by byte."""
    await trickle(pipe, (HEAD % (1000, "")).encode())


async def trickle(pipe: Pipe, beginning: bytes) -> None:
    """Sends a beginning, and then a byte every half second."""
    pipe[1].write(beginning)
    while not pipe[0].at_eof():
        pipe[1].write(b"a")
        await pipe[1].drain()
        await asyncio.sleep(0.5)


async def stalled(pipe: Pipe) -> None:
    """Sends 31 MB of 31.9, and then nothing."""
    pipe[1].write((HEAD % (31_900_000, "")).encode())
    piece = bytes(1_000_000)
    for _ in range(31):
        pipe[1].write(piece)
        await pipe[1].drain()
    await pipe[0].read()


async def unread(pipe: Pipe) -> None:
    """Asks again and again, and reads nothing."""
    pipe[0]._transport.pause_reading()  # type: ignore[attr-defined]
    while True:
        pipe[1].write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await pipe[1].drain()
        await asyncio.sleep(0.2)


async def malformed(pipe: Pipe) -> None:
    """Sends what is no HTTP, or no chunk of it."""
    pipe[1].write(
        random.choice(
            [
                b"\x16\x03\x01 hello\r\n\r\n",
                b"GET / HTTP/1.1\r\n\r\n",
                b"GET /" + b"a" * 100_000,
                b"POST /upscale HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            ]
        )
    )
    await pipe[0].read()


async def jobs(pipe: Pipe) -> None:
    """Begins a job, and does not look at it."""
    data = random.randbytes(100_000)
    head = HEAD.replace("/upscale", "/jobs") % (len(data), "Connection: close\r\n")
    pipe[1].write(head.encode() + data)
    await pipe[0].read()


async def events(pipe: Pipe) -> None:
    """Begins a job, asks again and again for its events, and reads nothing."""
    data = b"no image"
    pipe[1].write((HEAD.replace("/upscale", "/jobs") % (len(data), "")).encode() + data)
    answer = await pipe[0].readuntil(b"}")
    if b" 202 " not in answer:
        return
    job = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
    pipe[0]._transport.pause_reading()  # type: ignore[attr-defined]
    pipe[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    while True:
        pipe[1].write(f"GET /jobs/{job}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 5)
        await pipe[1].drain()
        await asyncio.sleep(0.2)


def body(data: bytes, fields: str = "") -> Callable[[Pipe], Awaitable[None]]:
    """A client that sends a whole body and reads the response."""

    async def attack(pipe: Pipe) -> None:
        pipe[1].write((HEAD % (len(data), "Connection: close\r\n" + fields)).encode() + data)
        await pipe[0].read()

    return attack


KINDS: dict[str, Callable[[], Callable[[Pipe], Awaitable[None]]]] = {
    "idle": lambda: idle,
    "slow_head": lambda: slow_head,
    "drip": lambda: drip,
    "stalled": lambda: stalled,
    "unread": lambda: unread,
    "malformed": lambda: malformed,
    "scan_bomb": lambda: body(scan_bomb()),
    "tile_bomb": lambda: body(tile_bomb()),
    "gzip_bomb": lambda: body(gzip.compress(bytes(200_000_000)), "Content-Encoding: gzip\r\n"),
    "late": lambda: body(late()),
    "jobs": lambda: jobs,
    "events": lambda: events,
    "garbage": lambda: body(random.Random(0).randbytes(100_000)),
}


async def again(port: int, attack: Callable[[Pipe], Awaitable[None]]) -> None:
    """Attacks again whenever the server has closed the connection."""
    while True:
        try:
            pipe = await asyncio.open_connection("127.0.0.1", port)
            try:
                await attack(pipe)
            finally:
                pipe[1].transport.abort()
        except OSError:
            pass
        await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))


async def main() -> None:
    """Command-line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--each", type=int, default=8)
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    given = parser.parse_args()
    attacks = [KINDS[kind]() for kind in given.kinds]
    print("ready", flush=True)
    await asyncio.gather(*(again(given.port, one) for one in attacks * given.each))


if __name__ == "__main__":
    asyncio.run(main())
