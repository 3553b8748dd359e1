"""The HTTP face of a service: routes, parameters, statuses. Every error is {"error": one line}."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskgit_sr.inference.upscaler import MAX_SCALE
from maskgit_sr.serving.metrics import CONTENT_TYPE
from maskgit_sr.serving.service import STOPPING, Answer, Refusal, Service, Wish

PATH = "/upscale"
_CHUNK = 1 << 18
_LEFT = 499  # nginx's number for a client that did not wait; it sees none
_log = logging.getLogger("launch.serve")


class Parameters(BaseModel, extra="forbid"):
    """What may stand behind the question mark."""

    scale: Annotated[float, Field(gt=0, le=MAX_SCALE, allow_inf_nan=False)] = 4.0
    format: Literal["png", "jpeg", "webp", "tiff"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    output: Literal["image", "confidence"] = "image"
    confidence: bool = False

    def wish(self) -> Wish:
        return Wish(self.scale, self.format.upper(), self.quality, self.output, self.confidence)


def build(service: Service, token: str | None = None) -> ASGIApp:
    """The application.

    Args:
        token: what requests to /upscale have to bring as a bearer; None: nothing.
    """
    app = FastAPI(title="maskgit-sr", docs_url=None, redoc_url=None)

    @app.post(PATH, response_class=Response, responses={200: {"content": {"image/*": {}}}})
    async def upscale(request: Request, wanted: Annotated[Parameters, Query()]) -> Response:
        """Restores the picture that is the body."""
        began = time.monotonic()
        check_token(request, token)
        limits = service.limits
        try:
            async with asyncio.timeout(limits.timeout):
                data = await read_body(request, limits.bytes)
        except TimeoutError:
            raise Refusal(408, f"no whole body within {limits.timeout:g} s") from None
        work = asyncio.create_task(service.restore(data, wanted.wish()))
        del data
        left = began + limits.timeout - time.monotonic()
        try:
            answer = await first_of(work, request, max(0.0, left))
        except (Refusal, Left):
            raise
        except Exception as error:
            _log.error("a request failed", exc_info=error)
            name = type(error).__name__
            raise Refusal(500, f"the picture could not be restored ({name})") from None
        if answer is None:
            raise Refusal(504, f"no result within {limits.timeout:g} s")
        service.metrics.seconds.observe(time.monotonic() - began)
        return Picture(answer, wanted.format, service.name)

    @app.get("/healthz")
    async def healthz() -> Response:
        if service.healthy:
            return JSONResponse({"status": "ready", "model": service.name})
        reason = "the device's thread has ended" if service.state == "ready" else service.state
        return error(503, reason)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return error(refusal.status, str(refusal), refusal.retry_after)

    @app.exception_handler(Left)
    async def gone(request: Request, left: Left) -> Response:
        return Response(status_code=_LEFT)  # for the metrics; nobody reads it

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, found: RequestValidationError) -> Response:
        first = found.errors()[0]
        return error(422, f"{first['loc'][-1]}: {first['msg']}, found {str(first['input'])[:80]!r}")

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, found: HTTPException) -> Response:
        return error(found.status_code, str(found.detail), headers=found.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, found: Exception) -> Response:
        return error(500, "internal error", headers={"Connection": "close"})

    return Door(app, service)


def error(
    status: int, message: str, retry_after: int | None = None, headers: Any = None
) -> JSONResponse:
    more = dict(headers or {})
    if retry_after is not None:
        more["Retry-After"] = str(retry_after)
    return JSONResponse({"error": " ".join(message.split())}, status, more)


def check_token(request: Request, token: str | None) -> None:
    """Raises HTTPException 401 unless the request brings the token."""
    given = request.headers.get("authorization", "")
    if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise HTTPException(
            401, "expected the server's bearer token", {"WWW-Authenticate": "Bearer"}
        )


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of which never much more than `limit` bytes are held.

    Raises:
        Refusal: 413 above the limit, with or without a Content-Length; 415 for a form.
        Left: the client is gone.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refusal(415, "expected the picture itself as the body, found a form")
    too_long = Refusal(413, f"more than the limit of {limit:,} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_long
    body = bytearray()
    async for chunk in chunks(request):
        body += chunk
        if len(body) > limit:
            raise too_long
    return bytes(body)


async def chunks(request: Request) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Left
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def first_of(work: asyncio.Task[Answer], request: Request, seconds: float) -> Answer | None:
    """The result of `work`, which is cancelled if the client leaves; None after `seconds`."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.create_task(left())
    try:
        await asyncio.wait({work, watch}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if work.cancelled():
            raise Refusal(503, STOPPING, 5)
        if work.done():
            return work.result()
        if watch.done():
            raise Left
        return None
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


class Left(Exception):
    """The client has closed its connection."""


class NotRead(Exception):
    """The client has stopped to read its answer."""


class Picture(Response):
    """A picture, sent in pieces: what a slow reader leaves is here, not in buffers unseen."""

    def __init__(self, answer: Answer, format: str, model: str):
        steps = (f"{step};dur={time:.1f}" for step, time in answer.milliseconds.items())
        headers = {"Server-Timing": ", ".join(steps), "X-Model": ascii_only(model)}
        if answer.confidence is not None:
            headers["X-Confidence"] = f"{answer.confidence:.4f}"
        if answer.notes:
            headers["X-Notes"] = ascii_only("; ".join(answer.notes))
        super().__init__(answer.data, 200, headers, f"image/{format}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        view = memoryview(self.body)
        for begin in range(0, len(view), _CHUNK):
            piece = bytes(view[begin : begin + _CHUNK])
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def ascii_only(text: str) -> str:
    """Fit for a header: other characters and control characters are replaced."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


class Door:
    """Lets requests to /upscale in while there is place, and counts them when they are through."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        status = _LEFT

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                async with asyncio.timeout(self._service.limits.timeout):
                    await send(message)
            except TimeoutError:
                raise NotRead from None

        try:
            with self._service.admitted():
                await self._app(scope, receive, watched)
        except Refusal as refusal:
            answer = error(refusal.status, str(refusal), refusal.retry_after)
            await answer(scope, receive, watched)
        except NotRead:
            status = _LEFT
        finally:
            self._service.metrics.requests.labels(str(status)).inc()
