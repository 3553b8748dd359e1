"""Pictures over HTTP: the upscaler's own bytes, whatever came, and however many at a time."""

import io
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from maskgit_sr import images
from maskgit_sr.images import from_bytes, to_bytes
from tests.serving.bodies import ICC, PICTURES, expect_error, expected, png
from tests.serving.models import Watched, flat, pixels
from tests.serving.serving import serve


@pytest.fixture(scope="module")
def upscaler():
    return Watched(batch=3)


@pytest.fixture(scope="module")
def served(upscaler):
    with serve(upscaler, pixels=20_000, total_pixels=100_000, bytes=60_000) as found:
        yield found


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("scale", [4, 2.5])
def test_the_answer_is_the_upscalers(served, upscaler, name, scale):
    data = PICTURES[name]
    answer = served.upscale(data, scale=scale)
    assert answer.status_code == 200, answer.text
    assert answer.content == expected(upscaler, data, scale=scale)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-model"] == "nearest"
    assert answer.headers["server-timing"].startswith("decode;dur=")


def test_a_photograph_keeps_what_it_carries(served):
    back = from_bytes(served.upscale(PICTURES["jpeg"], format="jpeg").content)
    assert back.color.shape == (56, 36, 3) and back.icc == ICC and b"Maker" in back.exif


def test_notes_are_a_header(served):
    assert served.upscale(PICTURES["gif"]).headers["x-notes"] == "animated: first frame used"
    assert "x-notes" not in served.upscale(PICTURES["rgb"]).headers


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_formats_and_quality(served, upscaler, kind):
    data = PICTURES["rgb"]
    answer = served.upscale(data, format=kind, quality=30)
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.content == expected(upscaler, data, kind.upper(), 30)
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == kind.upper() and image.size == (52, 80)


def test_confidence(served, upscaler):
    data = PICTURES["alpha"]
    restored = upscaler.restore(from_bytes(data))
    answer = served.upscale(data, confidence="true")
    assert answer.content == to_bytes(restored.picture, "PNG")[0]
    assert float(answer.headers["x-confidence"]) == pytest.approx(
        restored.confidence.mean(), abs=1e-4
    )
    answer = served.upscale(data, output="confidence", format="jpeg", quality=100)
    grey = images.from_confidence(restored.confidence, 44, 24)
    assert answer.content == to_bytes(grey, "JPEG", quality=100)[0]


def test_one_in_many_at_a_time(served, upscaler):
    """No answer is lost, or another's."""
    bad = [png(pixels(20, 20, seed=n))[:-30] for n in range(3)]
    bodies = [png(pixels(1 + 5 * n % 33, 1 + 11 * n % 41, n % 4 + 1)) for n in range(50)]
    bodies += [*bad, png(pixels(160, 160)), b"no picture", *PICTURES.values()]
    random.Random(0).shuffle(bodies)
    before = served.count(200)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(served.upscale, bodies))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(415) == 4 and statuses.count(413) == 1
    for body, answer in zip(bodies, answers, strict=True):
        if answer.status_code == 200:
            assert answer.content == expected(upscaler, body)
        else:
            assert set(answer.json()) == {"error"}
    assert statuses.count(200) == len(bodies) - 5 == served.count(200) - before


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
        ({"scal": 2}, "scal: "),
    ],
)
def test_parameters_out_of_range(served, parameters, message):
    expect_error(served.upscale(PICTURES["rgb"], **parameters), 422, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "empty"),
        (b"hello", "not a picture that can be decoded"),
        (b"%PDF-1.4\n%", "not a picture that can be decoded"),
        (PICTURES["rgb"][:-40], "damaged or truncated"),
        (PICTURES["jpeg"][:-200], "damaged or truncated"),
    ],
)
def test_what_is_no_picture(served, body, message):
    expect_error(served.upscale(body), 415, message)


def test_forms_are_refused(served):
    answer = served.client.post("/upscale", files={"file": PICTURES["rgb"]})
    expect_error(answer, 415, "expected the image itself as the body")


@pytest.mark.parametrize(
    ("array", "scale", "message"),
    [
        (flat(150, 150, 0), 4, "150x150 is more than the limit of 20,000 pixels"),
        (flat(100, 100, 0), 8, "100x100 is more than the limit of 5,000 pixels"),
        (flat(1, 3000, 0), 4, "3000x1 counts as 72,000 pixels"),
    ],
)
def test_too_many_pixels(served, array, scale, message):
    expect_error(served.upscale(png(array), scale=scale), 413, message)


def test_too_many_bytes(served):
    expect_error(served.upscale(b"x" * 60_001), 413, "limit of 60,000 bytes")
    expect_error(served.upscale(b"x" * 5_000_000), 413, "limit of 60,000 bytes")


def test_too_many_bytes_of_unknown_number(served):
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 10_000

    expect_error(served.upscale(endless()), 413, "limit of 60,000 bytes")
    assert served.upscale(iter([PICTURES["rgb"]])).status_code == 200


def test_a_format_that_cannot_hold_the_picture(served, upscaler):
    upscaler.hold()
    upscaler.gate.set()
    expect_error(
        served.upscale(PICTURES["alpha"], format="jpeg"), 400, "JPEG cannot hold transparency"
    )
    assert not upscaler.calls


def test_other_paths_and_verbs(served):
    expect_error(served.client.get("/upscale"), 405, "Method Not Allowed")
    expect_error(served.client.get("/admin"), 404, "Not Found")
