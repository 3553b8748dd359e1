"""The codec process: decodes and encodes image files where it can be killed.

``python -m maskgit_sr.serving.codec FD`` reads sockets from the Unix socket FD and forks a process
for each, which reads one request from it, answers and ends. Forking takes milliseconds, where
starting Python takes half a second, and leaves nothing behind of what a file has done to a process.
Never imports jax: a fork would copy its threads' locks, but not the threads.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.serving import wire

_PIECE = 1 << 16


class TooManyBytes(UserError):
    """A body that is longer than the limit once it is decompressed."""


def main() -> None:
    """Forks a process for each socket; ends, with all of them, when the server has."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.setblocking(True)  # a socket is made without, where a library has set a time-out
    # The server ends this process, by closing the socket; whoever stops the server may send its
    # signal to all of its processes, but requests in flight have some seconds yet.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    warm_up()
    # libtiff and libpng write a line there for each defect that they find
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            os.killpg(0, signal.SIGKILL)  # this process, too, and its group has no other
        with socket.socket(fileno=descriptors[0]) as job, contextlib.suppress(OSError):
            if not os.fork():  # without memory for it the server finds the socket closed
                control.close()
                serve(job)


def warm_up() -> None:
    """Imports all of what decoding and encoding import on their first use."""
    cv2.setNumThreads(1)  # a process that is forked has no threads
    picture = images.from_array(np.zeros((8, 8, 3), np.uint16))
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        images.from_bytes(images.to_bytes(picture, kind)[0])


def serve(job: socket.socket) -> None:
    """Answers the request that comes through a socket, and ends this process."""
    try:
        job.setblocking(True)  # as above
        job.sendall(wire.HEAD.pack(os.getpid()))
        request = wire.receive(job)
        limit_memory(request["memory"])
        signal.alarm(request["seconds"])  # if the server is gone; ends the process within C code
        try:
            answer = _TASKS[request["task"]](**request["arguments"])
        except Exception as error:  # of any kind: whoever waits is told which
            told = isinstance(error, UserError | MemoryError)
            message = str(error) if told else traceback.format_exc()
            answer = {"error": type(error).__name__, "message": message}
        del request
        wire.send(job, answer)
    finally:
        os._exit(0)  # without handlers, which belong to the process that was forked


def decode(data: np.ndarray, coding: str, most: int, pixels: int) -> dict[str, Any]:
    """Decodes a body of `coding` "", gzip or deflate to an image of at most `pixels` pixels."""
    plain = decompress(data.data, most) if coding else data.tobytes()
    return {"picture": images.from_bytes(plain, limit=pixels)}


def encode(picture: images.Picture, kind: str, quality: int) -> dict[str, Any]:
    """Encodes an image as `images.to_bytes` does."""
    data, notes = images.to_bytes(picture, kind, quality=quality)
    return {"data": np.frombuffer(data, np.uint8), "notes": notes}


def decompress(data: memoryview, most: int) -> bytes:
    """Returns the content of gzip or zlib data, also of several gzip members one after the other.

    Raises:
        TooManyBytes: more than `most` bytes; not many more were decompressed.
        UserError: damaged or truncated.
    """
    found, stream, begin = bytearray(), zlib.decompressobj(47), 0  # 47: finds out which it is
    try:
        # in pieces, because what is left behind a member's end is copied
        while begin < len(data):
            piece = data[begin : begin + _PIECE]
            if stream.eof:
                stream = zlib.decompressobj(47)
            found += stream.decompress(piece, most + 1 - len(found))
            if len(found) > most:
                raise TooManyBytes(f"more than the limit of {most:,} bytes when decompressed")
            begin += len(piece) - len(stream.unused_data)
    except zlib.error as error:
        raise UserError(f"Content-Encoding: the body cannot be decompressed ({error})") from None
    if not stream.eof:
        raise UserError("Content-Encoding: the compressed body is truncated")
    return bytes(found)


_TASKS: dict[str, Callable[..., dict[str, Any]]] = {"decode": decode, "encode": encode}


def limit_memory(more: int) -> None:
    """Lets this process take `more` bytes beside those it has, as far as the system limits it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statistics = Path("/proc/self/statm")
    if statistics.exists():  # Linux; elsewhere the size is not known, and the limit hardly kept
        size = int(statistics.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = size + more if hard == resource.RLIM_INFINITY else min(size + more, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    with contextlib.suppress(OSError):  # if memory runs out it is this process that goes
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
