"""Compiled programs: beside the device's thread, those used last, only so many at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from maskgit_sr.inference.upscaler import MAX_PROGRAMS
from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.structure import Structure, StructureMethodConfig
from maskgit_sr.models.structure import StructureConfig
from maskgit_sr.serving.programs import PENDING, Programs
from tests.methods.small import random_params
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

    def slow(lr, places, seeds, options):
        if options.noise and threading.current_thread().name.startswith("compiler"):
            assert gate.wait(LONG)
        return run(lr, places, seeds, options)

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


def test_values_that_are_traced_share_a_program():
    method = Structure(StructureMethodConfig(TileSpec((8,), 4), StructureConfig(2, 8, 1)))
    upscaler = Watched(1, method, random_params(method))
    with serve(upscaler) as served:
        compiled = len(served.service._programs._known)
        answers = {
            served.check(RGB, strength=strength).content for strength in (0.0, 0.5, 1.0, 0.5)
        }
        assert len(answers) == 3 and len(served.service._programs._known) == compiled
        # The compiler was not asked, the device was, with tiles of one strength each.
        assert {options.strength for _, options in upscaler.calls} == {0.0, 0.5, 1.0}
        served.check(RGB, color_fix="adain", strength=0.5)
        assert len(served.service._programs._known) == compiled + 1
        served.refuse(RGB, 422, "strength: expected 0 to 1, found 2.0", strength=2)
        served.refuse(RGB, 422, "confidence: structure has none", confidence="true")


def test_a_program_that_fails_is_tried_again(programs):
    request, upscaler = programs
    upscaler.breaks = lambda lr: True
    with pytest.raises(RuntimeError, match="broken"):
        request()
    upscaler.breaks = lambda lr: False
    assert request() is None
