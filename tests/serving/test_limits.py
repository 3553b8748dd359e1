"""Too many, too late, gone, broken, stopping: what happens to a request, and to the others."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from maskgit_sr.images import from_bytes
from maskgit_sr.serving import app, server
from maskgit_sr.serving.service import Limits, Service
from tests.serving.bodies import PICTURES, expect_error, expected, png
from tests.serving.models import Watched, flat
from tests.serving.serving import LONG, serve, until, value


@pytest.fixture
def upscaler():
    return Watched(batch=3)


def test_a_request_over_the_number_is_sent_away(upscaler):
    with serve(upscaler, requests=2) as served, ThreadPoolExecutor(2) as pool:
        upscaler.hold()
        first = [pool.submit(served.upscale, PICTURES[name]) for name in ("rgb", "alpha")]
        until(lambda: served.service.requests == 2)
        answer = served.upscale(PICTURES["grey"])
        expect_error(answer, 429, "too busy: 2 requests are being served")
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
        expect_error(answer, 429, "images of 3,000 pixels are being restored")
        assert "retry-after" in answer.headers
        small = pool.submit(served.upscale, PICTURES["rgb"])
        upscaler.gate.set()
        assert first.result(LONG).status_code == small.result(LONG).status_code == 200


def test_too_late_is_dropped(upscaler):
    with serve(upscaler, timeout=0.4) as served:
        upscaler.hold()
        expect_error(served.upscale(png(flat(30, 30, 5))), 504, "no result within 0.4 s")
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
        expect_error(
            served.upscale(png(flat(20, 20, 7))), 500, "could not be restored (RuntimeError)"
        )
        upscaler.breaks = lambda lr: False
        assert served.upscale(PICTURES["rgb"]).status_code == 200
        assert served.count(500) == 1 and "the device\nis broken" in caplog.text


def test_token(upscaler):
    with serve(upscaler, token="secret") as served:
        answer = served.upscale(PICTURES["rgb"])
        expect_error(answer, 401, "bearer token")
        assert answer.headers["www-authenticate"] == "Bearer"
        served.client.headers["Authorization"] = "Bearer wrong"
        expect_error(served.upscale(PICTURES["rgb"]), 401, "bearer token")
        served.client.headers["Authorization"] = "Bearer secret"
        assert served.upscale(PICTURES["rgb"]).status_code == 200
        del served.client.headers["Authorization"]
        assert served.client.get("/healthz").status_code == 200


def test_health_follows_the_model(upscaler):
    with serve(None) as served:
        expect_error(served.client.get("/healthz"), 503, "loading")
        answer = served.upscale(PICTURES["rgb"])
        expect_error(answer, 503, "the model is not ready")
        assert "retry-after" in answer.headers
        served.service.start(upscaler)
        answer = served.client.get("/healthz")
        assert (answer.status_code, answer.json()["model"]) == (200, "nearest")
        served.service.state = "stopping"
        expect_error(served.client.get("/healthz"), 503, "stopping")
        expect_error(served.upscale(PICTURES["rgb"]), 503, "the server is stopping")


def test_what_is_left_at_the_end_gets_503(upscaler):
    with serve(upscaler) as served, ThreadPoolExecutor(1) as pool:
        upscaler.hold()
        request = pool.submit(served.upscale, png(flat(30, 30, 7)))
        assert upscaler.entered.wait(LONG)
        threading.Timer(0.2, upscaler.gate.set).start()
        served.service.close()
        expect_error(request.result(LONG), 503, "the server is stopping")


@pytest.mark.parametrize(("grace", "hurry"), [(LONG, True), (0.1, False)])
def test_waiting_for_the_last_request_ends(grace, hurry):
    async def wait():
        hurried = asyncio.Event()
        if hurry:
            asyncio.get_running_loop().call_later(0.1, hurried.set)
        await server.ended(SimpleNamespace(requests=1), hurried, grace)

    began = time.monotonic()
    asyncio.run(wait())
    assert 0.1 <= time.monotonic() - began < LONG / 2


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
