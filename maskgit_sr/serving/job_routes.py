"""Routes of jobs: to begin one, to watch it, and to fetch what it results in."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated

from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from maskgit_sr.serving.exchange import ImageResponse, receive
from maskgit_sr.serving.http_errors import late
from maskgit_sr.serving.jobs import Job, Jobs
from maskgit_sr.serving.request import EncodedImage, Parameters
from maskgit_sr.serving.schema import IMAGE_BODY, JobState, refusals
from maskgit_sr.serving.service import Service

PATH = "/jobs"
_LEAST = 0.1  # seconds between two events, so that fast tiles are no flood
_BEAT = 5.0  # seconds after which the state is told again, so that a dead connection is noticed
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
Id = Annotated[str, Path(alias="id", description="Of the job, from POST /jobs.")]
Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=100,
        description="A name that the client draws: a second request with it is given the same job.",
    ),
]


def add(app: FastAPI, service: Service) -> None:
    """Adds the routes to an application."""
    jobs = Jobs(service)

    @app.post(
        PATH,
        status_code=202,
        response_model=JobState,
        responses=refusals(401, 408, 413, 415, 422, 429, 503),
        openapi_extra=IMAGE_BODY,
    )
    async def begin(
        request: Request, parameters: Annotated[Parameters, Query()], key: Key = ""
    ) -> Response:
        """Begins to restore the image that is the body; parameters as of POST /upscale."""
        wanted, asked = service.choose(parameters), request.url.query
        seconds = service.limits.timeout
        try:
            async with service.deadline(seconds):
                body = await receive(request, service)
        except TimeoutError:
            raise late(service.state, 408, "no whole body", seconds) from None
        with contextlib.ExitStack() as unless_begun:
            unless_begun.callback(body.free)
            # after the body: a request that was cut off may have begun it meanwhile
            job = jobs.same(key, asked)
            if job is None:
                job = jobs.begin(body, wanted, key, asked)
                unless_begun.pop_all()
        return state(job, 202, {"Location": f"{PATH}/{job.id}"})

    @app.get(PATH + "/{id}", response_model=JobState, responses=refusals(401, 404))
    async def look(name: Id) -> Response:
        """Tells the state of a job."""
        return state(jobs.find(name))

    @app.get(
        PATH + "/{id}/events",
        response_class=Response,
        responses={
            200: {
                "description": "Server-sent events: the state of the job, now and at each change.",
                "content": {"text/event-stream": {"itemSchema": {"type": "object"}}},
            },
            **refusals(401, 404),
        },
    )
    async def events(name: Id) -> Response:
        """Tells the state of a job until it is done, failed or cancelled.

        Each event is the whole state, so nothing is lost between two connections.
        """
        return Events(jobs.find(name), service)

    @app.get(
        PATH + "/{id}/result",
        response_class=Response,
        responses={
            200: {"content": {"image/*": {}}, "description": "The restored image."},
            **refusals(400, 401, 404, 409, 413, 415, 429, 500, 503, 504),
        },
    )
    async def result(name: Id) -> Response:
        """Returns the image, or the error that POST /upscale would have responded with."""
        job = jobs.find(name)
        return image(job, encoded(job), job.format)

    @app.get(
        PATH + "/{id}/confidence",
        response_class=Response,
        responses={
            200: {"content": {"image/png": {}}, "description": "The map."},
            **refusals(401, 404, 409),
        },
    )
    async def confidence(name: Id) -> Response:
        """Returns the map of confidence in grey, of the input's size, if `confidence` was asked."""
        job = jobs.find(name)
        found = encoded(job)
        if found.map is None:
            raise HTTPException(409, "no map of confidence: expected the job with confidence=true")
        return image(job, EncodedImage(found.map, (), {}, found.confidence), "png")

    @app.delete(PATH + "/{id}", status_code=204, responses=refusals(401, 404))
    async def delete(name: Id) -> None:
        """Forgets a job; one that is being worked on is cancelled."""
        jobs.drop(jobs.find(name))

    def image(job: Job, found: EncodedImage, format: str) -> Response:
        if job.kept is not None:
            job.kept.touch()
        response = ImageResponse(found, format, service)
        response.headers.update(_PRIVATE)
        return response


def state(job: Job, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """Returns the response that tells the state of a job."""
    return JSONResponse(job.snapshot(), status, _PRIVATE | (headers or {}))


def encoded(job: Job) -> EncodedImage:
    """Returns the result of a job.

    Raises:
        HTTPException: that of the job, or 409 if it is not done.
    """
    if job.error is not None:
        raise job.error
    if job.encoded is None:
        raise HTTPException(409, f"the job is not done: {job.state}")
    return job.encoded


class Events(Response):
    """The events of a job, until it is over, the client is gone, or others have taken its place."""

    media_type = "text/event-stream"

    def __init__(self, job: Job, service: Service):
        super().__init__(headers=_PRIVATE | {"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._job = job
        self._beat = min(_BEAT, service.limits.pause / 2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the state now, at each change, and some seconds after the last time."""
        job = self._job
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        with job.watched() as watcher:

            async def disconnect() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                watcher.end()

            watch = asyncio.create_task(disconnect())
            try:
                await send(start)
                while True:
                    watcher.changed.clear()
                    last = job.over or watcher.over
                    data = f"data: {json.dumps(job.snapshot())}\n\n".encode()
                    await send({"type": "http.response.body", "body": data, "more_body": not last})
                    if last:
                        return
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._beat):
                            await watcher.changed.wait()
                    if not job.over:
                        await asyncio.sleep(_LEAST)
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
