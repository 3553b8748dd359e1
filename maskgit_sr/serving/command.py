"""Serves a model over HTTP.

    maskgit-sr serve --model realsrt-nano --port 8000
    curl --data-binary @photo.jpg 'http://127.0.0.1:8000/upscale?format=jpeg' -o restored.jpg

The address that it prints is a page for browsers: drop photographs there. /docs describes the API.

POST /upscale takes an image as its body and responds with the restored one. Parameters: scale,
seed, format=png|jpeg|webp|tiff, quality, output=image|confidence, confidence=true (its mean, in the
header X-Confidence), and the method's own options, which GET /info lists. GET /healthz is 200 while
requests are taken; GET /metrics is for Prometheus.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from maskgit_sr.errors import UserError, one_line
from maskgit_sr.inference import DEFAULT_MODEL

_AT_LEAST = {"port": 0, "max_wait_ms": 0, "grace_s": 0} | dict.fromkeys(
    (
        *("max_batch", "max_pixels", "max_total_pixels", "max_bytes", "max_total_bytes"),
        *("max_queue", "max_connections", "max_steps", "min_rate"),
    ),
    1,
)


def parser(prog: str = "launch.serve") -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    found = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--model", default=DEFAULT_MODEL, help="name of a bundle, or its path")
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all")
    add("--port", type=int, default=8000, help="0 takes a free one (8000)")
    add("--max_batch", type=int, help="tiles a device call (1 on CPU, else 32)")
    add("--max_wait_ms", type=float, default=5, help="what a call waits to be filled (5)")
    add("--max_pixels", type=int, default=4_000_000, help="of an image (4,000,000)")
    add("--max_total_pixels", type=int, help="of all that are being restored (2 x max_pixels)")
    add("--max_bytes", type=int, default=32_000_000, help="of a body (32,000,000)")
    add("--max_total_bytes", type=int, help="of all bodies and responses held (8 x max_bytes)")
    add("--max_queue", type=int, default=64, help="requests worked on; others get 429 (64)")
    add("--max_connections", type=int, default=512, help="others wait or get 503 (512)")
    add("--timeout_s", type=float, default=120, help="of a request, then it gets 504 (120)")
    add("--job_timeout_s", type=float, default=1800, help="of a job of the page (1800)")
    add("--keep_s", type=float, default=600, help="that a finished job is kept (600)")
    add("--pause_s", type=float, default=10, help="that a client may be silent (10)")
    add("--min_rate", type=float, default=1000, help="bytes/s of a body, else it gets 408 (1000)")
    add("--grace_s", type=float, default=30, help="for requests in flight at SIGTERM (30)")
    add("--device", help="cpu, gpu or tpu (the best there is)")
    add("--dtype", help="float32 or bfloat16 (by device)")
    add("--steps", type=int, help="decoding steps (the model's)")
    add("--max_steps", type=int, help="that a request may ask for (4 times the server's)")
    add("--color_fix", help="adain, wavelet or none (the method's)")
    many: Any = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    add("--option", help="another option of the method; repeatable", **many)
    add("--token", help="bearer that work asks for; or MASKGIT_SR_TOKEN, which ps does not show")
    add("--log_requests", action="store_true", help="a line for every request")
    return found


def main(argv: list[str] | None = None, prog: str = "launch.serve") -> int:
    """Runs the command, called `prog`; a user's mistake gives one line and exit code 2."""
    given = parser(prog).parse_args(argv)
    with one_line(prog):
        _serve(given, prog)
    return 0


def _serve(given: argparse.Namespace, prog: str) -> None:
    for name, least in _AT_LEAST.items():
        value = getattr(given, name)
        if value is not None and not value >= least:  # true for NaN too
            raise UserError(f"--{name}: expected at least {least}, found {value:g}")
    if given.port > 65535:
        raise UserError(f"--port: expected at most 65535, found {given.port}")
    for name in ("timeout_s", "job_timeout_s", "keep_s", "pause_s"):
        if not 0 < getattr(given, name) < 1e6:
            found = f"{getattr(given, name):g}"
            raise UserError(f"--{name}: expected more than 0 seconds, found {found}")
    total_bytes = given.max_total_bytes or 8 * given.max_bytes
    if total_bytes < given.max_bytes:
        raise UserError(
            f"--max_total_bytes: expected at least --max_bytes, {given.max_bytes}, "
            f"found {total_bytes}"
        )
    try:
        from maskgit_sr.serving import app, server
    except ModuleNotFoundError as error:
        if error.name == "resource":  # Windows: each image is decoded in a forked process
            raise UserError("the server needs Linux or macOS; on Windows start it in WSL") from None
        raise UserError(f"{error.name} is missing: pip install 'maskgit-sr[serve]'") from None
    from maskgit_sr.inference import load, options
    from maskgit_sr.serving.request import Limits
    from maskgit_sr.serving.service import Service

    load.resolve(given.model)  # a wrong name is told before the server listens
    own = options.split(given.option, steps=given.steps, color_fix=given.color_fix)
    limits = Limits(
        pixels=given.max_pixels,
        total_pixels=given.max_total_pixels or 2 * given.max_pixels,
        bytes=given.max_bytes,
        total_bytes=total_bytes,
        requests=given.max_queue,
        timeout=given.timeout_s,
        job_timeout=given.job_timeout_s,
        keep=given.keep_s,
        pause=given.pause_s,
        rate=given.min_rate,
        connections=given.max_connections,
        steps=given.max_steps,
    )
    service = Service(Path(given.model).stem, limits, max_wait=given.max_wait_ms / 1000)

    def start() -> None:
        began = time.monotonic()
        upscaler = load.load(
            given.model, batch=given.max_batch, device=given.device, dtype=given.dtype
        )
        service.start(upscaler, **options.parse(own, upscaler))
        where, seconds = upscaler.device.platform, time.monotonic() - began
        tiles = "1 tile" if upscaler.batch == 1 else f"{upscaler.batch} tiles"
        text = f"{service.name} is ready on {where} after {seconds:.1f} s, {tiles} a device call"
        print(f"{prog}: {text}", flush=True)

    # before the model is loaded, so that /healthz responds meanwhile
    listening = server.bind(given.host, given.port)
    address = f"[{given.host}]" if ":" in given.host else given.host
    print(f"{prog}: http://{address}:{listening.getsockname()[1]}", flush=True)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    if given.log_requests:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    token = given.token or os.environ.get("MASKGIT_SR_TOKEN")
    application = server.make(app.build(service, token), limits)
    asyncio.run(server.run(service, application, listening, start, given.grace_s))


if __name__ == "__main__":
    sys.exit(main())
