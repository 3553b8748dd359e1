"""Bodies as they come in, and images and errors as they go out, each within its limits."""

from __future__ import annotations

import time

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from maskgit_sr.serving.request import Body, EncodedImage
from maskgit_sr.serving.service import Service
from maskgit_sr.serving.transfers import NoRoom, Transfer

_CHUNK = 1 << 18


def error(found: HTTPException) -> JSONResponse:
    """Returns the response of an HTTP error."""
    message = " ".join(str(found.detail).split())
    return JSONResponse({"error": message}, found.status_code, found.headers)


async def receive(request: Request, service: Service) -> Body:
    """Returns the body of a request, which the caller frees.

    Raises:
        HTTPException, ClientDisconnect: those of `check_head` and `read_body`.
    """
    body = Body(check_head(request, service.limits.bytes), Transfer(service.transfers))
    try:
        await read_body(request, body, service)
    except BaseException:
        body.free()
        raise
    return body


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
