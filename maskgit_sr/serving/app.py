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
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskgit_sr.serving.metrics import CONTENT_TYPE
from maskgit_sr.serving.request import Body, EncodedImage, Parameters
from maskgit_sr.serving.service import Service, stopping
from maskgit_sr.serving.transfers import NoRoom, Transfer

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
        # before the body is read: with wrong parameters nothing is held
        wanted, limits = service.choose(parameters), service.limits
        late = 408, "no whole body within"
        try:
            async with service.deadline():
                body = Body(check_head(request, limits.bytes), Transfer(service.transfers))
                try:
                    await read_body(request, body, service)
                    late = 504, "no result within"
                    with service.place():
                        work = asyncio.create_task(service.restore(body, wanted))
                        encoded = await finished(work, request)
                finally:
                    body.free()
        except TimeoutError:
            if service.state == "stopping":
                raise stopping() from None
            raise HTTPException(late[0], f"{late[1]} {limits.timeout:g} s") from None
        service.metrics.seconds.observe(time.monotonic() - began)
        return ImageResponse(encoded, parameters.format, service)

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

    return AdmissionMiddleware(app, service, token)


def error(found: HTTPException) -> JSONResponse:
    """Returns the response of an HTTP error."""
    message = " ".join(str(found.detail).split())
    return JSONResponse({"error": message}, found.status_code, found.headers)


def check_health(service: Service) -> None:
    """Raises HTTPException 503 unless requests are accepted."""
    if service.problem is not None:
        raise HTTPException(503, service.problem)


def check_token(given: str, token: str | None) -> None:
    """Raises HTTPException 401 unless the header Authorization has the token."""
    scheme, _, credentials = given.partition(" ")  # the scheme in capitals or not (RFC 9110, 11.1)
    # compare_digest: its time tells nothing of the token; bytes, as it takes only ASCII of text
    right = token is None or hmac.compare_digest(credentials.strip().encode(), token.encode())
    if token is not None and not (right and scheme.lower() == "bearer"):
        raise HTTPException(
            401, "expected the server's bearer token", {"WWW-Authenticate": "Bearer"}
        )


def check_head(request: Request, limit: int) -> str:
    """Returns the coding of the body: "", gzip or deflate.

    Raises:
        HTTPException: 413 for a Content-Length above the limit; 415 for a form or another coding.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, "expected the image itself as the body, found a form")
    found = ",".join(request.headers.getlist("content-encoding")).lower().replace("x-gzip", "gzip")
    coding = found.strip() if found.strip() != "identity" else ""
    if coding not in ("", "gzip", "deflate"):
        message = f"Content-Encoding: expected gzip or deflate, found {coding[:80]!r}"
        raise HTTPException(415, message, {"Accept-Encoding": "gzip, deflate"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_long(limit)
    return coding


def too_long(limit: int) -> HTTPException:
    """Returns the HTTP error of a body above the limit."""
    return HTTPException(413, f"more than the limit of {limit:,} bytes")


async def read_body(request: Request, body: Body, service: Service) -> None:
    """Reads the body, of which never much more than the limit is held.

    Raises:
        HTTPException: 413 above the limit, with or without a Content-Length; 408 if it stalls; 429
            if bodies hold all bytes.
        ClientDisconnect: the client is gone.
    """
    limits, began = service.limits, time.monotonic()
    try:
        async with body.transfer.moving():
            body.transfer.allow(limits.pause)
            # counted as well, since a chunked body has no length
            async for chunk in request.stream():
                if len(body.data) + len(chunk) > limits.bytes:
                    raise too_long(limits.bytes)
                body.transfer.add(len(chunk))
                body.data += chunk
                # as many seconds as the bytes so far would have taken at the least rate, and some
                due = began + limits.pause + len(body.data) / limits.rate - time.monotonic()
                body.transfer.allow(min(limits.pause, due))
    except NoRoom as error:
        raise service.busy(str(error), error.seconds) from None
    except TimeoutError:
        message = f"the body came too slowly: expected {limits.rate:g} bytes a second"
        raise HTTPException(408, f"{message}, found {len(body.data):,} bytes") from None


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

    def __init__(self, encoded: EncodedImage, format: str, service: Service):
        self._transfer, self._pause = Transfer(service.transfers), service.limits.pause
        steps = (f"{step};dur={time:.1f}" for step, time in encoded.milliseconds.items())
        headers = {"Server-Timing": ", ".join(steps), "X-Model": ascii_only(service.name)}
        if encoded.confidence is not None:
            headers["X-Confidence"] = f"{encoded.confidence:.4f}"
        if encoded.notes:
            headers["X-Notes"] = ascii_only("; ".join(encoded.notes))
        super().__init__(encoded.data, 200, headers, f"image/{format}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the head and then the pieces, each as soon as the client has room for it."""
        view = memoryview(self.body)
        self._transfer.hold(len(view))
        try:
            async with self._transfer.moving():
                self._transfer.allow(self._pause)
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                for begin in range(0, len(view), _CHUNK):
                    piece = bytes(view[begin : begin + _CHUNK])
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    self._transfer.allow(self._pause)
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            raise ResponseNotRead from None
        finally:
            self._transfer.free()


def ascii_only(text: str) -> str:
    """Returns text fit for a header: all but printable ASCII becomes a question mark."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


class AdmissionMiddleware:
    """Admits requests to /upscale while there is room, and counts them by status at their end."""

    def __init__(self, app: ASGIApp, service: Service, token: str | None):
        self._app, self._service, self._token = app, service, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        # without a line break at its end, which the application's route allows
        ours = scope["type"] == "http" and scope["path"].rstrip() == PATH
        if not ours or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        status = _DISCONNECTED  # unless a response begins

        async def watched(message: Message) -> None:
            nonlocal status
            limits = self._service.limits
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                async with asyncio.timeout(min(limits.timeout, limits.pause)):
                    await send(message)
            except TimeoutError:
                raise ResponseNotRead from None

        try:
            # first of all: who has no token learns nothing of parameters or load
            check_token(Headers(scope=scope).get("authorization", ""), self._token)
            with self._service.admitted():
                await self._app(scope, receive, watched)
        except HTTPException as found:  # outside of the application's handlers
            await error(found)(scope, receive, watched)
        except ResponseNotRead:
            status = _DISCONNECTED
        finally:
            self._service.metrics.requests.labels(str(status)).inc()
