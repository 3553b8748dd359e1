"""Clients that hold on to heads, bodies, responses and connections, or send what is no HTTP."""

import gzip
import json
import socket
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from tests.serving.models import Watched, flat
from tests.serving.serving import LONG, RGB, expect_error, expected, png, serve, until

HEAD = b"POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def upscaler():
    return Watched(batch=3)


@pytest.fixture(scope="module")
def strict(upscaler):
    """A server with little patience."""
    with serve(
        upscaler, pause=0.3, rate=10_000, connections=4, bytes=60_000, total_bytes=100_000
    ) as found:
        yield found


def answer(connection):
    """(status, error message) of all that comes until the connection is closed."""
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else None, json.loads(body)["error"] if body else ""


def test_a_head_that_never_ends(strict):
    began = time.monotonic()
    with strict.raw(b"POST /upscale HTTP/1.1\r\nHost: x\r\nX-Slow: ") as connection:
        assert answer(connection) == (408, "no whole head within 0.3 s")
    assert 0.25 < time.monotonic() - began < LONG
    with strict.raw() as silent:  # nothing is said to who says nothing
        assert answer(silent) == (None, "")


def test_bytes_do_not_prolong_a_head(strict):
    with strict.raw(b"GET / HTTP/1.1\r\nX: ") as connection, pytest.raises(OSError):
        for _ in range(LONG * 10):
            connection.sendall(b"a")
            time.sleep(0.1)


def test_a_connection_without_a_request_is_closed(strict):
    with strict.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        data = b""
        while piece := connection.recv(1 << 16):  # the response, and in the end nothing
            data += piece
        assert data.count(b"HTTP/1.1 200") == 1


def test_the_rest_of_a_refused_body_is_not_read_for_ever(strict):
    with strict.raw(HEAD % 10_000_000) as connection, pytest.raises(OSError):
        for _ in range(LONG * 10):
            connection.sendall(b"a")
            time.sleep(0.1)


@pytest.mark.parametrize("more", [b"", b"b"])
def test_a_body_that_is_too_slow(strict, more):
    with strict.raw(HEAD % 500, b"half") as connection:
        if more:
            time.sleep(0.15)
            connection.sendall(more)
        status, message = answer(connection)
    assert status == 408
    assert message == (
        f"the body came too slowly: expected 10000 bytes a second, found {4 + len(more)} bytes"
    )
    until(lambda: strict.service.transfers.held == 0)


def test_uploads_take_no_places(upscaler):
    with serve(upscaler, requests=1) as served:
        slow = [served.raw(HEAD % 500, b"a") for _ in range(5)]
        until(lambda: served.service.requests == 5)
        served.check(RGB)
        for connection in slow:
            connection.close()


def test_bodies_share_a_number_of_bytes(upscaler):
    with serve(upscaler, bytes=60_000, total_bytes=100_000, pause=LONG) as served:
        first, second = (served.raw(HEAD % 60_000, bytes(49_000)) for _ in range(2))
        until(lambda: served.service.transfers.held == 98_000)
        refused = served.refuse(png(flat(40, 40, 1)) + bytes(5000), 429, "hold all bytes")
        # not before the first of them must have gone on
        assert LONG - 5 < int(refused.headers["retry-after"]) <= LONG
        time.sleep(1.1)
        served.check(RGB + bytes(5000))  # those that were silent give way
        with first, second:
            assert answer_to(first) == 408  # the one silent for longer
            second.sendall(bytes(11_000))
            assert answer_to(second) == 415
        assert served.service.transfers.held == 0


def answer_to(connection):
    """The status of the next response."""
    return int(connection.recv(1 << 16).split()[1])


def test_the_oldest_idle_connection_gives_way(strict):
    idle = [strict.raw() for _ in range(6)]
    strict.client.get("/healthz")
    strict.check(RGB)
    for connection in idle:
        connection.close()


def test_too_many_busy_connections(upscaler):
    with serve(upscaler, connections=3) as served:
        busy = [served.raw(HEAD % 500, b"a") for _ in range(3)]
        until(lambda: served.service.requests == 3)
        with served.raw() as connection:
            status, message = answer(connection)
            assert status == 503 and "3 connections are open" in message
        for connection in busy:
            connection.close()
        until(lambda: served.service.requests == 0)
        served.check(RGB)


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"hello\r\n\r\n", 400, "illegal request line"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "Content-Length"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: br\r\n\r\n", 501, "Transfer-Encoding"),
        (b"GET /" + b"a" * 70_000, 431, "too long"),
        (
            b"POST /upscale HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            400,
            "",
        ),
    ],
)
def test_what_is_no_http_is_told_as_json(strict, caplog, sent, status, message):
    with strict.raw(sent) as connection:
        found = answer(connection)
    assert found[0] == status and message in found[1]
    assert found[1].startswith("not a valid HTTP request (") and "\n" not in found[1]
    assert not caplog.text


def test_compressed_bodies(strict):
    def post(data, coding):
        return strict.client.post("/upscale", content=data, headers={"Content-Encoding": coding})

    for coding in ("gzip", "GZIP", "x-gzip"):
        assert post(gzip.compress(RGB), coding).content == expected(strict.upscaler, RGB)
    assert post(RGB, "identity").status_code == 200
    expect_error(post(gzip.compress(bytes(60_001)), "gzip"), 413, "limit of 60,000 bytes")
    expect_error(post(RGB, "gzip"), 415, "Content-Encoding: the body cannot be decompressed")
    for coding in ("br", "gzip, gzip"):
        refused = post(RGB, coding)
        expect_error(refused, 415, "Content-Encoding: expected gzip or deflate, found")
        assert refused.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(("name", "kind"), [("jpg", "jpeg"), ("tif", "tiff")])
def test_formats_have_the_command_lines_names(strict, name, kind):
    found = strict.upscale(RGB, format=name)
    assert found.headers["content-type"] == f"image/{kind}"
    assert found.content == expected(strict.upscaler, RGB, kind.upper())


def test_the_token_comes_first(upscaler):
    with serve(upscaler, token="secret") as served:
        for scheme in ("Bearer", "bearer", "BEARER"):
            served.client.headers["Authorization"] = f"{scheme} secret"
            served.check(RGB)
        for value in ("secret", "Basic secret", "bearer", "bearer secret2"):
            served.client.headers["Authorization"] = value
            served.refuse(RGB, 401, "bearer token", scale="none")
        assert served.count(401) == 4
        # the route takes a line break at its end
        expect_error(served.client.post("/upscale%0A", content=RGB), 401, "bearer token")


def test_a_body_is_not_held_while_its_image_waits(upscaler):
    with serve(upscaler) as served:
        upscaler.hold()
        data = png(flat(30, 30, 7)) + bytes(500_000)
        with served.raw(HEAD % len(data), data):
            assert upscaler.entered.wait(LONG)
            assert served.service.requests == 1 and served.service.transfers.held == 0
        upscaler.gate.set()


def test_responses_that_are_not_read_are_given_up(strict):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(LONG)
        connection.connect(("127.0.0.1", strict.port))
        with pytest.raises(ConnectionError):  # closed by force
            while True:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    strict.check(RGB)


def test_transfers_that_hold_nothing_are_forgotten(upscaler):
    with serve(upscaler) as served:
        for _ in range(3):
            served.check(RGB)
        until(lambda: served.service.transfers.held == 0)
        assert not served.service.transfers._holding
