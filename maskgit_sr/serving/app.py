"""HTTP interface of a service: routes, parameters and status codes.

The body of every error is {"error": one line}.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskgit_sr.serving.metrics import CONTENT_TYPE
from maskgit_sr.serving.service import EncodedImage, Parameters, Service, stopping

PATH = "/upscale"
_CHUNK = 1 << 18
_DISCONNECTED = 499  # nginx's status for a client that did not wait; it is only counted
_log = logging.getLogger("maskgit_sr.serving")


def build(service: Service, token: str | None = None) -> ASGIApp:
    """Returns the application.

    Args:
        token: bearer token that requests to /upscale must bring; None: they need none.
    """
    app = FastAPI(title="maskgit-sr", docs_url=None, redoc_url=None)

    @app.post(PATH, response_class=Response, responses={200: {"content": {"image/*": {}}}})
    async def upscale(request: Request, parameters: Annotated[Parameters, Query()]) -> Response:
        """Restores the image that is the body."""
        began = time.monotonic()
        # both before the body is read: without a token or with wrong parameters nothing is held
        check_token(request, token)
        wanted, limits = service.choose(parameters), service.limits
        late = 408, "no whole body within"
        try:
            async with asyncio.timeout(limits.timeout):
                body = await read_body(request, limits.bytes)
                late = 504, "no result within"
                work = asyncio.create_task(service.restore(body, wanted))
                del body
                encoded = await finished(work, request)
        except TimeoutError:
            raise HTTPException(late[0], f"{late[1]} {limits.timeout:g} s") from None
        service.metrics.seconds.observe(time.monotonic() - began)
        return ImageResponse(encoded, parameters.format, service.name)

    @app.get("/healthz")
    async def healthz() -> Response:
        """Tells whether requests are taken."""
        check_health(service)
        return JSONResponse({"status": "ready", "model": service.name})

    @app.get("/info")
    async def info() -> Response:
        """Tells what the model is and which options it takes."""
        check_health(service)
        return JSONResponse(service.info())

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, found: HTTPException) -> Response:
        return error(found)

    @app.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, found: ClientDisconnect) -> Response:
        return Response(status_code=_DISCONNECTED)  # for the metrics; nobody reads it

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, found: RequestValidationError) -> Response:
        first = found.errors()[0]
        message = f"{first['loc'][-1]}: {first['msg']}, found {str(first['input'])[:80]!r}"
        return error(HTTPException(422, message))

    @app.exception_handler(Exception)
    async def failed(request: Request, found: Exception) -> Response:
        return error(HTTPException(500, "internal error", {"Connection": "close"}))

    return AdmissionMiddleware(app, service)


def error(found: HTTPException) -> JSONResponse:
    """Returns the response of an HTTP error."""
    message = " ".join(str(found.detail).split())
    return JSONResponse({"error": message}, found.status_code, found.headers)


def check_health(service: Service) -> None:
    """Raises HTTPException 503 unless requests are accepted."""
    if service.problem is not None:
        raise HTTPException(503, service.problem)


def check_token(request: Request, token: str | None) -> None:
    """Raises HTTPException 401 unless the request brings the token."""
    # compare_digest: its time tells nothing of the token; bytes, as it takes only ASCII of text
    given = request.headers.get("authorization", "")
    if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise HTTPException(
            401, "expected the server's bearer token", {"WWW-Authenticate": "Bearer"}
        )


async def read_body(request: Request, limit: int) -> bytes:
    """Reads the body, of which never much more than `limit` bytes are held.

    Raises:
        HTTPException: 413 above the limit, with or without a Content-Length; 415 for a form.
        ClientDisconnect: the client is gone.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, "expected the image itself as the body, found a form")
    too_long = HTTPException(413, f"more than the limit of {limit:,} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_long
    # counted as well, since a chunked body has no length
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_long
    return bytes(body)


async def finished(work: asyncio.Task[EncodedImage], request: Request) -> EncodedImage:
    """Waits for `work` and returns its result; cancelled, it cancels `work`.

    Raises:
        HTTPException: that of `work`, or 500 for any other exception.
        ClientDisconnect: the client is gone; `work` was cancelled.
    """

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    # the body is read by now, so nothing else would notice that the client is gone
    watch = asyncio.create_task(disconnect())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        if work.cancelled():  # by the shutdown of its threads
            raise stopping()
        return work.result()
    except (HTTPException, ClientDisconnect):
        raise
    except Exception as error:
        _log.error("a request failed", exc_info=error)
        name = type(error).__name__
        raise HTTPException(500, f"the image could not be restored ({name})") from None
    finally:
        for task in (work, watch):
            task.cancel()
        # so that neither task outlives its request
        await asyncio.gather(work, watch, return_exceptions=True)


class ResponseNotRead(Exception):
    """The client has stopped reading its response."""


class ImageResponse(Response):
    """An image, sent in pieces: what a slow client has not read is not in hidden buffers."""

    def __init__(self, encoded: EncodedImage, format: str, model: str):
        steps = (f"{step};dur={time:.1f}" for step, time in encoded.milliseconds.items())
        headers = {"Server-Timing": ", ".join(steps), "X-Model": ascii_only(model)}
        if encoded.confidence is not None:
            headers["X-Confidence"] = f"{encoded.confidence:.4f}"
        if encoded.notes:
            headers["X-Notes"] = ascii_only("; ".join(encoded.notes))
        super().__init__(encoded.data, 200, headers, f"image/{format}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the head and then the pieces, each as soon as the client has room for it."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        view = memoryview(self.body)
        for begin in range(0, len(view), _CHUNK):
            piece = bytes(view[begin : begin + _CHUNK])
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def ascii_only(text: str) -> str:
    """Returns text fit for a header: all but printable ASCII becomes a question mark."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


class AdmissionMiddleware:
    """Admits requests to /upscale while there is room, and counts them by status at their end."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        status = _DISCONNECTED  # unless a response begins

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                async with asyncio.timeout(self._service.limits.timeout):
                    await send(message)
            except TimeoutError:
                raise ResponseNotRead from None

        try:
            # until the last byte is out, so that slow readers count, too
            with self._service.admitted():
                await self._app(scope, receive, watched)
        except HTTPException as found:  # of `admitted`, outside of the application's handlers
            await error(found)(scope, receive, watched)
        except ResponseNotRead:
            status = _DISCONNECTED
        finally:
            self._service.metrics.requests.labels(str(status)).inc()
