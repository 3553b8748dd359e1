"""Tiles of many requests, restored in shared device calls by one thread.

Requests take turns tile by tile, so that a large image holds up nobody by more than the call that
is running. A call has one program, so its tiles have the same options and the same side; groups of
such tiles take turns, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.inference.mosaic import Mosaic
from maskgit_sr.inference.upscaler import Upscaler, each, fetch
from maskgit_sr.methods.base import Restored, RestoreOptions

_log = logging.getLogger("maskgit_sr.serving")
Observe = Callable[[int, float], None]


def key_data(seed: int) -> np.ndarray:
    """Returns the key of a seed as plain numbers, which the host can stack."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def keys(data: Sequence[np.ndarray]) -> jax.Array:
    """Returns keys [n] of their `key_data`."""
    return jax.random.wrap_key_data(jnp.asarray(np.stack(data)))


class Stopped(Exception):
    """The batcher was closed before the image was complete."""


class QueuedImage:
    """An image that is being restored.

    Attributes:
        group: options and side of its tiles, which all tiles of a device call share.
        future: of the whole mosaic; ends with the device's exception, or `Stopped`.
        begun: time.monotonic() of its first device call, or None.
    """

    def __init__(self, mosaic: Mosaic, options: RestoreOptions, base: np.ndarray):
        self.mosaic, self.options, self.base = mosaic, options, base
        self.group = options, mosaic.side
        self.future: Future[Mosaic] = Future()
        self.future.set_running_or_notify_cancel()  # whoever waits for it cannot cancel it
        self.arrived = time.monotonic()
        self.begun: float | None = None
        self.dropped = False
        self._taken = self._added = 0

    @property
    def waiting(self) -> int:
        """Number of tiles that no device call has taken yet."""
        return self.mosaic.count - self._taken

    def take(self) -> int:
        """Returns the index of the next tile."""
        self._taken += 1
        return self._taken - 1

    def add(self, *tile: Any) -> None:
        """Adds the next restored tile (image, confidence, tokens); the last one ends the future."""
        self.mosaic.add(*tile)
        self._added += 1
        if self._added == self.mosaic.count:
            self.future.set_result(self.mosaic)

    def fail(self, error: Exception) -> None:
        """Ends the future with the error; tiles that are still on the device are dropped."""
        self.dropped = True
        if not self.future.done():
            self.future.set_exception(error)


class _Call(NamedTuple):
    """A device call that was started."""

    turns: list[tuple[QueuedImage, int]]
    restored: Restored
    started: float


class Batcher:
    """Fills device calls of `upscaler.batch` tiles from all requests.

    A call that is not full waits until the request whose turn it is has been there for `max_wait`
    seconds. While a call runs, a full one is queued behind it at once, any other when it ends,
    before its tiles are blended.

    Args:
        observe: is told (tiles, device seconds) of every call.
    """

    def __init__(self, upscaler: Upscaler, *, max_wait: float, observe: Observe):
        self._upscaler, self._max_wait, self._observe = upscaler, max_wait, observe
        self._queue: deque[QueuedImage] = deque()  # those with waiting tiles; the first is next
        self._changed = threading.Condition()
        self._closed = False
        self._ended = 0.0  # when the last device call did
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of tiles that wait for the device."""
        with self._changed:
            return sum(image.waiting for image in self._queue)

    @property
    def alive(self) -> bool:
        """True while the device's thread runs."""
        return self._thread.is_alive()

    def submit(self, mosaic: Mosaic, options: RestoreOptions, base: np.ndarray) -> QueuedImage:
        """Queues an image.

        Args:
            base: `key_data` of the seed of its tiles.

        Raises:
            Stopped: the batcher was closed.
        """
        image = QueuedImage(mosaic, options, base)
        with self._changed:
            if self._closed:
                raise Stopped
            self._queue.append(image)
            self._changed.notify()
        return image

    def cancel(self, image: QueuedImage) -> None:
        """Drops what is left of an image."""
        with self._changed:
            image.dropped = True
            if image in self._queue:
                self._queue.remove(image)

    def close(self) -> None:
        """Ends all images with `Stopped`, and the thread after the call that it is in."""
        with self._changed:
            self._closed = True
            for image in self._queue:
                image.fail(Stopped())
            self._queue.clear()
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        running: _Call | None = None
        while True:
            if running is None:
                turns = self._take(block=True)
                if not turns:
                    return
                running = self._start(turns)
                continue
            # a full call need not wait for the end of the last one to be queued behind it
            following = self._start(self._take(full=True))
            tiles = self._fetch(running)
            if following is None:
                following = self._start(self._take())
            self._hand_out(running, tiles)
            running = following

    def _take(self, *, block: bool = False, full: bool = False) -> list[tuple[QueuedImage, int]]:
        """Returns the tiles of the next call, one from every image in turn; [] for none yet.

        Args:
            block: wait for tiles; [] then means that the batcher was closed.
            full: only a full call.
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
        """Seconds until the next call may start; None: not before something is submitted."""
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
            if image.waiting:
                self._queue.append(image)
        self._queue.extendleft(reversed(others))
        return turns

    def _start(self, turns: list[tuple[QueuedImage, int]]) -> _Call | None:
        """Starts a device call; where it fails, so do its images, and only they."""
        if not turns:
            return None
        started = time.monotonic()
        for image, _ in turns:
            image.begun = image.begun or started
        try:
            lr = np.concatenate([image.mosaic.cut([index]) for image, index in turns])
            indices = np.array([index for _, index in turns], np.uint32)
            # one shape whatever their number, so that nothing is compiled anew
            fill = turns + turns[-1:] * (self._upscaler.batch - len(turns))
            bases = keys([image.base for image, _ in fill])
            restored = self._upscaler.run(lr, indices, bases, turns[0][0].options)
        except Exception as error:
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
        with self._changed:
            for image, _ in turns:
                self.cancel(image)
                image.fail(error)
