"""Images over HTTP: the upscaler's own bytes, whatever came, and however many at a time."""

import io
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from maskgit_sr import images
from maskgit_sr.images import from_bytes, to_bytes
from tests.serving.models import Watched, flat, pixels, subpixel
from tests.serving.serving import ICC, PICTURES, RGB, expect_error, expected, png, serve


@pytest.fixture(scope="module")
def served():
    """A ×4 method with confidence and tokens."""
    with serve(Watched(batch=3), pixels=20_000, total_pixels=100_000, bytes=60_000) as found:
        yield found


@pytest.fixture(scope="module")
def doubling():
    """A ×2 method of two sides, without them, with options of its own."""
    with serve(subpixel(batch=3)) as found:
        yield found


@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_the_answer_is_the_upscalers(served, doubling, data):
    answer = served.check(data)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-model"] == "nearest"
    assert answer.headers["server-timing"].startswith("decode;dur=")
    served.check(data, scale=2.5)
    before, after = from_bytes(data).color, from_bytes(doubling.check(data).content).color
    assert after.shape == (2 * before.shape[0], 2 * before.shape[1], 3)


def test_what_an_image_carries(served):
    back = from_bytes(served.upscale(PICTURES["jpeg"], format="jpeg").content)
    assert (
        back.color.shape == (56, 36, 3)
        and back.metadata.icc == ICC
        and b"Maker" in back.metadata.exif
    )
    assert served.upscale(PICTURES["gif"]).headers["x-notes"] == "animated: first frame used"
    assert "x-notes" not in served.upscale(RGB).headers


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_formats_and_quality(served, kind):
    answer = served.upscale(RGB, format=kind, quality=30)
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.content == expected(served.upscaler, RGB, kind.upper(), 30)
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == kind.upper() and image.size == (52, 80)


def test_confidence(served):
    data = PICTURES["alpha"]
    restored = served.upscaler.restore(from_bytes(data))
    answer = served.upscale(data, confidence="true")
    assert answer.content == to_bytes(restored.picture, "PNG")[0]
    mean = float(answer.headers["x-confidence"])
    assert mean == pytest.approx(restored.confidence.mean(), abs=1e-4)
    answer = served.upscale(data, output="confidence", format="jpeg", quality=100)
    grey = images.from_confidence(restored.confidence, 44, 24)
    assert answer.content == to_bytes(grey, "JPEG", quality=100)[0]


@pytest.mark.parametrize(
    "options",
    [
        {"strength": 0},
        {"noise": 0.1},
        {"noise": 0.1, "seed": 2**32 - 1},
        {"color_fix": "adain", "scale": 3},
    ],
)
def test_options_of_the_method(doubling, options):
    data = png(pixels(40, 70))
    assert doubling.check(data, **options).content != doubling.upscale(data).content


def test_options_of_every_type(served):
    for options in ({"plain": False}, {"temperature": 1.0, "seed": 7, "steps": 12}):
        text = {name: str(value).lower() for name, value in options.items()}
        assert served.upscale(RGB, **text).content == expected(served.upscaler, RGB, **options)
    assert served.upscaler.calls[-1][1].steps == 12


def test_consistent(doubling):
    data = png(pixels(40, 31) // 4 + 96)
    answer = doubling.check(data, consistent=0.5, noise=0.1, scale=2.5)
    assert "x-notes" not in answer.headers
    assert answer.content != doubling.upscale(data, noise=0.1, scale=2.5).content
    told = doubling.upscale(RGB, consistent=0.5).headers["x-notes"]  # noise from black to white
    assert "samples differ from the input by more than 0.5 grey levels" in told
    message = "consistent: expected 0.5 to 255 grey levels"
    doubling.refuse(RGB, 400, message, consistent=0.4)
    deep = png(np.full((4, 4, 3), 30000, np.uint16))
    assert doubling.upscale(deep, consistent=0.4).status_code == 200


def test_info(doubling):
    assert doubling.client.get("/info").json() == {
        "model": "nearest",
        "method": "subpixel",
        "scale": 2,
        "sides": [16, 64],
        "provides": [],
        "options": {"color_fix": "none", "strength": 1.0, "noise": 0.0},
        "limits": {"pixels": 4_000_000, "bytes": 32_000_000},
        "token": False,
    }


def test_one_in_many_at_a_time(served):
    """No answer is lost, or another's."""
    bad = [png(pixels(20, 20, seed=n))[:-30] for n in range(3)]
    bodies = [png(pixels(1 + 5 * n % 33, 1 + 11 * n % 41, n % 4 + 1)) for n in range(30)]
    bodies += [*bad, png(pixels(160, 160)), b"no picture", *PICTURES.values()]
    random.Random(0).shuffle(bodies)
    before = served.count(200)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(served.upscale, bodies))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(415) == 4 and statuses.count(413) == 1
    for body, answer in zip(bodies, answers, strict=True):
        if answer.status_code == 200:
            assert answer.content == expected(served.upscaler, body)
        else:
            assert set(answer.json()) == {"error"}
    assert statuses.count(200) == len(bodies) - 5 == served.count(200) - before


