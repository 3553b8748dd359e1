"""A server of the watched model on a free port of this machine, in a thread, and bodies for it."""

import asyncio
import contextlib
import io
import socket
import threading
import time

import httpx
import numpy as np
from PIL import Image, ImageCms

from maskgit_sr.images import from_array, from_bytes, to_bytes
from maskgit_sr.serving import app, server
from maskgit_sr.serving.service import Limits, Service
from tests.serving.models import Watched, pixels

LONG = 30
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png(array):
    return to_bytes(from_array(array), "PNG")[0]


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[271], EXIF[274] = "Maker", 6  # as a camera held upright writes
FRAMES = [Image.fromarray(pixels(6, 7, seed=n)).convert("P") for n in range(2)]
PICTURES = {
    "rgb": png(pixels(20, 13)),
    "one pixel": png(pixels(1, 1)),
    "row": png(pixels(1, 60)),
    "grey": png(pixels(8, 9, 1)),
    "grey and alpha": png(pixels(8, 9, 2)),
    "alpha": png(pixels(11, 6, 4)),
    "16 bits": png(pixels(7, 5).astype(np.uint16) * 257 + 3),
    "jpeg": saved(Image.fromarray(pixels(9, 14)), "JPEG", exif=EXIF.tobytes(), icc_profile=ICC),
    "webp": to_bytes(from_array(pixels(10, 10, 4)), "WEBP")[0],
    "tiff": to_bytes(from_array(pixels(5, 12)), "TIFF")[0],
    "gif": saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
}
RGB = PICTURES["rgb"]


def expected(upscaler, data, kind="PNG", quality=95, **options):
    """What the upscaler makes of it in this thread."""
    restored = upscaler.restore(from_bytes(data), confidence=False, **options)
    return to_bytes(restored.picture, kind, quality=quality)[0]


def expect_error(answer, status, message):
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert set(found) == {"error"} and "\n" not in found["error"]
    assert message in found["error"], found


class Served:
    """Attributes: upscaler, service, port, client."""

    def __init__(self, upscaler, service, port, client):
        self.upscaler, self.service, self.port, self.client = upscaler, service, port, client

    def upscale(self, data, **parameters):
        return self.client.post("/upscale", params=parameters, content=data)

    def check(self, data, **options):
        """The answer, after a comparison with the upscaler's."""
        answer = self.upscale(data, **options)
        assert answer.status_code == 200, answer.text
        assert answer.content == expected(self.upscaler, data, **options)
        return answer

    def refuse(self, data, status, message, **parameters):
        """The answer, which has to be that error."""
        answer = self.upscale(data, **parameters)
        expect_error(answer, status, message)
        return answer

    def raw(self, *pieces):
        """A connection on which those bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), LONG)
        for piece in pieces:
            connection.sendall(piece)
        return connection

    def metric(self, name):
        return value(self.client.get("/metrics").text, name)

    def count(self, status):
        return self.metric(f'maskgit_sr_requests_total{{status="{status}"}}')


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
def serve(upscaler, *, token=None, max_wait=0.002, defaults=None, port=0, **limits):
    """A running server; `upscaler` None: its model is still being loaded.

    A watched one forgets the calls of the start, and is let through its gate at the end.
    """
    watched = isinstance(upscaler, Watched)
    service = Service("nearest", Limits(**limits), max_wait=max_wait)
    if upscaler is not None:
        service.start(upscaler, **(defaults or {}))
        if watched:
            upscaler.reset()
    listening = server.bind("127.0.0.1", port)
    port = listening.getsockname()[1]
    running = server.make(app.build(service, token), service.limits)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve([listening])))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LONG) as client:
            yield Served(upscaler, service, port, client)
    finally:
        if watched:
            upscaler.gate.set()
        service.close()
        running.should_exit = True
        thread.join()
