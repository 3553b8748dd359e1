"""`python -m launch.serve` as people start and stop it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

import httpx

import maskgit_sr
from maskgit_sr import serving
from maskgit_sr.serving import command
from tests.serving.models import pixels
from tests.serving.serving import LONG, RGB, expect_error, expected, png, until

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def started(*options):
    """(process, client) of a server; killed afterwards if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.serve", "--port", "0", *map(str, options)],
        cwd=ROOT,
        env={**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = process.stdout.readline()
        assert first.startswith("launch.serve: http://127.0.0.1:"), process.stderr.read()
        with httpx.Client(base_url=first.split()[-1], timeout=2 * LONG) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def test_a_stop_loses_no_request(subpixel):
    half = threading.Event()

    def body():
        yield RGB[:20]
        assert half.wait(LONG)
        yield RGB[20:]

    run = started("--model", subpixel, "--log_requests")
    with run as (process, client), ThreadPoolExecutor(1) as pool:
        assert client.get("/healthz").status_code in (200, 503)  # it answers while it compiles
        assert process.stdout.readline().startswith("launch.serve: subpixel is ready on cpu after")
        assert client.get("/healthz").json() == {"status": "ready", "model": "subpixel"}
        answer = pool.submit(client.post, "/upscale", content=body())
        until(lambda: "in_flight 1.0" in client.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/healthz").status_code == 503)
        expect_error(client.post("/upscale", content=RGB), 503, "the server is stopping")
        half.set()
        assert answer.result(LONG).content == expected(maskgit_sr.load(subpixel), RGB)
        assert process.wait(LONG) == 0
        said = process.stderr.read()
        assert "Traceback" not in said and '"POST /upscale HTTP/1.1" 200' in said
        with pytest.raises(httpx.ConnectError):
            client.get("/healthz")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_loading(subpixel, number):
    with started("--model", subpixel) as (process, client):
        assert client.get("/healthz").status_code in (200, 503)
        process.send_signal(number)
        assert process.wait(LONG) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_stop_waits_for_nobody_beyond_its_grace(subpixel):
    head = b"POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    slow = png(pixels(1900, 1900))  # half a second to decode, and minutes to restore
    with started("--model", subpixel, "--grace_s", 1) as (process, client):
        process.stdout.readline()
        address = client.base_url.host, client.base_url.port
        sent = [
            b"",
            b"POST",
            head % 500 + b"half",
            head % len(slow) + slow,
            head % len(slow) + slow,
        ]
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(socket.create_connection(address)) for _ in sent]
            for connection, data in zip(connections, sent, strict=True):
                connection.sendall(data)
            until(lambda: "in_flight 3.0" in client.get("/metrics").text)
            codecs = children(process.pid)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(LONG) == 0
            assert 1 <= time.monotonic() - began < 3
            for connection in connections[2:]:
                assert b" 503 " in connection.recv(1000)
        assert codecs
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in codecs))
        assert "Traceback" not in process.stderr.read()


def children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [child for path in tasks for child in path.read_text().split()]


def mistake(capsys, *options):
    """The line that the command ends with."""
    with pytest.raises(SystemExit, match="2"):
        command.main(list(map(str, options)))
    said = capsys.readouterr().err
    assert said.startswith("launch.serve: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model realsrt-huge", "model: expected a path or one of"),
        ("--model none.safetensors", "model: no such bundle"),
        ("--port 70000", "--port: expected at most 65535, found 70000"),
        ("--port -1", "--port: expected at least 0, found -1"),
        ("--max_batch 0", "--max_batch: expected at least 1, found 0"),
        ("--max_wait_ms nan", "--max_wait_ms: expected at least 0, found nan"),
        ("--max_queue 0", "--max_queue: expected at least 1"),
        ("--timeout_s 0", "--timeout_s: expected more than 0"),
        ("--max_connections 0", "--max_connections: expected at least 1"),
        ("--pause_s 0", "--pause_s: expected more than 0"),
        ("--min_rate nan", "--min_rate: expected at least 1"),
        ("--max_bytes 9 --max_total_bytes 8", "--max_total_bytes: expected at least --max_bytes"),
        ("--max_steps 0", "--max_steps: expected at least 1"),
        ("--steps 4 --port 0", "steps: subpixel has no such option"),
        ("--option rule", "--option: expected NAME=VALUE, found 'rule'"),
        ("--option rules=critic --port 0", "rules: subpixel has no such option"),
        ("--option noise=much --port 0", "noise: expected a number"),
        ("--max_pixels 700 --port 0", "--max_pixels: expected at least 768, as which"),
        ("--host 192.0.2.1", "192.0.2.1 port 8000: cannot listen"),
        ("--color_fix warm --port 0", "color_fix: expected one of adain"),
        ("--device abacus --port 0", "device: expected cpu, gpu or tpu"),
        ("--dtype int4 --port 0", "int4"),
    ],
)
def test_mistakes_are_one_line(subpixel, capsys, options, message):
    assert message in mistake(capsys, "--model", subpixel, *options.split())


def test_a_damaged_bundle_is_one_line(tmp_path, capsys):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    assert mistake(capsys, "--model", path, "--port", "0").startswith(f"launch.serve: {path}")


def test_a_port_in_use_is_one_line(subpixel, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = mistake(capsys, "--model", subpixel, "--port", port)
    assert f"127.0.0.1 port {port}: cannot listen (Address already in use)" in said


@pytest.mark.parametrize("missing", ["fastapi", "prometheus_client"])
def test_a_missing_extra_is_one_line(subpixel, capsys, monkeypatch, missing):
    for name in ("app", "server", "service", "metrics"):
        monkeypatch.delitem(sys.modules, f"maskgit_sr.serving.{name}", raising=False)
        monkeypatch.delattr(serving, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    said = mistake(capsys, "--model", subpixel)
    assert said == f"launch.serve: {missing} is missing: pip install 'maskgit-sr[serve]'\n"
