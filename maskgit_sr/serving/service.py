"""Restoration of image files, from bytes to bytes, within limits.

Images are decoded and encoded in processes of their own, which can be killed, and restored by the
batcher's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.images import Picture
from maskgit_sr.inference import consistency
from maskgit_sr.inference import options as method_options
from maskgit_sr.inference.mosaic import Mosaic
from maskgit_sr.inference.results import finish
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.serving.batcher import Batcher, Stopped
from maskgit_sr.serving.codecs import CodecFailed, CodecProcesses, GaveWay
from maskgit_sr.serving.http_errors import later, refusal, stopping
from maskgit_sr.serving.metrics import Metrics
from maskgit_sr.serving.programs import Programs, TooManyPrograms
from maskgit_sr.serving.request import (
    Body,
    EncodedImage,
    Limits,
    Parameters,
    Report,
    RequestOptions,
)
from maskgit_sr.serving.transfers import Transfers

_log = logging.getLogger("maskgit_sr.serving")


class Service:
    """A model with its queue.

    Args:
        name: of the model, for responses.

    Attributes:
        state: ``loading``, ``ready`` or ``stopping``.
    """

    def __init__(self, name: str, limits: Limits, *, max_wait: float = 0.005):
        self.name, self.limits, self.metrics = name, limits, Metrics()
        self.state = "loading"
        self.requests = 0
        self.transfers = Transfers(limits.total_bytes)
        self._max_wait = max_wait
        self._places = self._pixels = 0
        self._deadlines: set[asyncio.Timeout] = set()
        self._codecs = CodecProcesses(limits.timeout)
        self._pool = ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 2)), "pixels")
        # of its own, since it may take as long as a request may, and others need theirs
        self._consistency = ThreadPoolExecutor(1, "consistency")
        self._batcher: Batcher | None = None

    @property
    def problem(self) -> str | None:
        """The reason why requests are not accepted, or None."""
        if self.state != "ready":
            return self.state
        alive = self._batcher is not None and self._batcher.alive
        return None if alive else "the device's thread has ended"

    def start(self, upscaler: Upscaler, **defaults: Any) -> None:
        """Compiles the programs of requests without options, then accepts requests.

        Args:
            **defaults: options of the method that apply unless a request gives others.

        Raises:
            UserError: an option that the method lacks, one out of range, or a limit of pixels that
                every image exceeds.
        """
        method = upscaler.method
        self._upscaler, self._given = upscaler, defaults
        self._defaults = upscaler.options(confidence=False, **defaults)
        least = self._cost(1, 1, method.scale)
        if self.limits.pixels < least:
            raise UserError(
                f"--max_pixels: expected at least {least}, as which one pixel counts, "
                f"found {self.limits.pixels}"
            )
        self._codecs.start()
        self._programs = Programs(upscaler)
        # with confidence, too: any request may ask for it, and should not wait for the compiler
        for confidence in sorted({False, "confidence" in method.provides}):
            options = upscaler.options(confidence=confidence, **defaults)
            for side in method.tile.sides:
                self._programs.request(options, side).result()
        batcher = Batcher(upscaler, max_wait=self._max_wait, observe=self.metrics.call)
        self._batcher = batcher
        self.metrics.watch(lambda: batcher.waiting)
        if self.state == "loading":  # it may have been stopped meanwhile
            self.state = "ready"

    def cut(self) -> None:
        """Ends the remaining requests with status 503; of the event loop's thread."""
        self.state = "stopping"
        for until in self._deadlines:
            if not until.expired():
                until.reschedule(0)

    def close(self) -> None:
        """Ends the remaining requests with status 503 and joins the threads."""
        self.state = "stopping"  # first: requests that are cut off below look at it
        self._codecs.close()
        if self._batcher is not None:
            self._batcher.close()
            self._programs.close()
        for pool in (self._pool, self._consistency):
            pool.shutdown(cancel_futures=True)

    def info(self) -> dict[str, Any]:
        """Returns a description of model and options as JSON values; the service must be ready."""
        method = self._upscaler.method
        return {
            "model": self.name,
            "method": method.name,
            "scale": method.scale,
            "sides": list(method.tile.sides),
            "provides": sorted(method.provides),
            "options": method_options.table(self._defaults),
            "limits": {"pixels": self.limits.pixels, "bytes": self.limits.bytes},
        }

    def choose(self, parameters: Parameters) -> RequestOptions:
        """Returns the checked options of a request; the service must be ready.

        Raises:
            HTTPException: 422 for an option that the method lacks, one out of range, or confidence
                where there is none.
        """
        given = parameters.model_extra or {}
        names = [*Parameters.model_fields, *method_options.table(self._defaults)]
        # here rather than in `parse`, which knows only the method's own names
        for name in given:
            if name not in names:
                raise HTTPException(422, f"{name}: unknown, expected one of {', '.join(names)}")
        confidence = parameters.confidence or parameters.output == "confidence"
        try:
            own = self._given | method_options.parse(given, self._upscaler)
            chosen = self._upscaler.options(confidence=confidence, **own)
            scale = self._upscaler.scale(parameters.scale)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        if parameters.consistent is not None:
            if parameters.format not in ("png", "tiff"):
                found = parameters.format
                message = f"consistent: expected format png or tiff, found {found}"
                raise HTTPException(422, message)
            if scale < 1:
                raise HTTPException(
                    422, f"consistent: expected a scale of at least 1, found {scale:g}"
                )
        steps, usual = (getattr(some, "steps", 0) for some in (chosen, self._defaults))
        most = max(usual, self.limits.steps or 4 * usual)
        if steps > most:  # a device call cannot be interrupted, so its duration must be limited
            raise HTTPException(422, f"steps: expected at most {most} here, found {steps}")
        return RequestOptions(parameters, scale, chosen)

    @contextlib.asynccontextmanager
    async def deadline(self, seconds: float) -> AsyncIterator[None]:
        """Raises TimeoutError when the block takes longer than `seconds`, or is cut off."""
        async with asyncio.timeout(seconds) as until:
            self._deadlines.add(until)
            try:
                yield
            finally:
                self._deadlines.discard(until)

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request in flight.

        Raises:
            HTTPException: 503 if the service is not ready, 429 if no place is free.
        """
        if self.problem is not None:
            raise stopping() if self.state == "stopping" else later(503, "the model is not ready")
        self._check_places()
        with self.counted():
            yield

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Counts what is in flight, for which a stop of the server waits."""
        # without a lock, since only the event loop counts
        self.requests += 1
        self.metrics.in_flight.set(self.requests)
        try:
            yield
        finally:
            self.requests -= 1
            self.metrics.in_flight.set(self.requests)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Holds one of the places for requests that are worked on.

        Raises:
            HTTPException: 429 if no place is free.
        """
        self._check_places()
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    def _check_places(self) -> None:
        if self._places >= self.limits.requests:
            raise self.busy(f"{self.limits.requests} requests are being served")

    async def restore(
        self, body: Body, wanted: RequestOptions, report: Report | None = None
    ) -> EncodedImage:
        """Restores an image file; if cancelled, drops the tiles that still wait.

        Args:
            report: called with ``decoding``, ``compiling`` if it has to wait for that,
                ``restoring`` at each tile, and ``finishing``; the result then has its map.

        Raises:
            HTTPException: 413, 415, 400, 429, 503, or 500 for a device call that failed.
        """
        try:
            return await self._restore(body, wanted, report)
        except HTTPException:
            raise
        except CodecFailed as error:
            if self.state == "stopping":
                raise stopping() from None
            raise refusal(error) from None
        # RuntimeError: of a thread pool that was shut down between two steps
        except Exception as error:
            if self.state == "stopping" and isinstance(error, Stopped | RuntimeError):
                raise stopping() from None
            _log.error("a request failed", exc_info=error)
            name = type(error).__name__
            raise HTTPException(500, f"the image could not be restored ({name})") from None

    async def _restore(
        self, body: Body, wanted: RequestOptions, report: Report | None
    ) -> EncodedImage:
        assert self._batcher is not None
        loop = asyncio.get_running_loop()
        threaded = partial(loop.run_in_executor, self._pool)
        stage = report or (lambda name, done, tiles: None)
        marks = [time.monotonic()]
        stage("decoding", 0, 0)
        picture = await self._decode(body, wanted)
        height, width = picture.color.shape[:2]
        with self._room(self._cost(height, width, wanted.scale)):
            options = wanted.restore
            mosaic = await threaded(self._upscaler.mosaic, picture, options)
            marks.append(time.monotonic())
            try:
                program = self._programs.request(options, mosaic.side)
            except TooManyPrograms:
                raise self.busy("other new options are being compiled") from None
            if not program.done():  # shielded: others may wait for it, too
                stage("compiling", 0, 0)
                await asyncio.shield(asyncio.wrap_future(program))
            stage("restoring", 0, mosaic.count)

            def blended(tiles: int) -> None:  # in the device's thread
                loop.call_soon_threadsafe(stage, "restoring", tiles, mosaic.count)

            # not in a thread, which would queue it even if this request had ended meanwhile
            image = self._batcher.submit(mosaic, options, wanted.parameters.seed, blended)
            try:
                await asyncio.wrap_future(image.future)
            finally:  # also at a time limit, or when the client is gone
                self._batcher.cancel(image)
            marks += [image.arrived, image.begun or image.arrived, time.monotonic()]
            stage("finishing", mosaic.count, mosaic.count)
            finished = await threaded(self._finish, picture, mosaic, wanted)
            told = await self._consistent(picture, finished, wanted)
            kind, quality = wanted.parameters.format.upper(), wanted.parameters.quality
            encoded, notes = await self._codecs.encode(finished, kind, quality)
            grey = None
            if report is not None and mosaic.confidence is not None:
                chart = images.from_confidence(mosaic.confidence, height, width)
                grey, _ = await self._codecs.encode(chart, "PNG", quality)
            marks.append(time.monotonic())
        steps = ("decode", "compile", "queue", "restore", "encode")
        milliseconds = dict(zip(steps, (1000 * np.diff(marks)).tolist(), strict=True))
        mean = None if mosaic.confidence is None else float(mosaic.confidence.mean())
        return EncodedImage(encoded, (*picture.notes, *told, *notes), milliseconds, mean, grey)

    async def _decode(self, body: Body, wanted: RequestOptions) -> Picture:
        limit = self.limits.pixels
        try:
            picture = await self._codecs.decode(
                body.data,
                body.coding,
                most=self.limits.bytes,
                # by the file's header, before any pixel is decoded
                pixels=int(limit / self._factor(wanted.scale)),
                sent=body.free,
            )
        except GaveWay:
            raise self.busy("other images wait, and this one takes long to decode") from None
        height, width = picture.color.shape[:2]
        cost = self._cost(height, width, wanted.scale)
        if cost > limit:
            raise HTTPException(413, f"{width}x{height} counts as {cost:,} pixels, limit {limit:,}")
        map_only = wanted.parameters.output == "confidence"
        # a confidence map has no alpha, which JPEG could not hold
        target = dataclasses.replace(picture, alpha=None) if map_only else picture
        try:
            if (bound := wanted.parameters.consistent) is not None:
                consistency.check(bound, picture.color.dtype, wanted.scale)
            images.check_kind(target, wanted.parameters.format.upper(), scale=wanted.scale)
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        return picture

    def _finish(self, picture: Picture, mosaic: Mosaic, wanted: RequestOptions) -> Picture:
        restored = finish(picture, mosaic.color, wanted.scale)
        if wanted.parameters.output == "confidence":
            assert mosaic.confidence is not None
            height, width = restored.color.shape[:2]
            restored = images.from_confidence(mosaic.confidence, height, width)
        return restored

    async def _consistent(
        self, picture: Picture, finished: Picture, wanted: RequestOptions
    ) -> tuple[str, ...]:
        """Changes the image until it returns what was sent, if that was asked for; notes on it."""
        bound = wanted.parameters.consistent
        if bound is None or wanted.parameters.output == "confidence":
            return ()
        ended = threading.Event()
        run = asyncio.get_running_loop().run_in_executor
        work = partial(consistency.enforce, picture, finished, bound, ended.is_set)
        try:
            return (await run(self._consistency, work)).notes
        finally:  # also at a time limit, or when the client is gone
            ended.set()

    def _factor(self, scale: float) -> float:
        return max(1.0, scale / self._upscaler.method.scale) ** 2

    def _cost(self, height: int, width: int, scale: float) -> int:
        """Returns the pixels as `Limits.pixels` counts them, in proportion to memory."""
        side = self._upscaler.method.tile.side(height, width)
        # the band of tiles, which is blended in float32, takes about three times its own samples
        return math.ceil(max(height, 3 * side) * max(width, side) * self._factor(scale))

    @contextlib.contextmanager
    def _room(self, pixels: int) -> Iterator[None]:
        # alone, an image may exceed the total: it keeps to the limit of one
        if self._pixels and self._pixels + pixels > self.limits.total_pixels:
            raise self.busy(f"images of {self._pixels:,} pixels are being restored")
        self._pixels += pixels
        self.metrics.pixels.set(self._pixels)
        try:
            yield
        finally:
            self._pixels -= pixels
            self.metrics.pixels.set(self._pixels)

    def busy(self, reason: str, seconds: float | None = None) -> HTTPException:
        """Returns the HTTP error 429, with `seconds` or those that the queue will take."""
        if seconds is None:
            tiles = self._batcher.waiting if self._batcher is not None else 0
            seconds = tiles * self.metrics.seconds_a_tile()
        wait = min(max(1, math.ceil(seconds)), math.ceil(self.limits.timeout))
        return later(429, f"too busy: {reason}; try again in {wait} s", wait)
