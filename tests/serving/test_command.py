"""`python -m launch.serve` as people start and stop it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

import httpx
import jax

import maskgit_sr
from maskgit_sr import bundles, serving
from maskgit_sr.images import from_array, from_bytes, to_bytes
from maskgit_sr.serving import command
from tests.serving.models import pixels
from tests.serving.serving import LONG, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(method, params, tmp_path_factory):
    """The tiny RealSRT as a file."""
    path = tmp_path_factory.mktemp("bundle") / "tiny.safetensors"
    bundles.write(path, params, bundles.Metadata(method.name, method.describe(), method.scale))
    return path


@contextlib.contextmanager
def started(*options):
    """(process, client) of a server; killed afterwards if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.serve", "--port", "0", *map(str, options)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        },
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


def test_a_stop_loses_no_request(bundle):
    array = pixels(90, 60)
    data = to_bytes(from_array(array), "PNG")[0]
    run = started("--model", bundle, "--log_requests")
    with run as (process, client), ThreadPoolExecutor(1) as pool:
        assert client.get("/healthz").status_code in (200, 503)  # it answers while it compiles
        assert process.stdout.readline().startswith("launch.serve: tiny is ready on cpu after")
        assert client.get("/healthz").json() == {"status": "ready", "model": "tiny"}
        answer = pool.submit(client.post, "/upscale", content=data)
        until(lambda: "in_flight 1.0" in client.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/healthz").status_code == 503)
        late = client.post("/upscale", content=data)
        assert (late.status_code, late.json()) == (503, {"error": "the server is stopping"})
        found = from_bytes(answer.result(2 * LONG).content)
        assert process.wait(LONG) == 0
        said = process.stderr.read()
        assert "Traceback" not in said and '"POST /upscale HTTP/1.1" 200' in said
        with pytest.raises(httpx.ConnectError):
            client.get("/healthz")
    image = maskgit_sr.load(bundle)(array, confidence=False).image
    assert (found.color == image).all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_loading(bundle, number):
    with started("--model", bundle) as (process, client):
        assert client.get("/healthz").status_code in (200, 503)
        process.send_signal(number)
        assert process.wait(LONG) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "realsrt-huge"], "model: expected a path or one of"),
        (["--model", "none.safetensors"], "model: no such bundle"),
        (["--port", "70000"], "--port: expected at most 65535, found 70000"),
        (["--port", "-1"], "--port: expected at least 0, found -1"),
        (["--max_batch", "0"], "--max_batch: expected at least 1, found 0"),
        (["--max_wait_ms", "nan"], "--max_wait_ms: expected at least 0, found nan"),
        (["--max_queue", "0"], "--max_queue: expected at least 1"),
        (["--timeout_s", "0"], "--timeout_s: expected more than 0"),
        (["--max_steps", "0"], "--max_steps: expected at least 1"),
        (["--steps", "0", "--port", "0"], "steps: expected at least 1"),
        (["--option", "rule"], "--option: expected NAME=VALUE, found 'rule'"),
        (
            ["--option", "rules=critic", "--port", "0"],
            "rules: realsrt has no such option",
        ),
        (["--option", "control=maybe", "--port", "0"], "control: expected true or false"),
        (["--max_pixels", "700", "--port", "0"], "--max_pixels: expected at least 768, as which"),
        (["--host", "192.0.2.1"], "192.0.2.1 port 8000: cannot listen"),
        (["--color_fix", "warm", "--port", "0"], "color_fix: expected one of adain"),
        (["--device", "abacus", "--port", "0"], "device: expected cpu, gpu or tpu"),
        (["--dtype", "int4", "--port", "0"], "int4"),
    ],
)
def test_mistakes_are_one_line(bundle, capsys, options, message):
    model = [] if "--model" in options else ["--model", str(bundle)]
    with pytest.raises(SystemExit, match="2"):
        command.main([*model, *options])
    said = capsys.readouterr().err
    assert message in said and said.startswith("launch.serve: ") and said.count("\n") == 1


def test_a_damaged_bundle_is_one_line(tmp_path, capsys):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(SystemExit, match="2"):
        command.main(["--model", str(path), "--port", "0"])
    said = capsys.readouterr().err
    assert said.startswith(f"launch.serve: {path}") and said.count("\n") == 1


def test_a_port_in_use_is_one_line(bundle, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match="2"):
            command.main(["--model", str(bundle), "--port", str(port)])
    said = capsys.readouterr().err
    assert said == f"launch.serve: 127.0.0.1 port {port}: cannot listen (Address already in use)\n"


@pytest.mark.parametrize("missing", ["fastapi", "prometheus_client"])
def test_a_missing_extra_is_one_line(bundle, capsys, monkeypatch, missing):
    for name in ("app", "server", "service", "metrics"):
        monkeypatch.delitem(sys.modules, f"maskgit_sr.serving.{name}", raising=False)
        monkeypatch.delattr(serving, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match="2"):
        command.main(["--model", str(bundle)])
    said = capsys.readouterr().err
    assert said == f"launch.serve: {missing} is missing: pip install 'maskgit-sr[serve]'\n"


def test_numbers_that_are_none(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--port", "many"])
    assert "--port: invalid int value" in capsys.readouterr().err
