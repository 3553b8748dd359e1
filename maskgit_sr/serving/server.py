"""Running the application: listening while the model loads, stopping without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from maskgit_sr.errors import UserError
from maskgit_sr.serving.service import Service


class Server(uvicorn.Server):
    """uvicorn's, whose own handlers would end the process by the signal instead of with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves the signals to `run`."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Returns a listening socket; port 0 takes a free one.

    Raises:
        UserError: the address is in use, not ours, or no address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # socket lengthens the text; a name that is not found has another kind of number
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise UserError(f"{host} port {port}: cannot listen ({reason})") from None


def make(app: ASGIApp) -> Server:
    """Returns a server that needs a socket."""
    return Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )


async def run(
    service: Service,
    server: Server,
    listening: socket.socket,
    load: Callable[[], None],
    grace: float,
) -> None:
    """Serves until SIGTERM or SIGINT.

    Then new requests get 503, /healthz too, and those in flight have `grace` seconds to end; a
    second signal ends them at once.

    Args:
        load: gets the service ready; runs in a thread while /healthz already answers.

    Raises:
        Exception: whatever `load` does.
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
        if loading.done():
            loading.result()
        await stopped
        service.state = "stopping"
        if not loading.done():
            # nothing is in flight, and a compiler cannot be interrupted in any better way
            os._exit(0)
        await ended(service, hurry, grace)
        await asyncio.to_thread(service.close)
    finally:
        stopped.cancel()
        server.should_exit = True
        await serving


async def ended(service: Service, hurry: asyncio.Event, grace: float) -> None:
    """Returns when no request is left, after `grace` seconds, or when told to hurry."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            while service.requests and not hurry.is_set():
                await asyncio.sleep(0.05)
