"""uvicorn's HTTP protocol with limits: of connections, of silence, and of what is not read."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol


class Protocol(H11Protocol):
    """One connection. Its own errors are {"error": one line}, as the application's.

    Args:
        most: connections at a time.
        pause: seconds within which a head must be complete, and a client must read something.
    """

    def __init__(self, *args: Any, most: int, pause: float, **given: Any):
        super().__init__(*args, **given)
        self._most, self._pause = most, pause
        self._idle: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """True while a request is being served."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, in place of the one that has been without a request for longest."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) <= self._most:
            return
        others = [one for one in self.connections if isinstance(one, Protocol) and one._idle]
        first = min(others, key=lambda one: one._idle.when() if one._idle else 0)
        if first is self:
            seconds = math.ceil(self._pause)
            message = f"too busy: {self._most} connections are open; try again in {seconds} s"
            self._refuse(503, message, (b"retry-after", b"%d" % seconds))
        else:
            first.transport.abort()
            self.connections.discard(first)  # which its loss does only later

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the timers."""
        for timer in (self._idle, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads bytes of a head or a body."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begins to wait for the next request, or for the rest of a body that nobody reads."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Limits the time without a request, however many bytes come in it."""
        if self.busy and self._idle is not None:
            self._idle.cancel()
            self._idle = None
        elif not self.busy and self._idle is None and not self.transport.is_closing():
            self._idle = self.loop.call_later(self._pause, self._silent)

    def _silent(self) -> None:
        self._idle = None
        if self.conn.trailing_data[0] and self.conn.their_state is h11.IDLE:
            self._refuse(408, f"no whole head within {self._pause:g} s")
        self.transport.close()
        self.loop.call_later(self._pause, self.transport.abort)  # if it does not read, either

    def pause_writing(self) -> None:
        """Waits for a client that does not read."""
        super().pause_writing()
        # a second later than the application, which counts the request
        self._unread = self.loop.call_later(self._pause + 1, self.transport.abort)

    def resume_writing(self) -> None:
        """Goes on."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def send_400_response(self, msg: str) -> None:
        """Tells what h11 found, and closes; called where its exception is handled."""
        found = sys.exception()
        status = found.error_status_hint if isinstance(found, h11.RemoteProtocolError) else 400
        reason = " ".join(str(found).split())[:200]
        self._refuse(status, f"not a valid HTTP request ({reason})")

    def _refuse(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        body = json.dumps({"error": message}).encode()
        if self.busy:  # its application must not send a second response
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # a response may have begun, or been sent before the rest of its request came
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            kind = b"content-type", b"application/json"
            size = b"content-length", b"%d" % len(body)
            close = b"connection", b"close"
            phrase = STATUS_PHRASES.get(status, b"")
            head = h11.Response(
                status_code=status, headers=[kind, size, close, *headers], reason=phrase
            )
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
