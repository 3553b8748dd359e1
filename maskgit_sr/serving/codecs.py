"""Decoding and encoding in processes of their own, which end with their request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_sr.images import Picture
from maskgit_sr.serving import wire

_MOST = 24  # processes that decode at a time, and that encode
_SHORT = 0.1  # seconds; who decodes for longer gets less of the processors
_NICE = 10
_LONG = 1.0  # seconds of a processor; who decodes for longer gives way if others wait
_LOOK = 0.25  # seconds; how often that is looked at
_FIXED = 64_000_000  # bytes of memory of a codec process, whatever the image
_PER_PIXEL, _PER_SAMPLE_BYTE = 64, 12
_log = logging.getLogger("maskgit_sr.serving")


class CodecFailed(Exception):
    """The image could not be decoded or encoded; `kind` is the name of the exception."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class GaveWay(Exception):
    """Decoding took long while others waited to begin."""


class _Decoding:
    """A decoder at work; `pid` is 0 until its process has started."""

    def __init__(self, until: asyncio.Timeout):
        self.until, self.pid, self._began = until, 0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of a processor that it has had, of the clock where the system has no such."""
        with contextlib.suppress(OSError):
            # the name, which comes second, may hold anything; the 12th field behind it is user time
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return time.monotonic() - self._began


class CodecProcesses:
    """Starts a process for every image. Of the event loop's thread, but for `start` and `close`.

    Args:
        seconds: after which a process ends even if the server cannot end it.
    """

    def __init__(self, seconds: float):
        self._seconds = math.ceil(seconds) + 1
        self._decoding, self._encoding = asyncio.Semaphore(_MOST), asyncio.Semaphore(_MOST)
        self._running: list[_Decoding] = []
        self._waiting = 0
        self._looking: asyncio.TimerHandle | None = None
        self._control: socket.socket | None = None
        self._forking: subprocess.Popen[bytes] | None = None
        self._closed = False

    def start(self) -> None:
        """Starts the process that forks the others."""
        self._control, theirs = socket.socketpair()
        self._control.setblocking(True)
        # its own path, and no threads, of which a fork has none
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with theirs:
            self._forking = subprocess.Popen(
                [sys.executable, "-m", "maskgit_sr.serving.codec", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
                process_group=0,  # out of Ctrl-C's reach
            )

    def close(self) -> None:
        """Kills all processes."""
        self._closed = True
        if self._control is not None and self._forking is not None:
            self._control.close()
            self._forking.wait()

    async def decode(
        self, data: bytearray, coding: str, *, most: int, pixels: int, sent: Callable[[], None]
    ) -> Picture:
        """Decodes the bytes of an image file.

        Args:
            data: the body of a request of Content-Encoding `coding` ("", gzip or deflate).
            most: limit of its bytes when decompressed.
            pixels: limit of `images.from_bytes`.
            sent: called when `data` is not needed any more.

        Raises:
            GaveWay: it took a second of a processor, and all places were taken.
            CodecFailed: `kind` is UserError, TooManyPixels, TooManyBytes, MemoryError or "died".
        """
        arguments = {"data": np.frombuffer(data, np.uint8), "coding": coding}
        memory = _FIXED + 2 * (most if coding else len(data)) + _PER_PIXEL * pixels
        request = self._request("decode", memory, **arguments, most=most, pixels=pixels)
        del data, arguments
        async with self._turn() as turn:
            answer = await self._exchange(request, memory, sent, turn)
        return answer["picture"]

    async def encode(
        self, picture: Picture, kind: str, quality: int
    ) -> tuple[memoryview, tuple[str, ...]]:
        """Encodes an image as `images.to_bytes` does.

        Raises:
            CodecFailed: `kind` is UserError, MemoryError or "died".
        """
        memory = _FIXED + _PER_SAMPLE_BYTE * picture.color.nbytes
        request = self._request("encode", memory, picture=picture, kind=kind, quality=quality)
        del picture
        async with self._encoding:
            answer = await self._exchange(request, memory, lambda: None)
        return answer["data"].data, answer["notes"]

    def _request(self, task: str, memory: int, **arguments: Any) -> list[memoryview]:
        limits = {"memory": memory, "seconds": self._seconds}
        return wire.pack({"task": task, "arguments": arguments, **limits})

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[_Decoding]:
        """Holds one of the places for decoders, until it has to give way."""
        self._waiting += 1
        try:
            if self._looking is None:
                self._make_room()
            await self._decoding.acquire()
        finally:
            self._waiting -= 1
        try:
            async with asyncio.timeout(None) as until:
                turn = _Decoding(until)
                self._running.append(turn)
                try:
                    yield turn
                finally:
                    self._running.remove(turn)
        except TimeoutError:
            raise GaveWay from None
        finally:
            self._decoding.release()

    def _make_room(self) -> None:
        """Ends as many decoders as wait for a place, of those that have had theirs for long."""
        self._looking = None
        if not self._waiting or not self._decoding.locked():
            return
        long = [turn for turn in self._running if turn.seconds >= _LONG]
        for turn in long[: self._waiting]:
            if not turn.until.expired():
                turn.until.reschedule(0)
        self._looking = asyncio.get_running_loop().call_later(_LOOK, self._make_room)

    async def _exchange(
        self,
        request: list[memoryview],
        most: int,
        sent: Callable[[], None],
        turn: _Decoding | None = None,
    ) -> dict[str, Any]:
        """Returns the answer of a new process to a request, of at most `most` bytes.

        Args:
            turn: of a decoder, which soon gets less of the processors.
        """
        loop, pid, nicer = asyncio.get_running_loop(), 0, None
        ours, doing = None, "before its request"
        try:
            ours, pid = await self._fork()
            if turn is not None:
                turn.pid = pid
                nicer = loop.call_later(_SHORT, _renice, pid)
            doing = "while it was sent its request"
            while request:
                piece = request.pop(0)
                await loop.sock_sendall(ours, piece)
                del piece
            sent()
            doing = "over its request"
            (length,) = wire.HEAD.unpack((await _receive(ours, wire.HEAD.size)).data)
            tree, lengths = wire.layout((await _receive(ours, min(length, most))).tobytes())
            if sum(lengths) > most:
                raise ValueError("more than its memory holds")
            answer = wire.build(tree, [await _receive(ours, length) for length in lengths])
            pid = 0  # it ends by itself
        # of any kind: a process that a file has broken may send anything
        except Exception as error:
            if not self._closed:
                ended = self._forking and self._forking.poll()
                _log.warning(
                    *("a codec process has died %s (%s; the process that forks: %s)", doing),
                    *(type(error).__name__, "runs" if ended is None else f"ended with {ended}"),
                )
            raise CodecFailed("died", "") from None
        finally:
            if nicer is not None:
                nicer.cancel()
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if ours is not None:
                ours.close()
        if "error" in answer:
            raise CodecFailed(answer["error"], answer["message"])
        return answer

    async def _fork(self) -> tuple[socket.socket, int]:
        """Returns a socket to a new process, and its id.

        Raises:
            OSError, EOFError: there is none, though the process that forks was started again.
        """
        for attempt in range(3):
            assert self._control is not None and self._forking is not None
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            try:
                with theirs:
                    socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
                (pid,) = wire.HEAD.unpack((await _receive(ours, wire.HEAD.size)).data)
                return ours, pid
            except (OSError, EOFError):
                ours.close()
                if attempt == 2 or self._closed:
                    raise
                await asyncio.sleep(0.05)  # its sockets are closed before it has ended
                if self._forking.poll() is not None:
                    self._control.close()
                    self.start()
            except asyncio.CancelledError:
                ours.close()
                raise
        raise AssertionError


async def _receive(source: socket.socket, length: int) -> np.ndarray:
    """Returns the next `length` bytes, uint8.

    Raises:
        EOFError: there are not as many.
    """
    loop, part, done = asyncio.get_running_loop(), np.empty(length, np.uint8), 0
    while done < length:
        count = await loop.sock_recv_into(source, part.data[done:])
        if not count:
            raise EOFError
        done += count
    return part


def _renice(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICE)
