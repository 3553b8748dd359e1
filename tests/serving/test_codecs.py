"""Decoding where it can be killed: what a process answers, and what its end does to others."""

import asyncio
import contextlib
import gzip
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.serving import codec, codecs, wire
from maskgit_sr.serving.codecs import CodecFailed, CodecProcesses, GaveWay
from tests.serving.models import Watched, flat, pixels
from tests.serving.serving import LONG, PICTURES, RGB, png, serve, until

SLOW = png(flat(4000, 5000, 0))  # some tenths of a second


@pytest.fixture
def processes():
    found = CodecProcesses(LONG)
    found.start()
    yield found
    found.close()


def decoded(processes, data, coding="", most=10_000_000, limit=20_000_000, sent=lambda: None):
    task = processes.decode(bytearray(data), coding, most=most, pixels=limit, sent=sent)
    return asyncio.wait_for(task, LONG)


def children(processes):
    """Process ids of the codec processes but the one that forks them."""
    leader = processes._forking.pid
    with open(f"/proc/{leader}/task/{leader}/children") as file:
        return [int(pid) for pid in file.read().split()]


def test_the_codec_process_has_no_jax():
    code = "import sys, maskgit_sr.serving.codec as c; c.warm_up(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=os.getcwd()).returncode == 0


@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_the_same_as_decoded_and_encoded_here(processes, data):
    async def both():
        picture = await decoded(processes, data)
        return picture, await processes.encode(picture, "PNG", 95)

    found, (encoded, notes) = asyncio.run(both())
    here = images.from_bytes(data)
    np.testing.assert_array_equal(found.color, here.color)
    assert (found.alpha is None) == (here.alpha is None)
    assert found.color.dtype == here.color.dtype and found.notes == here.notes
    assert (bytes(encoded), notes) == images.to_bytes(here, "PNG")


def test_a_time_out_that_a_library_has_set_does_not_reach_the_processes():
    """Sockets are then made not to block, and who shares them does not know it."""
    data = png(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8))
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    processes = CodecProcesses(LONG)
    try:
        processes.start()
        for _ in range(5):
            assert asyncio.run(decoded(processes, data)).color.shape == (900, 900, 3)
    finally:
        socket.setdefaulttimeout(before)
        processes.close()


@pytest.mark.parametrize(
    ("data", "coding", "kind", "message"),
    [
        (b"no picture", "", "UserError", "not a picture"),
        (png(pixels(20, 30)), "", "TooManyPixels", "30x20 is more than the limit of 500"),
        (gzip.compress(bytes(5000), mtime=0), "gzip", "TooManyBytes", "limit of 2,000 bytes when"),
        (gzip.compress(b"x" * 100, mtime=0)[:-3], "gzip", "UserError", "truncated"),
        (b"x" * 100, "gzip", "UserError", "cannot be decompressed"),
    ],
)
def test_mistakes_are_told(processes, data, coding, kind, message):
    with pytest.raises(CodecFailed, match=message) as found:
        asyncio.run(decoded(processes, data, coding, most=2000, limit=500))
    assert found.value.kind == kind


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(RGB),
        zlib.compress(RGB),
        b"".join(gzip.compress(RGB[n : n + 10]) for n in range(0, len(RGB), 10)),
    ],
)
def test_decompression(packed):
    assert codec.decompress(memoryview(packed), len(RGB)) == RGB
    with pytest.raises(codec.TooManyBytes):
        codec.decompress(memoryview(packed), len(RGB) - 1)
    with pytest.raises(UserError, match="truncated"):
        codec.decompress(memoryview(packed[:-1]), len(RGB))


def test_memory_has_a_limit(processes, monkeypatch):
    monkeypatch.setattr(codecs, "_FIXED", 2_000_000)
    monkeypatch.setattr(codecs, "_PER_PIXEL", 1)
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the system does not limit it")
    with pytest.raises(CodecFailed) as found:
        asyncio.run(decoded(processes, SLOW, most=len(SLOW), limit=20_000_000))
    assert found.value.kind in ("MemoryError", "UserError", "died")


