"""What a request says, what it holds, and the limits of all requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field

from maskgit_sr.inference.upscaler import MAX_SCALE
from maskgit_sr.methods.base import RestoreOptions
from maskgit_sr.serving.transfers import Transfer

Report = Callable[[str, int, int], None]
"""Called in the event loop's thread with the stage of a restoration, tiles done and all tiles."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the requests.

    Attributes:
        pixels: of one image; a height below three tiles counts as three, a width below one as one,
            and a scale above the method's multiplies the count as it does the output's pixels.
        total_pixels: of all images that are being restored.
        bytes: of one body.
        total_bytes: of all bodies and responses that are held; those that are silent give way.
        requests: being worked on, from the last byte in to the encoded response.
        timeout: seconds from the head to the encoded response.
        job_timeout: seconds from the last byte of a job's body to its result.
        keep: seconds that a finished job is kept for its client.
        pause: seconds that a client may take for a head, be silent within a body or between
            requests, and not read its response.
        rate: bytes a second that a body must come with, after `pause`.
        connections: at a time; those without a request give way.
        steps: the largest ``steps`` of a request, if the method has this option; None: four times
            the server's own.
    """

    pixels: int = 4_000_000
    total_pixels: int = 8_000_000
    bytes: int = 32_000_000
    total_bytes: int = 256_000_000
    requests: int = 64
    timeout: float = 120.0
    job_timeout: float = 1800.0
    keep: float = 600.0
    pause: float = 10.0
    rate: float = 1000.0
    connections: int = 512
    steps: int | None = None


class Parameters(BaseModel, extra="allow"):
    """The query parameters of /upscale and /jobs; all others are options of the method.

    Attributes:
        scale: output side over input side; None: the method's own.
        seed: of the method's random samples.
        quality: of JPEG and WebP, 1 to 100.
        output: ``confidence`` for the confidence map, in grey at the size of the output.
        confidence: whether the mean of the map is returned.
        consistent: grey levels within which the result, reduced, returns the input; None: any.
    """

    scale: Annotated[float | None, Field(gt=0, le=MAX_SCALE, allow_inf_nan=False)] = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    format: Annotated[
        Literal["png", "jpeg", "webp", "tiff"],
        BeforeValidator(lambda name: {"jpg": "jpeg", "tif": "tiff"}.get(name, name)),
    ] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    output: Literal["image", "confidence"] = "image"
    confidence: bool = False
    consistent: Annotated[float | None, Field(gt=0, le=255, allow_inf_nan=False)] = None


class RequestOptions(NamedTuple):
    """The parameters of a request, and the scale and method options that follow from them."""

    parameters: Parameters
    scale: float
    restore: RestoreOptions


class Body:
    """The body of a request, of a Content-Encoding ("": none). Whoever needs it no more frees it.

    An object, so that no caller up the stack holds the bytes while the image waits its turn.
    """

    def __init__(self, coding: str, transfer: Transfer):
        self.coding, self.transfer = coding, transfer
        self.data = bytearray()

    def free(self) -> None:
        """Lets the bytes go."""
        self.data = bytearray()
        self.transfer.free()


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """A restored image file, notes for the user, and milliseconds by step.

    ``confidence`` is the mean of the map in [0, 1], or None if it was not computed; ``map`` the map
    itself as a grey PNG of the input's size, where that was asked for.
    """

    data: memoryview
    notes: tuple[str, ...]
    milliseconds: dict[str, float]
    confidence: float | None
    map: memoryview | None = None
