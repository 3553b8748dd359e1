"""Pictures over HTTP: the upscaler's own bytes, whatever came, and however many at a time."""

import asyncio
import dataclasses
import io
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from launch.serve import app
from launch.serve.service import Limits, Service
from maskgit_sr.inference import images
from maskgit_sr.inference.images import from_array, from_bytes, to_bytes
from tests.launch.serve.models import Watched, flat, pixels
from tests.launch.serve.serving import LONG, serve, until, value

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def upscaler():
    return Watched(batch=3)


@pytest.fixture(scope="module")
def served(upscaler):
    with serve(upscaler, pixels=20_000, total_pixels=100_000, bytes=60_000) as found:
        yield found


def png(array):
    return to_bytes(from_array(array), "PNG")[0]


def turned_jpeg():
    """With a profile and the orientation that a camera held upright writes."""
    image = Image.fromarray(pixels(9, 14))
    exif = Image.Exif()
    exif[271], exif[274] = "Maker", 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif.tobytes(), icc_profile=ICC)
    return buffer.getvalue()


def palette_gif():
    buffer = io.BytesIO()
    frames = [Image.fromarray(pixels(6, 7, seed=n)).convert("P") for n in range(2)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


PICTURES = {
    "rgb": png(pixels(20, 13)),
    "one pixel": png(pixels(1, 1)),
    "row": png(pixels(1, 60)),
    "grey": png(pixels(8, 9, 1)),
    "grey and alpha": png(pixels(8, 9, 2)),
    "alpha": png(pixels(11, 6, 4)),
    "16 bits": png(pixels(7, 5).astype(np.uint16) * 257 + 3),
    "jpeg": turned_jpeg(),
    "webp": to_bytes(from_array(pixels(10, 10, 4)), "WEBP")[0],
    "tiff": to_bytes(from_array(pixels(5, 12)), "TIFF")[0],
    "gif": palette_gif(),
}


def expected(upscaler, data, kind="PNG", quality=95, **options):
    """What the upscaler makes of it in this thread."""
    restored = upscaler.restore(from_bytes(data), confidence=False, **options)
    return to_bytes(restored.picture, kind, quality=quality)[0]


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


def refused(answer, status, message):
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert set(found) == {"error"} and "\n" not in found["error"]
    assert message in found["error"], found


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scale": 0}, "scale: "),
        ({"scale": 16.5}, "scale: "),
        ({"scale": "nan"}, "scale: "),
        ({"scale": "four"}, "scale: "),
        ({"format": "gif"}, "format: "),
        ({"quality": 0}, "quality: "),
        ({"output": "tokens"}, "output: "),
        ({"scal": 2}, "scal: "),
    ],
)
def test_parameters_out_of_range(served, parameters, message):
    refused(served.upscale(PICTURES["rgb"], **parameters), 422, message)


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
    refused(served.upscale(body), 415, message)


def test_forms_are_refused(served):
    answer = served.client.post("/upscale", files={"file": PICTURES["rgb"]})
    refused(answer, 415, "expected the picture itself as the body")


@pytest.mark.parametrize(
    ("array", "scale", "message"),
    [
        (flat(150, 150, 0), 4, "150x150 is more than the limit of 20,000 pixels"),
        (flat(100, 100, 0), 8, "100x100 is more than the limit of 5,000 pixels"),
        (flat(1, 3000, 0), 4, "3000x1 counts as 24,000 pixels"),
    ],
)
def test_too_many_pixels(served, array, scale, message):
    refused(served.upscale(png(array), scale=scale), 413, message)


def test_too_many_bytes(served):
    refused(served.upscale(b"x" * 60_001), 413, "limit of 60,000 bytes")
    refused(served.upscale(b"x" * 5_000_000), 413, "limit of 60,000 bytes")


def test_too_many_bytes_of_unknown_number(served):
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 10_000

    refused(served.upscale(endless()), 413, "limit of 60,000 bytes")
    assert served.upscale(iter([PICTURES["rgb"]])).status_code == 200