def test_whoever_is_cancelled_is_killed(processes):
    async def cancelled():
        await decoded(processes, RGB)  # it has started
        sent = asyncio.Event()
        task = asyncio.create_task(decoded(processes, SLOW, sent=sent.set))
        await sent.wait()
        assert children(processes)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancelled())
    began = time.monotonic()
    until(lambda: not children(processes))
    assert time.monotonic() - began < 0.3  # it would have taken longer


def test_a_process_that_dies_is_its_requests_failure():
    upscaler = Watched(batch=3)
    with serve(upscaler, pixels=20_000_000) as served:
        codec_processes = served.service._codecs
        got = []
        slow = threading.Thread(target=lambda: got.append(served.upscale(SLOW)))
        slow.start()
        while not got:
            for pid in children(codec_processes):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSEGV)
        slow.join()
        assert got[0].status_code == 415 and "process died" in got[0].json()["error"]
        served.check(RGB)
        codec_processes._forking.kill()  # and the one that forks the others
        served.check(RGB)


def test_who_decodes_for_long_gives_way(processes, monkeypatch):
    monkeypatch.setattr(codecs, "_LONG", 0.02)
    monkeypatch.setattr(codecs, "_LOOK", 0.01)
    processes._decoding = asyncio.Semaphore(1)

    async def two():
        sent = asyncio.Event()
        slow = asyncio.create_task(decoded(processes, SLOW, sent=sent.set))
        await sent.wait()
        picture = await decoded(processes, RGB)
        assert picture.color.shape == (20, 13, 3)
        with pytest.raises(GaveWay):
            await slow
        # alone it takes the time it needs
        assert (await decoded(processes, SLOW)).color.shape == (4000, 5000, 3)

    asyncio.run(two())


def test_close_ends_all_processes():
    processes = CodecProcesses(LONG)
    processes.start()
    leader = processes._forking

    async def closed():
        sent = asyncio.Event()
        task = asyncio.create_task(decoded(processes, SLOW, sent=sent.set))
        await sent.wait()
        child = children(processes)[-1]
        processes.close()
        with pytest.raises(CodecFailed):
            await task
        return child

    child = asyncio.run(closed())
    assert leader.returncode == -signal.SIGKILL
    until(lambda: not os.path.exists(f"/proc/{child}"))


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_messages(ends):
    ours, theirs = ends
    picture = images.from_bytes(PICTURES["jpeg"])
    value = {"a": [1, 2.5, None, True], "b": (b"\0\xff", "ü"), "c": np.arange(6.0).reshape(2, 3)}
    wire.send(ours, {**value, "picture": picture})
    found = wire.receive(theirs)
    np.testing.assert_array_equal(found.pop("c"), value.pop("c"))
    again = found.pop("picture")
    assert found == value and type(again) is type(picture)
    np.testing.assert_array_equal(again.color, picture.color)
    assert images.to_bytes(again, "JPEG") == images.to_bytes(picture, "JPEG")
    ours.close()
    with pytest.raises(EOFError):
        wire.receive(theirs)


@pytest.mark.parametrize(
    "text",
    [
        b'[{"os.system": {"command": "x"}}, []]',
        b'[{"maskgit_sr.images.samples.peak": {"dtype": "u1"}}, []]',
        b'[{"maskgit_sr.images.samples.np.ndarray": {}}, []]',
        b'[{"array": [0, "O", [1]]}, [8]]',
        b'[{"array": [0, "u1", [9]]}, [8]]',
    ],
)
def test_messages_make_nothing_but_data(ends, text):
    ours, theirs = ends
    ours.sendall(struct.pack("<I", len(text)) + text + bytes(8))
    with pytest.raises((ValueError, TypeError)):
        wire.receive(theirs)
