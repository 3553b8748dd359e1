"""Prometheus metrics of the server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
_TILES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server, and memory and processor time of its process (on Linux)."""

    def __init__(self) -> None:
        # its own, as the global registry takes no name twice: a process may have several servers
        registry = CollectorRegistry()
        self._registry = registry
        self._sums = 0, 0.0
        self.requests = Counter(
            "maskgit_sr_requests",
            "POST /upscale and /jobs by status; 499: the client left before its response.",
            ["status"],
            registry=registry,
        )
        self.jobs = Counter(
            "maskgit_sr_jobs",
            "Jobs by the status that /upscale would have had, or cancelled.",
            ["status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "maskgit_sr_request_seconds",
            "From the head of a request to /upscale to its encoded image; only of status 200.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "maskgit_sr_requests_in_flight",
            "Requests to POST /upscale and /jobs, and jobs, now.",
            registry=registry,
        )
        self.pixels = Gauge(
            "maskgit_sr_pixels_in_flight",
            "Pixels of the images that are being restored, as --max_pixels counts them.",
            registry=registry,
        )
        self._waiting = Gauge(
            "maskgit_sr_tiles_waiting", "Tiles that no device call has taken.", registry=registry
        )
        self._tiles = Counter("maskgit_sr_tiles", "Tiles restored.", registry=registry)
        self._calls = Histogram(
            "maskgit_sr_batch_tiles",
            "Tiles of a device call, without those that fill it up.",
            buckets=_TILES,
            registry=registry,
        )
        self._device = Counter(
            "maskgit_sr_device_seconds", "Time spent in device calls.", registry=registry
        )
        ProcessCollector(registry=registry)

    def watch(self, waiting: Callable[[], int]) -> None:
        """Reports `waiting()` as the number of waiting tiles."""
        self._waiting.set_function(waiting)

    def call(self, tiles: int, seconds: float) -> None:
        """Counts a device call that has ended."""
        # one tuple, so that the event loop, another thread, reads two numbers of the same moment
        self._sums = self._sums[0] + tiles, self._sums[1] + seconds
        self._tiles.inc(tiles)
        self._calls.observe(tiles)
        self._device.inc(seconds)

    def seconds_a_tile(self) -> float:
        """Returns the mean device seconds of a tile, 0 before the first call."""
        tiles, seconds = self._sums
        return seconds / tiles if tiles else 0

    def text(self) -> bytes:
        """Returns all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
