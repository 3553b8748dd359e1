"""Bodies and responses on their way: the bytes that they hold, and how long they may be silent."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable

_SILENT = 1.0  # seconds, after which a transfer gives way if others need its bytes


class NoRoom(Exception):
    """All bytes are held by transfers that go on.

    Attributes:
        seconds: until the first of them has to end or to go on.
    """

    def __init__(self, seconds: float):
        super().__init__("bodies and responses hold all bytes")
        self.seconds = math.ceil(seconds)


class Transfer:
    """One body or response. Its bytes count from `add` to `free`."""

    def __init__(self, transfers: Transfers):
        self._transfers = transfers
        self._until: asyncio.Timeout | None = None
        self.size, self.moved = 0, 0.0

    @contextlib.asynccontextmanager
    async def moving(self) -> AsyncIterator[None]:
        """Is on its way within the block; raises TimeoutError when `allow` or another ends it."""
        async with asyncio.timeout(None) as self._until:
            try:
                yield
            finally:
                self._until = None

    def allow(self, seconds: float) -> None:
        """Sets the seconds until the next call, without which it is ended."""
        if self._until is not None and not self._until.expired():
            self.moved = asyncio.get_running_loop().time()
            self._until.reschedule(self.moved + seconds)

    def add(self, count: int) -> None:
        """Holds `count` more bytes.

        Raises:
            NoRoom: the limit is reached, and no other transfer is silent.
        """
        self._transfers.make_room(count, self)
        self.hold(count)

    def hold(self, count: int) -> None:
        """Holds `count` more bytes, even above the limit."""
        self.size += count
        self._transfers.change(self, count)

    def free(self) -> None:
        """Holds no more bytes."""
        held, self.size = self.size, 0  # before the change, which looks whether any is left
        self._transfers.change(self, -held)

    def remaining(self) -> float | None:
        """Returns the seconds until it is ended, or None if nothing ends it."""
        when = self._until.when() if self._until is not None else None
        return None if when is None else max(0.0, when - asyncio.get_running_loop().time())

    def end(self) -> None:
        """Ends it, and counts its bytes no more."""
        self.free()
        assert self._until is not None
        if not self._until.expired():
            self._until.reschedule(0)


class Kept(Transfer):
    """A result that waits for its client, and gives way as a silent transfer does.

    Args:
        drop: called when it has to give way.
    """

    def __init__(self, transfers: Transfers, drop: Callable[[], None]):
        super().__init__(transfers)
        self._drop = drop

    def touch(self) -> None:
        """Counts as having moved now."""
        self.moved = asyncio.get_running_loop().time()

    def remaining(self) -> float:
        """Returns the seconds until it may be ended."""
        return max(0.0, self.moved + _SILENT - asyncio.get_running_loop().time())

    def end(self) -> None:
        """Ends it, and counts its bytes no more."""
        self.free()
        self._drop()


class Transfers:
    """All transfers, with a common limit of bytes."""

    def __init__(self, limit: int):
        self._limit = limit
        self.held = 0
        self._holding: set[Transfer] = set()

    def change(self, transfer: Transfer, count: int) -> None:
        """Counts bytes of a transfer."""
        self.held += count
        (self._holding.add if transfer.size else self._holding.discard)(transfer)

    def make_room(self, count: int, wanted: Transfer) -> None:
        """Ends other transfers, those silent for longest first, until there are `count` bytes.

        Raises:
            NoRoom: none of the others is silent.
        """
        while self.held + count > self._limit:
            others = [one for one in self._holding - {wanted} if one.remaining() is not None]
            first = min(others, key=lambda one: one.moved, default=None)
            if first is None or asyncio.get_running_loop().time() - first.moved < _SILENT:
                raise NoRoom(min((one.remaining() or 0 for one in others), default=_SILENT))
            first.end()
