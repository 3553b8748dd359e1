"""A server of the watched model on a free port of this machine, in a thread."""

import asyncio
import contextlib
import socket
import threading
import time

import httpx

from maskgit_sr.serving import app, server
from maskgit_sr.serving.service import Limits, Service

LONG = 30


class Served:
    """Attributes: service, port, client."""

    def __init__(self, service, port, client):
        self.service, self.port, self.client = service, port, client

    def upscale(self, data, **parameters):
        return self.client.post("/upscale", params=parameters, content=data)

    def raw(self, *pieces):
        """A connection on which those bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), LONG)
        for piece in pieces:
            connection.sendall(piece)
        return connection

    def count(self, status):
        text = self.client.get("/metrics").text
        return value(text, f'maskgit_sr_requests_total{{status="{status}"}}')


def value(text, name):
    """Of a sample on the page of metrics; 0 where it is not there."""
    found = [line.split()[-1] for line in text.splitlines() if line.rsplit(" ", 1)[0] == name]
    return float(found[0]) if found else 0.0


def until(condition):
    """Waits until it holds."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "still not so"
        time.sleep(0.01)


@contextlib.contextmanager
def serve(upscaler, *, token=None, max_wait=0.002, defaults=None, **limits):
    """A running server; `upscaler` None: its model is still being loaded."""
    service = Service("nearest", Limits(**limits), max_wait=max_wait)
    if upscaler is not None:
        service.start(upscaler, **(defaults or {}))
    listening = server.bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    running = server.make(app.build(service, token))
    thread = threading.Thread(target=lambda: asyncio.run(running.serve([listening])))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LONG) as client:
            yield Served(service, port, client)
    finally:
        if hasattr(upscaler, "gate"):
            upscaler.gate.set()
        service.close()
        running.should_exit = True
        thread.join()