def test_sides_and_options_do_not_mix(doubling):
    """Images of both sides, with and without an option, in flight together."""
    bodies = [png(pixels(3 + 9 * n, 5 + 7 * n, seed=n)) for n in range(8)]
    asked = [(body, n % 2) for n, body in enumerate(bodies * 2)]
    doubling.upscaler.reset()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: doubling.upscale(one[0], strength=one[1]), asked))
    assert {lr.shape[1] for lr, _ in doubling.upscaler.calls} == {16, 64}
    for (body, strength), answer in zip(asked, answers, strict=True):
        assert answer.content == expected(doubling.upscaler, body, strength=strength)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scale": 0}, "scale: "),
        ({"scale": 16.5}, "scale: Input should be less than or equal to 16, found '16.5'"),
        ({"scale": "nan"}, "scale: "),
        ({"scale": "four"}, "scale: "),
        ({"format": "gif"}, "format: "),
        ({"quality": 0}, "quality: "),
        ({"output": "tokens"}, "output: "),
        ({"output": "confidence"}, "confidence: subpixel has none"),
        ({"confidence": "true"}, "confidence: subpixel has none"),
        (
            {"steps": 4},
            "steps: unknown, expected one of scale, seed, format, quality, output, confidence, "
            "consistent, color_fix, strength, noise",
        ),
        ({"strength": "much"}, "strength: expected a number, found 'much'"),
        ({"strength": "nan"}, "strength: expected 0 or more, found nan"),
        ({"noise": [0.1, 0.2]}, "noise: expected a number, found \"['0.1', '0.2']\""),
        ({"color_fix": "warm"}, "color_fix: expected one of adain, wavelet, none"),
        ({"consistent": 0}, "consistent: Input should be greater than 0"),
        ({"consistent": "nan"}, "consistent: "),
        ({"consistent": 1, "format": "jpg"}, "consistent: expected format png or tiff, found jpeg"),
        ({"consistent": 1, "scale": 0.5}, "consistent: expected a scale of at least 1, found 0.5"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, found '-1'"),
        ({"seed": 2**32}, "seed: Input should be less than"),
    ],
)
def test_a_mistake_computes_nothing(doubling, parameters, message):
    doubling.upscaler.reset()
    doubling.refuse(RGB, 422, message, **parameters)
    assert not doubling.upscaler.calls


def test_steps_are_limited():
    data = PICTURES["one pixel"]
    with serve(Watched(batch=1)) as served:
        assert served.upscale(data, steps=12).status_code == 200
        served.refuse(data, 422, "steps: expected at most 12 here", steps=13)
    with serve(Watched(batch=1), defaults={"steps": 5}, steps=2) as served:
        assert served.client.get("/info").json()["options"]["steps"] == 5
        assert served.upscale(data).status_code == 200
        served.refuse(data, 422, "steps: expected at most 5 here", steps=6)
        served.refuse(data, 422, "steps: expected at least 1, found 0", steps=0)
        served.refuse(data, 422, "plain: expected true or false", plain="no")


@pytest.mark.parametrize(
    ("body", "scale", "status", "message"),
    [
        (b"", 4, 415, "empty"),
        (b"%PDF-1.4\n%", 4, 415, "PDF files are not supported"),
        (RGB[:-40], 4, 415, "damaged or truncated"),
        (PICTURES["jpeg"][:-200], 4, 415, "damaged or truncated"),
        (png(flat(150, 150, 0)), 4, 413, "150x150 is more than the limit of 20,000 pixels"),
        (png(flat(100, 100, 0)), 8, 413, "100x100 is more than the limit of 5,000 pixels"),
        (png(flat(1, 3000, 0)), 4, 413, "3000x1 counts as 72,000 pixels"),
        (b"x" * 60_001, 4, 413, "limit of 60,000 bytes"),
    ],
)
def test_bodies_that_are_refused(served, body, scale, status, message):
    served.refuse(body, status, message, scale=scale)


def test_bodies_of_unknown_length(served):
    expect_error(served.upscale(b"x" * 10_000 for _ in range(100)), 413, "limit of 60,000 bytes")
    assert served.upscale(iter([RGB])).status_code == 200


def test_requests_that_are_no_images(served):
    answer = served.client.post("/upscale", files={"file": RGB})
    expect_error(answer, 415, "expected the image itself as the body")
    expect_error(served.client.get("/upscale"), 405, "Method Not Allowed")
    expect_error(served.client.get("/admin"), 404, "Not Found")


def test_a_format_that_cannot_hold_the_image(served):
    served.upscaler.reset()
    served.refuse(PICTURES["alpha"], 400, "JPEG cannot hold transparency", format="jpeg")
    assert not served.upscaler.calls