def test_a_format_that_cannot_hold_the_picture(served, upscaler):
    upscaler.hold()
    upscaler.gate.set()
    refused(served.upscale(PICTURES["alpha"], format="jpeg"), 400, "JPEG cannot hold transparency")
    assert not upscaler.calls


def test_other_paths_and_verbs(served):
    refused(served.client.get("/upscale"), 405, "Method Not Allowed")
    refused(served.client.get("/admin"), 404, "Not Found")


def test_a_request_over_the_number_is_sent_away(upscaler):
    with serve(upscaler, requests=2) as served, ThreadPoolExecutor(2) as pool:
        upscaler.hold()
        first = [pool.submit(served.upscale, PICTURES[name]) for name in ("rgb", "alpha")]
        until(lambda: served.service.requests == 2)
        answer = served.upscale(PICTURES["grey"])
        refused(answer, 429, "too busy: 2 requests are being served")
        assert int(answer.headers["retry-after"]) >= 1
        assert served.client.get("/healthz").status_code == 200
        upscaler.gate.set()
        for request, name in zip(first, ("rgb", "alpha"), strict=True):
            assert request.result(LONG).content == expected(upscaler, PICTURES[name])
        assert served.upscale(PICTURES["grey"]).status_code == 200


def test_pixels_of_all_requests_are_limited(upscaler):
    limits = {"pixels": 4_000, "total_pixels": 5_000}
    with serve(upscaler, **limits) as served, ThreadPoolExecutor(1) as pool:
        upscaler.hold()
        first = pool.submit(served.upscale, png(flat(50, 60, 9)))
        assert upscaler.entered.wait(LONG)
        answer = served.upscale(png(flat(50, 60, 9)))
        refused(answer, 429, "pictures of 3,000 pixels are being restored")
        assert "retry-after" in answer.headers
        small = pool.submit(served.upscale, PICTURES["rgb"])
        upscaler.gate.set()
        assert first.result(LONG).status_code == small.result(LONG).status_code == 200


def test_too_late_is_dropped(upscaler):
    with serve(upscaler, timeout=0.4) as served:
        upscaler.hold()
        refused(served.upscale(png(flat(30, 30, 5))), 504, "no result within 0.4 s")
        text = served.client.get("/metrics").text
        assert value(text, "maskgit_sr_tiles_waiting") == 0
        assert value(text, "maskgit_sr_pixels_in_flight") == 0
        upscaler.gate.set()
        data = PICTURES["rgb"]
        assert served.upscale(data).content == expected(upscaler, data)
        assert not [lr for lr, _ in upscaler.calls[2:] if (lr == np.float32(5) / 255).all()]


def test_a_body_that_does_not_come(upscaler):
    head = b"POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n"
    with serve(upscaler, timeout=0.3) as served, served.raw(head, b"half") as connection:
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(1000)
        assert b" 408 " in answer and b"no whole body within 0.3 s" in answer


def test_a_client_that_leaves_costs_nothing_more(upscaler):
    data = png(flat(30, 30, 7))
    head = b"POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with serve(upscaler) as served:
        upscaler.hold()
        with served.raw(head % len(data), data):
            assert upscaler.entered.wait(LONG)
        until(lambda: served.service.requests == 0)
        text = served.client.get("/metrics").text
        assert value(text, "maskgit_sr_tiles_waiting") == 0
        with served.raw(head % len(data), data[:20]):  # and one within its body
            until(lambda: served.service.requests == 1)
        until(lambda: served.service.requests == 0)
        upscaler.gate.set()
        assert served.upscale(PICTURES["rgb"]).status_code == 200
        assert served.count(499) == 2 and len(upscaler.calls) < 20


