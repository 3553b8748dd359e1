"""HTTP interface of a service: routes, parameters and status codes.

The body of every error is {"error": one line}.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskgit_sr.serving import job_routes, page
from maskgit_sr.serving.exchange import ImageResponse, ResponseNotRead, error, receive
from maskgit_sr.serving.http_errors import late, stopping
from maskgit_sr.serving.metrics import CONTENT_TYPE
from maskgit_sr.serving.request import EncodedImage, Parameters
from maskgit_sr.serving.schema import IMAGE_BODY, Health, Info, refusals
from maskgit_sr.serving.service import Service

PATH = "/upscale"
_DISCONNECTED = 499  # nginx's status for a client that did not wait; it is only counted
_TEXT = """Restores photographs. The body of every error is `{"error": "one line"}`.

Beside the parameters listed, /upscale and /jobs take every option of the served method by its name;
GET /info has these with their defaults."""


def build(service: Service, token: str | None = None) -> ASGIApp:
    """Returns the application.

    Args:
        token: bearer token that requests to /upscale and /jobs must bring; None: they need none.
    """
    app = FastAPI(title="maskgit-sr", description=_TEXT, docs_url=None, redoc_url=None)

    @app.post(
        PATH,
        response_class=Response,
        responses={
            200: {"content": {"image/*": {}}, "description": "The restored image."},
            **refusals(400, 401, 408, 413, 415, 422, 429, 500, 503, 504),
        },
        openapi_extra=IMAGE_BODY,
    )
    async def upscale(request: Request, parameters: Annotated[Parameters, Query()]) -> Response:
        """Restores the image that is the body."""
        began = time.monotonic()
        # before the body is read: with wrong parameters nothing is held
        wanted, limits = service.choose(parameters), service.limits
        missing = 408, "no whole body"
        try:
            async with service.deadline(limits.timeout):
                body = await receive(request, service)
                try:
                    missing = 504, "no result"
                    with service.place():
                        work = asyncio.create_task(service.restore(body, wanted))
                        encoded = await finished(work, request)
                finally:
                    body.free()
        except TimeoutError:
            raise late(service.state, *missing, limits.timeout) from None
        service.metrics.seconds.observe(time.monotonic() - began)
        return ImageResponse(encoded, parameters.format, service)

    job_routes.add(app, service)

    @app.get("/healthz", responses=refusals(503))
    async def healthz() -> Health:
        """Tells whether requests are taken."""
        check_health(service)
        return Health(status="ready", model=service.name)

    @app.get("/info", responses=refusals(503))
    async def info() -> Info:
        """Tells what the model is, which options it takes, and whether a token is asked for."""
        check_health(service)
        return Info(**service.info(), token=token is not None)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    page.add(app)

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


async def finished(work: asyncio.Task[EncodedImage], request: Request) -> EncodedImage:
    """Waits for `work` and returns its result; cancelled, it cancels `work`.

    Raises:
        HTTPException: that of `work`.
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
    finally:
        for task in (work, watch):
            task.cancel()
        # so that neither task outlives its request
        await asyncio.gather(work, watch, return_exceptions=True)


class AdmissionMiddleware:
    """Asks for the token, admits images while there is room, and counts these by status."""

    def __init__(self, app: ASGIApp, service: Service, token: str | None):
        self._app, self._service, self._token = app, service, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        # without a line break at its end, which the application's routes allow
        path = scope["path"].rstrip() if scope["type"] == "http" else ""
        image = path in (PATH, job_routes.PATH) and scope["method"] == "POST"
        if not image and not path.startswith(job_routes.PATH + "/"):
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
            # first of all: who has no token learns nothing of parameters, jobs or load
            check_token(Headers(scope=scope).get("authorization", ""), self._token)
            if image:
                with self._service.admitted():
                    await self._app(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        except HTTPException as found:  # outside of the application's handlers
            await error(found)(scope, receive, watched)
        except ResponseNotRead:
            status = _DISCONNECTED
        finally:
            if image:
                self._service.metrics.requests.labels(str(status)).inc()
