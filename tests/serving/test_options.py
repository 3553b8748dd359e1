"""Methods and their own options over HTTP: each by its contract alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from maskgit_sr.errors import UserError
from maskgit_sr.images import from_bytes
from maskgit_sr.inference.upscaler import MAX_PROGRAMS
from maskgit_sr.serving.programs import PENDING, Programs
from maskgit_sr.serving.service import Limits, Service
from tests.serving.bodies import PICTURES, expect_error, expected, png
from tests.serving.models import Watched, pixels, subpixel
from tests.serving.serving import LONG, serve, until


@pytest.fixture(scope="module")
def doubling():
    return subpixel(batch=3)


@pytest.fixture(scope="module")
def served(doubling):
    with serve(doubling) as found:
        yield found


@pytest.mark.parametrize("name", PICTURES)
def test_a_method_without_tokens_or_confidence(served, doubling, name):
    answer = served.upscale(PICTURES[name])
    assert answer.content == expected(doubling, PICTURES[name])
    before, after = from_bytes(PICTURES[name]).color, from_bytes(answer.content).color
    assert after.shape == (2 * before.shape[0], 2 * before.shape[1], 3)


@pytest.mark.parametrize(
    "options",
    [
        {"strength": 0},
        {"noise": 0.1},
        {"noise": 0.1, "seed": 2**32 - 1},
        {"color_fix": "adain", "scale": 3},
    ],
)
def test_its_own_options(served, doubling, options):
    data = png(pixels(40, 70))
    found = served.upscale(data, **options).content
    assert found == expected(doubling, data, **options)
    assert found != served.upscale(data).content


def test_sides_and_options_do_not_mix(served, doubling):
    """Images of both sides, with and without an option, in flight together."""
    bodies = [png(pixels(3 + 9 * n, 5 + 7 * n, seed=n)) for n in range(8)]
    asked = [(body, {"strength": n % 2}) for n, body in enumerate(bodies * 2)]
    doubling.hold()
    doubling.gate.set()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: served.upscale(one[0], **one[1]), asked))
    assert {lr.shape[1] for lr, _ in doubling.calls} == {16, 64}
    for (body, options), answer in zip(asked, answers, strict=True):
        assert answer.content == expected(doubling, body, **options)


def test_options_of_other_types(served):
    watched = Watched(batch=3)
    with serve(watched) as other:
        data = PICTURES["rgb"]
        for options in ({"plain": False}, {"temperature": 1.0, "seed": 7, "steps": 12}):
            text = {name: str(value).lower() for name, value in options.items()}
            assert other.upscale(data, **text).content == expected(watched, data, **options)
        assert watched.calls[-1][1].steps == 12


def test_info(served):
    assert served.client.get("/info").json() == {
        "model": "nearest",
        "method": "subpixel",
        "scale": 2,
        "sides": [16, 64],
        "provides": [],
        "options": {"color_fix": "none", "strength": 1.0, "noise": 0.0},
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"confidence": "true"}, "confidence: subpixel has none"),
        ({"output": "confidence"}, "confidence: subpixel has none"),
        (
            {"steps": 4},
            "steps: unknown, expected one of scale, seed, format, quality, output, confidence, "
            "color_fix, strength, noise",
        ),
        ({"strength": "much"}, "strength: expected a number, found 'much'"),
        ({"strength": "nan"}, "strength: expected 0 or more, found nan"),
        ({"noise": [0.1, 0.2]}, "noise: expected a number, found \"['0.1', '0.2']\""),
        ({"noise": -1}, "noise: expected 0 or more, found -1"),
        ({"color_fix": "warm"}, "color_fix: expected one of adain, wavelet, none"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, found '-1'"),
        ({"seed": 2**32}, "seed: Input should be less than"),
    ],
)
def test_a_mistake_computes_nothing(served, doubling, parameters, message):
    doubling.hold()
    doubling.gate.set()
    expect_error(served.upscale(PICTURES["rgb"], **parameters), 422, message)
    assert not doubling.calls


def test_steps_are_limited():
    data = PICTURES["one pixel"]
    with serve(Watched(batch=1)) as served:
        assert served.upscale(data, steps=12).status_code == 200
        expect_error(served.upscale(data, steps=13), 422, "steps: expected at most 12 here")
    with serve(Watched(batch=1), defaults={"steps": 5}, steps=2) as served:
        assert served.client.get("/info").json()["options"]["steps"] == 5
        assert served.upscale(data).status_code == 200
        expect_error(served.upscale(data, steps=6), 422, "steps: expected at most 5 here")
        expect_error(served.upscale(data, steps=0), 422, "steps: expected at least 1, found 0")
        expect_error(served.upscale(data, plain="no"), 422, "plain: expected true or false")


def test_new_options_hold_up_nobody_else():
    """They compile beside the device's thread, only so many at a time."""
    upscaler = subpixel(batch=1)
    gate = threading.Event()
    run = upscaler.run

    def slow(lr, indices, bases, options):
        if options.noise and threading.current_thread().name.startswith("compiler"):
            assert gate.wait(LONG)
        return run(lr, indices, bases, options)

    upscaler.run = slow
    data = PICTURES["rgb"]
    with serve(upscaler) as served, ThreadPoolExecutor(PENDING) as pool:
        levels = [0.1 + n for n in range(PENDING)]
        asked = [pool.submit(served.upscale, data, noise=level) for level in levels]
        until(lambda: len(served.service._programs._known) == 2 + PENDING)
        assert served.upscale(data).content == expected(upscaler, data)
        expect_error(served.upscale(data, noise=9), 429, "new options are being compiled")
        gate.set()
        for answer, level in zip(asked, levels, strict=True):
            assert answer.result(LONG).content == expected(upscaler, data, noise=level)


def test_programs_used_last_are_kept():
    upscaler = subpixel(batch=1)
    programs = Programs(upscaler)
    for strength in range(MAX_PROGRAMS + 1):
        programs.request(upscaler.options(strength=strength), 16).result(LONG)
        programs.request(upscaler.options(strength=1), 16).result(LONG)  # always in use
    assert len(upscaler.calls) == MAX_PROGRAMS + 1
    programs.request(upscaler.options(strength=1), 16).result(LONG)
    assert len(upscaler.calls) == MAX_PROGRAMS + 1
    programs.request(upscaler.options(strength=0), 16).result(LONG)
    assert len(upscaler.calls) == MAX_PROGRAMS + 2
    programs.close()


def test_a_program_that_fails_is_tried_again():
    upscaler = subpixel(batch=1)
    programs = Programs(upscaler)
    upscaler.breaks = lambda lr: True
    with pytest.raises(RuntimeError, match="broken"):
        programs.request(upscaler.options(), 16).result(LONG)
    upscaler.breaks = lambda lr: False
    assert programs.request(upscaler.options(), 16).result(LONG) is None
    programs.close()


def test_pixels_count_by_the_sides_of_the_method():
    service = Service("small", Limits(pixels=3 * 16 * 16 - 1))
    with pytest.raises(UserError, match="--max_pixels: expected at least 768"):
        service.start(subpixel(batch=1))
    service.close()