def test_a_reader_that_stops_gives_up_its_place(upscaler):
    service = Service("nearest", Limits(timeout=0.3))
    service.start(upscaler)
    body = [{"type": "http.request", "body": PICTURES["rgb"]}]
    sent = []

    async def receive():
        return body.pop() if body else await asyncio.sleep(LONG)

    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.sleep(LONG)

    scope = {"type": "http", "method": "POST", "path": "/upscale", "query_string": b""}
    began = time.monotonic()
    asyncio.run(app.build(service)({**scope, "headers": []}, receive, send))
    assert time.monotonic() - began < LONG / 2
    assert [message.get("status") for message in sent] == [200, None]
    assert service.requests == 0
    assert value(service.metrics.text().decode(), 'maskgit_sr_requests_total{status="499"}') == 1
    service.close()


def test_a_broken_call_is_told_and_survived(upscaler, caplog):
    with serve(upscaler) as served:
        upscaler.breaks = lambda lr: (lr == np.float32(7) / 255).all((1, 2, 3)).any()
        refused(served.upscale(png(flat(20, 20, 7))), 500, "could not be restored (RuntimeError)")
        upscaler.breaks = lambda lr: False
        assert served.upscale(PICTURES["rgb"]).status_code == 200
        assert served.count(500) == 1 and "the device\nis broken" in caplog.text


def test_token(upscaler):
    with serve(upscaler, token="secret") as served:
        answer = served.upscale(PICTURES["rgb"])
        refused(answer, 401, "bearer token")
        assert answer.headers["www-authenticate"] == "Bearer"
        served.client.headers["Authorization"] = "Bearer wrong"
        refused(served.upscale(PICTURES["rgb"]), 401, "bearer token")
        served.client.headers["Authorization"] = "Bearer secret"
        assert served.upscale(PICTURES["rgb"]).status_code == 200
        del served.client.headers["Authorization"]
        assert served.client.get("/healthz").status_code == 200


def test_health_follows_the_model(upscaler):
    with serve(None) as served:
        refused(served.client.get("/healthz"), 503, "loading")
        answer = served.upscale(PICTURES["rgb"])
        refused(answer, 503, "the model is not ready")
        assert "retry-after" in answer.headers
        served.service.start(upscaler)
        answer = served.client.get("/healthz")
        assert (answer.status_code, answer.json()["model"]) == (200, "nearest")
        served.service.state = "stopping"
        refused(served.client.get("/healthz"), 503, "stopping")
        refused(served.upscale(PICTURES["rgb"]), 503, "the server is stopping")


def test_what_is_left_at_the_end_gets_503(upscaler):
    with serve(upscaler) as served, ThreadPoolExecutor(1) as pool:
        upscaler.hold()
        request = pool.submit(served.upscale, png(flat(30, 30, 7)))
        assert upscaler.entered.wait(LONG)
        threading.Timer(0.2, upscaler.gate.set).start()
        served.service.close()
        refused(request.result(LONG), 503, "the server is stopping")


def test_metrics(upscaler):
    with serve(upscaler) as served:
        tiles = upscaler.mosaic(from_bytes(PICTURES["rgb"]), upscaler.options()).count
        for _ in range(4):
            served.upscale(PICTURES["rgb"])
        served.upscale(b"no picture")
        text = served.client.get("/metrics").text
    expectations = {
        'maskgit_sr_requests_total{status="200"}': 4,
        'maskgit_sr_requests_total{status="415"}': 1,
        "maskgit_sr_requests_in_flight": 0,
        "maskgit_sr_request_seconds_count": 4,
        "maskgit_sr_tiles_total": 4 * tiles,
        "maskgit_sr_batch_tiles_sum": 4 * tiles,
        "maskgit_sr_tiles_waiting": 0,
    }
    assert {name: value(text, name) for name in expectations} == expectations
    assert value(text, "maskgit_sr_device_seconds_total") > 0


def test_metadata_is_not_shared_between_requests(served):
    plain = from_bytes(served.upscale(PICTURES["rgb"]).content)
    assert dataclasses.replace(plain, color=None) == dataclasses.replace(
        from_array(pixels(1, 1)), color=None
    )
