"""Tiles of many requests, restored in common device calls by one thread.

Requests take turns tile by tile, so that a large picture holds up nobody by more than the call that
is running. Tiles with other static options never share a call; the options take turns, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.inference.mosaic import Mosaic
from maskgit_sr.inference.upscaler import Upscaler, fetch, zip_tiles
from maskgit_sr.methods.base import Restored, RestoreOptions

_log = logging.getLogger("launch.serve")
Observe = Callable[[int, float], None]


class Stopped(Exception):
    """The batcher was closed before the picture was whole."""


class Job:
    """A picture that is being restored.

    Attributes:
        future: of the whole mosaic; ends with the device's exception, or `Stopped`.
        begun: time.monotonic() of its first device call, or None.
    """

    def __init__(self, mosaic: Mosaic, options: RestoreOptions, base: np.ndarray):
        self.mosaic, self.options, self.base = mosaic, options, base
        self.future: Future[Mosaic] = Future()
        self.future.set_running_or_notify_cancel()  # who waits for it cannot cancel it
        self.arrived = time.monotonic()
        self.begun: float | None = None
        self.dropped = False
        self._taken = self._added = 0

    @property
    def waiting(self) -> int:
        """Tiles that no device call has taken yet."""
        return self.mosaic.count - self._taken

    def take(self) -> int:
        """The index of the next tile."""
        self._taken += 1
        return self._taken - 1

    def add(self, image: np.ndarray, confidence: np.ndarray | None, tokens: np.ndarray) -> None:
        """The next restored tile; the last one ends the job."""
        self.mosaic.add(image, confidence, tokens)
        self._added += 1
        if self._added == self.mosaic.count:
            self.future.set_result(self.mosaic)

    def fail(self, error: Exception) -> None:
        """Ends the job; tiles that are still on the device are thrown away."""
        self.dropped = True
        if not self.future.done():
            self.future.set_exception(error)


class _Call(NamedTuple):
    """A device call that was started."""

    turns: list[tuple[Job, int]]
    restored: Restored
    started: float


class Batcher:
    """Fills device calls of `upscaler.batch` tiles from all requests.

    A call that is not full waits until the request whose turn it is has been there for `max_wait`
    seconds. Behind a call that runs a full one is queued at once, any other when it ends, before
    its tiles are blended.

    Args:
        observe: is told (tiles, device seconds) of every call.
    """

    def __init__(self, upscaler: Upscaler, *, max_wait: float, observe: Observe):
        self._upscaler, self._max_wait, self._observe = upscaler, max_wait, observe
        self._jobs: deque[Job] = deque()  # whose tiles wait; the next turn is the first's
        self._changed = threading.Condition()
        self._closed = False
        self._ended = 0.0  # when the last device call did
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Tiles that wait for the device."""
        with self._changed:
            return sum(job.waiting for job in self._jobs)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, mosaic: Mosaic, options: RestoreOptions, base: np.ndarray) -> Job:
        """Queues a picture.

        Args:
            base: key data (`jax.random.key_data`) that seeds its tiles.

        Raises:
            Stopped: the batcher was closed.
        """
        job = Job(mosaic, options, base)
        with self._changed:
            if self._closed:
                raise Stopped
            self._jobs.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Drops what is left of a job."""
        with self._changed:
            job.dropped = True
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self) -> None:
        """Ends all jobs with `Stopped`, and the thread after the call that it is in."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.fail(Stopped())
            self._jobs.clear()
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

    def _take(self, *, block: bool = False, full: bool = False) -> list[tuple[Job, int]]:
        """The tiles of the next call, one from every request in turn; [] for none yet.

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
        if not self._jobs:
            return None
        first = self._jobs[0]
        waiting = sum(job.waiting for job in self._jobs if job.options == first.options)
        if waiting >= self._upscaler.batch:
            return 0
        return None if full else max(0, first.arrived + self._max_wait - time.monotonic())

    def _turns(self) -> list[tuple[Job, int]]:
        options = self._jobs[0].options
        turns: list[tuple[Job, int]] = []
        others: list[Job] = []
        while self._jobs and len(turns) < self._upscaler.batch:
            job = self._jobs.popleft()
            if job.options != options:
                others.append(job)
                continue
            turns.append((job, job.take()))
            if job.waiting:
                self._jobs.append(job)
        self._jobs.extendleft(reversed(others))
        return turns

    def _start(self, turns: list[tuple[Job, int]]) -> _Call | None:
        """Starts a device call; where it fails, so do its requests, and only they."""
        if not turns:
            return None
        started = time.monotonic()
        for job, _ in turns:
            job.begun = job.begun or started
        try:
            lr = np.concatenate([job.mosaic.cut([index]) for job, index in turns])
            indices = np.array([index for _, index in turns], np.uint32)
            # one shape whatever their number, so that nothing is compiled anew
            fill = turns + turns[-1:] * (self._upscaler.batch - len(turns))
            data = np.stack([job.base for job, _ in fill])
            bases = jax.random.wrap_key_data(jnp.asarray(data))
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
        for (job, _), tile in zip(call.turns, zip_tiles(tiles), strict=True):
            if job.dropped:
                continue
            try:
                job.add(*tile)
            except Exception as error:
                self._fail([(job, 0)], error)

    def _fail(self, turns: list[tuple[Job, int]], error: Exception) -> None:
        _log.error("restoring %d tiles failed", len(turns), exc_info=error)
        with self._changed:
            for job, _ in turns:
                self.cancel(job)
                job.fail(error)
