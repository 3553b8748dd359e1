"""Too many, too late, gone, broken, stopping: what happens to a request, and to the others."""

import asyncio
import dataclasses
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
from tests.serving.models import Watched, flat
from tests.serving.serving import (
    LONG,
    PICTURES,
    RGB,
    expect_error,
    expected,
    png,
    serve,
    until,
    value,
)

HEAD = b"POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def upscaler():
    return Watched(batch=3)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as found:
        yield found


def wait_at_most(service, seconds):
    """Sets the time limit of a running service."""
    service.limits = dataclasses.replace(service.limits, timeout=seconds)


def test_a_request_over_the_number_is_sent_away(upscaler, pool):
    with serve(upscaler, requests=2) as served:
        upscaler.hold()
        names = "rgb", "alpha"
        first = [pool.submit(served.upscale, PICTURES[name]) for name in names]
        until(lambda: served.service.requests == 2)
        answer = served.refuse(PICTURES["grey"], 429, "too busy: 2 requests are being served")
        assert int(answer.headers["retry-after"]) >= 1
        assert served.client.get("/healthz").status_code == 200
        upscaler.gate.set()
        for request, name in zip(first, names, strict=True):
            assert request.result(LONG).content == expected(upscaler, PICTURES[name])
        served.check(PICTURES["grey"])


def test_pixels_of_all_requests_are_limited(upscaler, pool):
    with serve(upscaler, pixels=4_000, total_pixels=5_000) as served:
        upscaler.hold()
        first = pool.submit(served.upscale, png(flat(50, 60, 9)))
        assert upscaler.entered.wait(LONG)
        answer = served.refuse(png(flat(50, 60, 9)), 429, "images of 3,000 pixels are being")
        assert "retry-after" in answer.headers
        small = pool.submit(served.upscale, RGB)
        upscaler.gate.set()
        assert first.result(LONG).status_code == small.result(LONG).status_code == 200


def test_too_late_is_dropped(upscaler):
    with serve(upscaler) as served:
        upscaler.hold()
        wait_at_most(served.service, 0.1)
        served.refuse(png(flat(30, 30, 5)), 504, "no result within 0.1 s")
        wait_at_most(served.service, LONG)
        assert served.metric("maskgit_sr_tiles_waiting") == 0
        assert served.metric("maskgit_sr_pixels_in_flight") == 0
        upscaler.gate.set()
        served.check(RGB)
        assert not [lr for lr, _ in upscaler.calls[2:] if (lr == np.float32(5) / 255).all()]


def test_a_body_that_does_not_come(upscaler):
    with serve(upscaler, timeout=0.1) as served, served.raw(HEAD % 500, b"half") as connection:
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(1000)
        assert b" 408 " in answer and b"no whole body within 0.1 s" in answer


def test_a_client_that_leaves_costs_nothing_more(upscaler):
    data = png(flat(30, 30, 7))
    with serve(upscaler) as served:
        upscaler.hold()
        with served.raw(HEAD % len(data), data):
            assert upscaler.entered.wait(LONG)
        until(lambda: served.service.requests == 0)
        assert served.metric("maskgit_sr_tiles_waiting") == 0
        with served.raw(HEAD % len(data), data[:20]):  # and one within its body
            until(lambda: served.service.requests == 1)
        until(lambda: served.service.requests == 0)
        upscaler.gate.set()
        served.check(RGB)
        assert served.count(499) == 2 and len(upscaler.calls) < 20


def test_a_reader_that_stops_gives_up_its_place(upscaler):
    service = Service("nearest", Limits(timeout=LONG))
    service.start(upscaler)
    body = [{"type": "http.request", "body": RGB}]
    sent = []

    async def receive():
        return body.pop() if body else await asyncio.sleep(LONG)

    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.sleep(LONG)
        wait_at_most(service, 0.1)

    scope = {"type": "http", "method": "POST", "path": "/upscale", "query_string": b""}
    asyncio.run(app.build(service)({**scope, "headers": []}, receive, send))
    assert [message.get("status") for message in sent] == [200, None]
    assert service.requests == 0
    assert value(service.metrics.text().decode(), 'maskgit_sr_requests_total{status="499"}') == 1
    service.close()


def test_a_broken_call_is_told_and_survived(upscaler, caplog):
    with serve(upscaler) as served:
        upscaler.breaks = lambda lr: (lr == np.float32(7) / 255).all((1, 2, 3)).any()
        served.refuse(png(flat(20, 20, 7)), 500, "could not be restored (RuntimeError)")
        served.check(RGB)
        assert served.count(500) == 1 and "the device\nis broken" in caplog.text


def test_token(upscaler):
    with serve(upscaler, token="secret") as served:
        answer = served.refuse(RGB, 401, "bearer token")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert served.client.get("/healthz").status_code == 200
        served.client.headers["Authorization"] = "Bearer wrong"
        served.refuse(RGB, 401, "bearer token")
        served.client.headers["Authorization"] = "Bearer secret"
        served.check(RGB)


def test_health_follows_the_model(upscaler):
    with serve(None) as served:
        expect_error(served.client.get("/healthz"), 503, "loading")
        assert "retry-after" in served.refuse(RGB, 503, "the model is not ready").headers
        served.service.start(upscaler)
        answer = served.client.get("/healthz")
        assert (answer.status_code, answer.json()["model"]) == (200, "nearest")
        served.service.state = "stopping"
        expect_error(served.client.get("/healthz"), 503, "stopping")
        served.refuse(RGB, 503, "the server is stopping")


def test_what_is_left_at_the_end_gets_503(upscaler, pool):
    with serve(upscaler) as served:
        upscaler.hold()
        request = pool.submit(served.upscale, png(flat(30, 30, 7)))
        until(lambda: served.metric("maskgit_sr_tiles_waiting"))
        closing = pool.submit(served.service.close)
        until(lambda: not served.metric("maskgit_sr_tiles_waiting"))
        upscaler.gate.set()
        expect_error(request.result(LONG), 503, "the server is stopping")
        closing.result(LONG)


@pytest.mark.parametrize(("grace", "hurry"), [(LONG, True), (0.1, False)])
def test_waiting_for_the_last_request_ends(grace, hurry):
    async def wait():
        hurried = asyncio.Event()
        if hurry:
            asyncio.get_running_loop().call_later(0.1, hurried.set)
        await server.ended(SimpleNamespace(requests=1), hurried, grace)

    began = time.monotonic()
    asyncio.run(wait())
    assert 0.1 <= time.monotonic() - began < LONG


def test_metrics(upscaler):
    with serve(upscaler) as served:
        tiles = upscaler.mosaic(from_bytes(RGB), upscaler.options()).count
        for body in [RGB] * 4 + [b"no picture"]:
            served.upscale(body)
        expectations = {
            'maskgit_sr_requests_total{status="200"}': 4,
            'maskgit_sr_requests_total{status="415"}': 1,
            "maskgit_sr_requests_in_flight": 0,
            "maskgit_sr_request_seconds_count": 4,
            "maskgit_sr_tiles_total": 4 * tiles,
            "maskgit_sr_batch_tiles_sum": 4 * tiles,
            "maskgit_sr_tiles_waiting": 0,
        }
        assert {name: served.metric(name) for name in expectations} == expectations
        assert served.metric("maskgit_sr_device_seconds_total") > 0
