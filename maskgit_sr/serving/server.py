"""Running the application: it listens while the model loads, and stops without losing requests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from maskgit_sr.errors import UserError
from maskgit_sr.serving.protocol import Protocol
from maskgit_sr.serving.request import Limits
from maskgit_sr.serving.service import Service

_OTHERS = 200  # open files that are no connections: models, codec processes, a reserve


class Server(uvicorn.Server):
    """uvicorn's server without its handlers, which end the process by the signal, not with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves the signals to `run`."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes all connections, those that do not read what they get by force."""
        asyncio.get_running_loop().call_later(0.3, self._abort)
        await super().shutdown(sockets)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def bind(host: str, port: int) -> socket.socket:
    """Returns a listening socket; port 0 takes a free one.

    Raises:
        UserError: the address is in use, of another machine, or no address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # create_server lengthens the text; a name that is not found has another kind of number
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise UserError(f"{host} port {port}: cannot listen ({reason})") from None


def make(app: ASGIApp, limits: Limits | None = None) -> Server:
    """Returns a server of the application that is still to be given a socket."""
    limits = limits or Limits()
    most = min(limits.connections, descriptors(limits.connections + _OTHERS) - _OTHERS)
    protocol: Any = functools.partial(Protocol, most=max(1, most), pause=limits.pause)
    # its warnings are of clients, which could fill the log with them
    log = logging.getLogger("uvicorn.error")
    log.setLevel(logging.ERROR)
    log.addFilter(lambda record: "without completing response" not in record.msg)
    return Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            server_header=False,
            timeout_keep_alive=math.ceil(limits.pause),
            timeout_graceful_shutdown=1,  # `run` has already waited for the requests
        )
    )


def descriptors(wanted: int) -> int:
    """Returns the number of files that this process may open; first raises it to `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


async def run(
    service: Service,
    server: Server,
    listening: socket.socket,
    load: Callable[[], None],
    grace: float,
) -> None:
    """Serves until SIGTERM or SIGINT.

    Then new requests, also to /healthz, get 503, and those in flight have `grace` seconds to end; a
    second signal ends them at once.

    Args:
        load: makes the service ready; runs in a thread while /healthz already responds.

    Raises:
        Exception: that of `load`.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    serving = asyncio.create_task(server.serve([listening]))
    loading = loop.run_in_executor(None, load)
    stopped = asyncio.create_task(stop.wait())
    try:
        first: set[asyncio.Future[Any]] = {loading, stopped}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():  # a model that cannot be loaded ends the server
            loading.result()
        await stopped
        service.state = "stopping"
        if not loading.done():
            # nothing is in flight, and a compilation cannot be interrupted in any other way
            os._exit(0)
        exit_within(grace + 1.2)  # whatever holds up the event loop
        await ended(service, hurry, grace)
        exit_within(1)  # a device call or a compilation cannot be interrupted in any other way
        service.cut()
        server.should_exit = True  # only now, as new requests got a 503 until here
        await serving
        await asyncio.to_thread(service.close)
    finally:
        stopped.cancel()
        server.should_exit = True
        await serving


def exit_within(seconds: float) -> None:
    """Ends the process after `seconds` if it has not ended by itself."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


async def ended(service: Service, hurry: asyncio.Event, grace: float) -> None:
    """Waits until no request is left, `grace` seconds have passed or `hurry` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            while service.requests and not hurry.is_set():
                await asyncio.sleep(0.05)
