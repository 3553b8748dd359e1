"""Compiled programs of a server: one for each choice of options and tile side."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from maskgit_sr.inference.upscaler import MAX_PROGRAMS, Upscaler
from maskgit_sr.methods.base import RestoreOptions

PENDING = 4
"""Programs that may wait for the compiler; each takes it seconds to minutes."""


class TooManyPrograms(Exception):
    """Too many programs wait for the compiler: another request would only time out."""


class Programs:
    """Compiles in a thread of its own, so that requests with known options do not wait."""

    def __init__(self, upscaler: Upscaler):
        self._upscaler = upscaler
        self._compiler = ThreadPoolExecutor(1, "compiler")
        self._known: dict[tuple[RestoreOptions, int], Future[None]] = {}

    def request(self, options: RestoreOptions, side: int) -> Future[None]:
        """Returns a future that resolves when tiles of that side need no more compilation.

        The future must not be cancelled, since other requests may wait for it. Not thread-safe.

        Raises:
            TooManyPrograms: it is not compiled, and `PENDING` others are waiting to be.
        """
        key = options.split()[0], side
        found = self._known.pop(key, None)
        # a compilation that failed is tried again
        if found is None or (found.done() and found.exception() is not None):
            if sum(not future.done() for future in self._known.values()) >= PENDING:
                raise TooManyPrograms
            found = self._compiler.submit(self._compile, options, side)
        self._known[key] = found  # behind the others: the first is the one unused for longest
        # the upscaler keeps as many: one that it dropped must not count as compiled
        if len(self._known) > MAX_PROGRAMS:
            self._known.pop(next(iter(self._known)))
        return found

    def close(self) -> None:
        """Joins the thread after the program that it is compiling."""
        self._compiler.shutdown(cancel_futures=True)

    def _compile(self, options: RestoreOptions, side: int) -> None:
        # the shapes of a device call of the batcher, or it would be another program
        lr, place = np.zeros((1, side, side, 3), np.float32), np.zeros((1, 3), np.int32)
        seed = np.zeros(1, np.uint32)
        jax.block_until_ready(self._upscaler.run(lr, place, seed, options))
