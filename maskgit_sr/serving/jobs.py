"""Restorations that outlive their connection: begun by one request, watched and fetched by others.

A job is worked on as a request to /upscale is. What it results in is kept for its client for a
while, and gives way, the oldest first, when others need its bytes or its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import Any

from starlette.exceptions import HTTPException

from maskgit_sr.serving.http_errors import late, stopping
from maskgit_sr.serving.request import Body, EncodedImage, RequestOptions
from maskgit_sr.serving.service import Service
from maskgit_sr.serving.transfers import Kept, NoRoom

WATCHERS = 2
"""Streams of events of one job at a time; a further one ends the first."""


class Watcher:
    """One stream of the events of a job; `over` once it has to end."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.over = False

    def end(self) -> None:
        """Lets the stream end."""
        self.over = True
        self.changed.set()


class Job:
    """One restoration.

    Attributes:
        id: 128 random bits, which nobody but its client knows.
        state: ``queued``, a stage of `Service.restore`, then ``done``, ``failed`` or ``cancelled``.
        encoded: the result, if it is done.
        error: the HTTP error that /upscale would have responded with, if it failed.
    """

    def __init__(self, key: str, asked: str, format: str):
        self.id = secrets.token_hex(16)
        self.key, self.asked, self.format = key, asked, format
        self.state, self.done, self.tiles = "queued", 0, 0
        self.encoded: EncodedImage | None = None
        self.error: HTTPException | None = None
        self.kept: Kept | None = None
        self.task: asyncio.Task[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self._began = self._first = self._last = time.monotonic()
        self._watchers: list[Watcher] = []

    @property
    def over(self) -> bool:
        """True when nothing will change any more."""
        return self.state in ("done", "failed", "cancelled")

    def report(self, stage: str, done: int, tiles: int) -> None:
        """Takes what `Service.restore` reports; a tile that comes after the end is nothing."""
        if not self.over:
            self._last = time.monotonic()
            if done == 0:
                self._first = self._last
            self._change(stage, done, tiles)

    def finish(self, state: str) -> None:
        """Sets the last state."""
        self._last = time.monotonic()
        self._change(state, self.done, self.tiles)

    def _change(self, state: str, done: int, tiles: int) -> None:
        self.state, self.done, self.tiles = state, done, tiles
        for watcher in self._watchers:
            watcher.changed.set()

    @contextlib.contextmanager
    def watched(self) -> Any:
        """Yields a `Watcher` that is told of every change."""
        watcher = Watcher()
        self._watchers.append(watcher)
        if len(self._watchers) > WATCHERS:
            self._watchers.pop(0).end()
        try:
            yield watcher
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def snapshot(self) -> dict[str, Any]:
        """Returns its state as JSON values: all that there is to know, whatever was sent before."""
        found: dict[str, Any] = {"id": self.id, "state": self.state}
        found |= {"done": self.done, "tiles": self.tiles}
        now = self._last if self.over else time.monotonic()
        found["seconds"] = round(now - self._began, 2)
        if self.state == "restoring" and self.done:
            rate = (self._last - self._first) / self.done
            # counted down between two tiles, though never to nothing
            left = rate * (self.tiles - self.done) - (time.monotonic() - self._last)
            found["seconds_left"] = round(max(left, rate * (self.tiles - self.done - 1)), 1)
        if self.encoded is not None:
            found |= {"bytes": len(self.encoded.data), "format": self.format}
            found |= {"notes": list(self.encoded.notes), "confidence": self.encoded.confidence}
        if self.error is not None:
            found |= {"status": self.error.status_code, "error": str(self.error.detail)}
            if seconds := (self.error.headers or {}).get("Retry-After"):
                found["retry_after"] = int(seconds)
        return found


class Jobs:
    """The jobs of a service. Of the event loop's thread."""

    def __init__(self, service: Service):
        self._service = service
        self._jobs: dict[str, Job] = {}  # those that finished first are first among the finished

    def find(self, name: str) -> Job:
        """Returns the job of that id.

        Raises:
            HTTPException: 404.
        """
        if name not in self._jobs:
            raise HTTPException(404, "no such job: unknown, deleted or expired")
        return self._jobs[name]

    def same(self, key: str, asked: str) -> Job | None:
        """Returns the job that a request with that idempotency key has begun, or None.

        Raises:
            HTTPException: 422 if its parameters were others.
        """
        for job in self._jobs.values() if key else ():
            if secrets.compare_digest(job.key.encode(), key.encode()):
                if job.asked != asked:
                    raise HTTPException(422, "Idempotency-Key: was used with other parameters")
                return job
        return None

    def begin(self, body: Body, wanted: RequestOptions, key: str, asked: str) -> Job:
        """Begins a job, to which the body then belongs.

        Raises:
            HTTPException: 429 if no place is free.
        """
        most = self._service.limits.requests
        if len(self._jobs) >= most:
            oldest = next((job for job in self._jobs.values() if job.over), None)
            if oldest is None:
                raise self._service.busy(f"{most} jobs are being worked on")
            self.drop(oldest)
        held = contextlib.ExitStack()
        held.enter_context(self._service.place())  # first, as it may refuse
        held.enter_context(self._service.counted())
        held.callback(body.free)
        job = Job(key, asked, wanted.parameters.format)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._work(job, body, wanted))

        def ended(task: asyncio.Task[None]) -> None:
            # not in the task, which never begins if it is cancelled before
            held.close()
            self._finish(job)

        job.task.add_done_callback(ended)
        return job

    def drop(self, job: Job) -> None:
        """Forgets a job, and ends it if it is being worked on."""
        self._jobs.pop(job.id, None)
        if job.kept is not None:
            job.kept.free()
        if job.expiry is not None:
            job.expiry.cancel()
        if not job.over and job.task is not None:
            job.finish("cancelled")
            job.task.cancel()

    async def _work(self, job: Job, body: Body, wanted: RequestOptions) -> None:
        service = self._service
        seconds = service.limits.job_timeout
        try:
            async with service.deadline(seconds):
                job.encoded = await service.restore(body, wanted, job.report)
        except HTTPException as error:
            job.error = error
        except TimeoutError:
            job.error = late(service.state, 504, "no result", seconds)

    def _finish(self, job: Job) -> None:
        metrics = self._service.metrics
        if job.state == "cancelled":
            job.encoded = None
            metrics.jobs.labels("cancelled").inc()
            return
        if job.encoded is None and job.error is None:  # by the shutdown of its threads
            job.error = stopping()
        metrics.jobs.labels(str(job.error.status_code if job.error else 200)).inc()
        self._jobs[job.id] = self._jobs.pop(job.id)  # behind those that finished before
        job.expiry = asyncio.get_running_loop().call_later(
            self._service.limits.keep, self.drop, job
        )
        if job.encoded is not None:
            job.kept = self._keep(job, len(job.encoded.data) + len(job.encoded.map or b""))
        job.finish("failed" if job.error else "done")

    def _keep(self, job: Job, size: int) -> Kept:
        transfers = self._service.transfers
        kept = Kept(transfers, lambda: self.drop(job))
        with contextlib.suppress(NoRoom):  # above the limit rather than lost; it gives way soon
            transfers.make_room(size, kept)
        kept.hold(size)
        kept.touch()
        return kept
