"""Compiled programs: beside the device's thread, those used last, only so many at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from maskgit_sr.inference.upscaler import MAX_PROGRAMS
from maskgit_sr.serving.programs import PENDING, Programs
from tests.serving.models import Watched, subpixel
from tests.serving.serving import LONG, RGB, expected, serve, until


@pytest.fixture
def programs():
    upscaler = Watched(batch=1)
    found = Programs(upscaler)
    yield lambda **options: found.request(upscaler.options(**options), 8).result(LONG), upscaler
    found.close()


def test_new_options_hold_up_nobody_else():
    upscaler = subpixel(batch=1)
    gate = threading.Event()
    run = upscaler.run

    def slow(lr, indices, seeds, options):
        if options.noise and threading.current_thread().name.startswith("compiler"):
            assert gate.wait(LONG)
        return run(lr, indices, seeds, options)

    upscaler.run = slow
    with serve(upscaler) as served, ThreadPoolExecutor(PENDING) as pool:
        levels = [0.1 + n for n in range(PENDING)]
        asked = [pool.submit(served.upscale, RGB, noise=level) for level in levels]
        until(lambda: len(served.service._programs._known) == 2 + PENDING)
        served.check(RGB)
        served.refuse(RGB, 429, "new options are being compiled", noise=9)
        gate.set()
        for answer, level in zip(asked, levels, strict=True):
            assert answer.result(LONG).content == expected(upscaler, RGB, noise=level)


def test_programs_used_last_are_kept(programs):
    request, upscaler = programs
    for steps in range(1, MAX_PROGRAMS + 2):
        request(steps=steps)
        request(steps=2)  # always in use
    request(steps=2)
    assert len(upscaler.calls) == MAX_PROGRAMS + 1
    request(steps=1)
    assert len(upscaler.calls) == MAX_PROGRAMS + 2


def test_a_program_that_fails_is_tried_again(programs):
    request, upscaler = programs
    upscaler.breaks = lambda lr: True
    with pytest.raises(RuntimeError, match="broken"):
        request()
    upscaler.breaks = lambda lr: False
    assert request() is None
