"""Batching of tiles from many requests into shared device calls, by one thread.

Requests take turns tile by tile, so that a large image delays nobody by more than the call that is
running. A call runs one program, so its tiles share options and side; groups of such tiles take
turns, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from maskgit_sr.inference.mosaic import Mosaic
from maskgit_sr.inference.upscaler import Upscaler, each, fetch
from maskgit_sr.methods.base import Restored, RestoreOptions

_log = logging.getLogger("maskgit_sr.serving")
Observe = Callable[[int, float], None]


class Stopped(Exception):
    """The batcher was closed before the image was complete."""


class QueuedImage:
    """An image that is being restored.

    Attributes:
        group: options and side of its tiles, which all tiles of a device call share.
        future: resolves to the complete mosaic, the device's exception or `Stopped`.
        begun: time.monotonic() of its first device call, or None.
    """

    def __init__(
        self, mosaic: Mosaic, options: RestoreOptions, seed: int, blended: Callable[[int], None]
    ):
        self.mosaic, self.options, self.seed = mosaic, options, seed
        self.group = options, mosaic.side
        self.future: Future[Mosaic] = Future()
        self.future.set_running_or_notify_cancel()  # whoever waits for it cannot cancel it
        self.arrived = time.monotonic()
        self.begun: float | None = None
        self.dropped = False
        self._blended = blended
        self._taken = self._added = 0

    @property
    def waiting(self) -> int:
        """The number of tiles that no device call has taken yet."""
        return self.mosaic.count - self._taken

    def take(self) -> int:
        """Returns the index of the next tile."""
        self._taken += 1
        return self._taken - 1

    def add(self, *tile: Any) -> None:
        """Adds the next restored tile (image, confidence, tokens); the last resolves the future."""
        self.mosaic.add(*tile)
        self._added += 1
        self._blended(self._added)
        if self._added == self.mosaic.count:
            self.future.set_result(self.mosaic)

    def fail(self, error: Exception) -> None:
        """Fails the future with the error; tiles that are still on the device are dropped."""
        self.dropped = True
        # two calls in flight may both have tiles of the image, and both fail
        if not self.future.done():
            self.future.set_exception(error)


class _Call(NamedTuple):
    """A device call in flight."""

    turns: list[tuple[QueuedImage, int]]
    restored: Restored
    started: float


class Batcher:
    """Fills device calls of `upscaler.batch` tiles from all requests.

    A partial call waits until the request whose turn it is has been queued for `max_wait` seconds.
    While a call runs, a full one is queued behind it at once, and a partial one when it ends,
    before its tiles are blended.

    Args:
        observe: called with (tiles, device seconds) of every call.
    """

    def __init__(self, upscaler: Upscaler, *, max_wait: float, observe: Observe):
        self._upscaler, self._max_wait, self._observe = upscaler, max_wait, observe
        self._queue: deque[QueuedImage] = deque()  # with waiting tiles; the first is next
        self._changed = threading.Condition()
        self._closed = False
        self._ended = 0.0  # when the last device call did
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of tiles that wait for the device."""
        with self._changed:
            return sum(image.waiting for image in self._queue)

    @property
    def alive(self) -> bool:
        """True while the device's thread runs."""
        return self._thread.is_alive()

    def submit(
        self,
        mosaic: Mosaic,
        options: RestoreOptions,
        seed: int,
        blended: Callable[[int], None] = lambda tiles: None,
    ) -> QueuedImage:
        """Queues an image.

        Args:
            seed: of its tiles, a uint32.
            blended: called in the device's thread with the number of tiles that are blended.

        Raises:
            Stopped: the batcher was closed.
        """
        image = QueuedImage(mosaic, options, seed, blended)
        with self._changed:
            # under the lock: after `close` nothing would resolve the future
            if self._closed:
                raise Stopped
            self._queue.append(image)
            self._changed.notify()
        return image

    def cancel(self, image: QueuedImage) -> None:
        """Drops the tiles of an image that are still to be restored or blended."""
        with self._changed:
            image.dropped = True
            if image in self._queue:
                self._queue.remove(image)

    def close(self) -> None:
        """Fails all queued images with `Stopped`; joins the thread after its current call."""
        with self._changed:
            self._closed = True
            for image in self._queue:
                image.fail(Stopped())
            self._queue.clear()
            self._changed.notify()
        self._thread.join()  # without the lock, which the thread needs

    def _loop(self) -> None:
        running: _Call | None = None
        while True:
            if running is None:
                turns = self._take(block=True)
                if not turns:
                    return
                running = self._start(turns)
                continue
            # a full call gains nothing by waiting, so it is queued while the last one runs
            following = self._start(self._take(full=True))
            tiles = self._fetch(running)
            # before the tiles are blended, so that the device works meanwhile
            if following is None:
                following = self._start(self._take())
            self._hand_out(running, tiles)
            running = following

    def _take(self, *, block: bool = False, full: bool = False) -> list[tuple[QueuedImage, int]]:
        """Returns the tiles of the next call, one from every image in turn, or [] if none is due.

        Args:
            block: wait for tiles; [] then means that the batcher was closed.
            full: take a full call only.
        """
        with self._changed:
            while True:
                delay = self._delay(full)
                if delay == 0:
                    return self._turns()
                if not block or self._closed:
                    return []
                self._changed.wait(delay)

    def _delay(self, full: bool) -> float | None:
        """Returns the seconds until the next call may start; None: not without more tiles."""
        if not self._queue:
            return None
        first = self._queue[0]
        waiting = sum(image.waiting for image in self._queue if image.group == first.group)
        if waiting >= self._upscaler.batch:
            return 0
        return None if full else max(0, first.arrived + self._max_wait - time.monotonic())

    def _turns(self) -> list[tuple[QueuedImage, int]]:
        group = self._queue[0].group
        turns: list[tuple[QueuedImage, int]] = []
        others: list[QueuedImage] = []
        while self._queue and len(turns) < self._upscaler.batch:
            image = self._queue.popleft()
            if image.group != group:
                others.append(image)
                continue
            turns.append((image, image.take()))
            if image.waiting:  # behind all others, so that requests take turns
                self._queue.append(image)
        # ahead of those that had a turn, so that the next call is of another group
        self._queue.extendleft(reversed(others))
        return turns

    def _start(self, turns: list[tuple[QueuedImage, int]]) -> _Call | None:
        """Starts a device call; if it fails, so do its images, and only they."""
        if not turns:
            return None
        started = time.monotonic()
        for image, _ in turns:
            image.begun = image.begun or started
        try:
            lr = np.concatenate([image.mosaic.cut([index]) for image, index in turns])
            places = np.concatenate([image.mosaic.places([index]) for image, index in turns])
            seeds = np.array([image.seed for image, _ in turns], np.uint32)
            restored = self._upscaler.run(lr, places, seeds, turns[0][0].options)
        except Exception as error:  # of any kind: the thread goes on for the other images
            self._fail(turns, error)
            return None
        return _Call(turns, restored, started)

    def _fetch(self, call: _Call) -> Restored | None:
        try:
            tiles = fetch(len(call.turns), call.restored)
        except Exception as error:
            self._fail(call.turns, error)
            return None
        ended = time.monotonic()
        # a queued call begins when the one before it ends
        self._observe(len(call.turns), ended - max(call.started, self._ended))
        self._ended = ended
        return tiles

    def _hand_out(self, call: _Call, tiles: Restored | None) -> None:
        if tiles is None:
            return
        for (image, _), tile in zip(call.turns, each(tiles), strict=True):
            if image.dropped:
                continue
            try:
                image.add(*tile)
            except Exception as error:
                self._fail([(image, 0)], error)

    def _fail(self, turns: list[tuple[QueuedImage, int]], error: Exception) -> None:
        _log.error("restoring %d tiles failed", len(turns), exc_info=error)
        with self._changed:  # reentrant: `cancel` takes it again
            for image, _ in turns:
                self.cancel(image)
                image.fail(error)
