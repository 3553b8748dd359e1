"""From the bytes of a picture to the bytes of the restored one, within limits; no HTTP here.

Pictures are decoded and encoded by a few threads, and restored by the batcher's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.images import Picture
from maskgit_sr.images.decode import TooManyPixels
from maskgit_sr.inference.mosaic import Mosaic
from maskgit_sr.inference.upscaler import Upscaler, check_scale, finish
from maskgit_sr.methods.base import RestoreOptions
from maskgit_sr.serving.batcher import Batcher, Job, Stopped
from maskgit_sr.serving.metrics import Metrics

T = TypeVar("T")
STOPPING = "the server is stopping"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What requests may take.

    Attributes:
        pixels: of one picture; a height below three tiles and a width below one count as those, and
            a scale above the network's as many times more as its output is larger.
        total_pixels: of all pictures that are being restored.
        bytes: of one body.
        requests: at a time, from the first byte in to the last one out.
        timeout: seconds from the first byte to the encoded answer, and again for its way out.
    """

    pixels: int = 4_000_000
    total_pixels: int = 8_000_000
    bytes: int = 32_000_000
    requests: int = 64
    timeout: float = 120.0


class Refusal(Exception):
    """A request that gets an error for an answer: an HTTP status and one line."""

    def __init__(self, status: int, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is to be made of a picture.

    Attributes:
        scale: output side over input side.
        kind: PNG, JPEG, WEBP or TIFF.
        quality: 1 to 100, of JPEG and WebP.
        output: ``image``, or ``confidence``: its map in grey at the size of the output.
        confidence: tell the mean confidence.
    """

    scale: float = 4.0
    kind: str = "PNG"
    quality: int = 95
    output: str = "image"
    confidence: bool = False

    @property
    def scored(self) -> bool:
        """Whether the network has to give its confidence."""
        return self.confidence or self.output == "confidence"


@dataclasses.dataclass(frozen=True)
class Answer:
    """An encoded picture, notes for a person, and milliseconds by step.

    ``confidence`` is the mean of the map in [0, 1], where it was asked for.
    """

    data: bytes
    notes: tuple[str, ...]
    milliseconds: dict[str, float]
    confidence: float | None


class Service:
    """A model with its queue.

    Args:
        name: of the model, as answers tell it.
        settings: options of `Upscaler.options` that hold for all requests.

    Attributes:
        state: ``loading``, ``ready`` or ``stopping``.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        *,
        max_wait: float = 0.005,
        settings: dict[str, Any] | None = None,
    ):
        self.name, self.limits, self.metrics = name, limits, Metrics()
        self.state = "loading"
        self.requests = 0
        self._max_wait, self._settings = max_wait, settings or {}
        self._pixels = 0
        self._pool = ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 2)), "codec")
        self._batcher: Batcher | None = None

    @property
    def healthy(self) -> bool:
        """Requests are taken, and the device's thread is there to serve them."""
        return self.state == "ready" and self._batcher is not None and self._batcher.alive

    def start(self, upscaler: Upscaler) -> None:
        """Compiles what requests can ask for, and begins to take them.

        Raises:
            UserError: settings out of range.
        """
        options = {s: upscaler.options(confidence=s, **self._settings) for s in (False, True)}
        base = np.asarray(jax.random.key_data(jax.random.key(0)))
        pixel = images.from_array(np.zeros((1, 1, 3), np.uint8))
        first = Batcher(upscaler, max_wait=0, observe=lambda tiles, seconds: None)
        for choice in options.values():
            first.submit(upscaler.mosaic(pixel, choice), choice, base).future.result()
        first.close()
        self._upscaler, self._options, self._base = upscaler, options, base
        batcher = Batcher(upscaler, max_wait=self._max_wait, observe=self.metrics.call)
        self._batcher = batcher
        self.metrics.watch(lambda: batcher.waiting)
        if self.state == "loading":
            self.state = "ready"

    def close(self) -> None:
        """Ends what is left with `Refusal`; the threads are gone afterwards."""
        self.state = "stopping"
        if self._batcher is not None:
            self._batcher.close()
        self._pool.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among the requests.

        Raises:
            Refusal: not ready, or no place is free.
        """
        if self.state == "stopping":
            raise Refusal(503, STOPPING, 5)
        if not self.healthy:
            raise Refusal(503, "the model is not ready", 5)
        if self.requests >= self.limits.requests:
            raise self._busy(f"{self.limits.requests} requests are being served")
        self.requests += 1
        self.metrics.in_flight.set(self.requests)
        try:
            yield
        finally:
            self.requests -= 1
            self.metrics.in_flight.set(self.requests)

    async def restore(self, data: bytes, wish: Wish) -> Answer:
        """Restores a picture file; cancelled, it drops the tiles that still wait.

        Raises:
            Refusal: 413, 415, 400, 429 or 503.
            Exception: whatever the device call failed with.
        """
        marks = [time.monotonic()]
        picture = await self._threaded(self._decode, data, wish)
        del data
        with self._room(self._cost(picture, wish.scale)):
            options = self._options[wish.scored]
            mosaic = await self._threaded(self._upscaler.mosaic, picture, options)
            # not by a thread, which would queue it even if this request had ended meanwhile
            with self._queued(mosaic, options) as job:
                await asyncio.wrap_future(job.future)
            marks += [job.arrived, job.begun or job.arrived, time.monotonic()]
            encoded, notes = await self._threaded(self._encode, picture, mosaic, wish)
            marks.append(time.monotonic())
        steps = zip(("decode", "queue", "restore", "encode"), marks, marks[1:], strict=False)
        milliseconds = {step: 1000 * (end - begin) for step, begin, end in steps}
        mean = None if mosaic.confidence is None else float(mosaic.confidence.mean())
        return Answer(encoded, (*picture.notes, *notes), milliseconds, mean)

    async def _threaded(self, work: Callable[..., T], *arguments: Any) -> T:
        call = functools.partial(work, *arguments)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        except RuntimeError:  # of a pool that was shut down between two steps
            if self.state != "stopping":
                raise
            raise Refusal(503, STOPPING, 5) from None

    @contextlib.contextmanager
    def _queued(self, mosaic: Mosaic, options: RestoreOptions) -> Iterator[Job]:
        assert self._batcher is not None
        try:
            job = self._batcher.submit(mosaic, options, self._base)
            try:
                yield job
            finally:
                self._batcher.cancel(job)
        except Stopped:
            raise Refusal(503, STOPPING, 5) from None

    def _decode(self, data: bytes, wish: Wish) -> Picture:
        limit = self.limits.pixels
        try:
            check_scale(wish.scale)
        except UserError as error:
            raise Refusal(422, str(error)) from None
        try:
            picture = images.from_bytes(data, limit=int(limit / self._factor(wish.scale)))
        except TooManyPixels as error:
            raise Refusal(413, str(error)) from None
        except UserError as error:
            raise Refusal(415, str(error)) from None
        cost = self._cost(picture, wish.scale)
        if cost > limit:
            height, width = picture.color.shape[:2]
            raise Refusal(413, f"{width}x{height} counts as {cost:,} pixels, limit {limit:,}")
        map_only = wish.output == "confidence"
        target = dataclasses.replace(picture, alpha=None) if map_only else picture
        try:
            images.check_kind(target, wish.kind, scale=wish.scale)
        except UserError as error:
            raise Refusal(400, str(error)) from None
        return picture

    def _encode(
        self, picture: Picture, mosaic: Mosaic, wish: Wish
    ) -> tuple[bytes, tuple[str, ...]]:
        restored = finish(picture, mosaic.color, wish.scale)
        if wish.output == "confidence":
            assert mosaic.confidence is not None
            height, width = restored.color.shape[:2]
            restored = images.from_confidence(mosaic.confidence, height, width)
        return images.to_bytes(restored, wish.kind, quality=wish.quality)

    def _factor(self, scale: float) -> float:
        return max(1.0, scale / self._upscaler.method.scale) ** 2

    def _cost(self, picture: Picture, scale: float) -> int:
        """Pixels as `Limits.pixels` counts them: what memory grows with."""
        height, width = picture.color.shape[:2]
        size = self._upscaler.method.tile.size
        # the band of float32 tiles that is being blended takes about three times its own samples
        area = max(height, 3 * size) * max(width, size)
        return math.ceil(area * self._factor(scale))

    @contextlib.contextmanager
    def _room(self, pixels: int) -> Iterator[None]:
        if self._pixels and self._pixels + pixels > self.limits.total_pixels:
            raise self._busy(f"pictures of {self._pixels:,} pixels are being restored")
        self._pixels += pixels
        self.metrics.pixels.set(self._pixels)
        try:
            yield
        finally:
            self._pixels -= pixels
            self.metrics.pixels.set(self._pixels)

    def _busy(self, reason: str) -> Refusal:
        tiles = self._batcher.waiting if self._batcher is not None else 0
        seconds = tiles * self.metrics.seconds_a_tile()
        wait = min(max(1, math.ceil(seconds)), math.ceil(self.limits.timeout))
        return Refusal(429, f"too busy: {reason}; try again in {wait} s", wait)
