"""What the API's description says of bodies, responses and errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file of an image, of any kind that `maskgit-sr upscale` reads.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}

_REFUSALS = {
    400: "The format cannot hold this image.",
    401: "No token, or another.",
    404: "No such job.",
    408: "The body did not come in time.",
    409: "The job has no such result, or not yet.",
    413: "Too many bytes or pixels.",
    415: "No image, or a damaged one.",
    422: "A parameter is unknown or out of range.",
    429: "Too much at a time; Retry-After has seconds.",
    500: "The device call failed.",
    503: "The model is loading, or the server is stopping.",
    504: "No result in time.",
}


class ErrorLine(BaseModel):
    """An error in one line."""

    error: str


class Health(BaseModel):
    """The state of a server that takes requests."""

    status: str
    model: str


class Info(BaseModel):
    """The model, its options with the server's defaults, and limits of one request."""

    model: str
    method: str
    scale: int
    sides: list[int]
    provides: list[str]
    options: dict[str, Any]
    limits: dict[str, int]
    token: bool


class JobState(BaseModel):
    """A job: queued, decoding, compiling, restoring, finishing, then done, failed or cancelled.

    `done` counts `tiles`; `seconds_left` is an estimate while it is restoring. A result has
    `bytes`, `format`, `notes` and the mean `confidence`; a failure `status` and `error`.
    """

    id: str
    state: str
    done: int
    tiles: int
    seconds: float
    seconds_left: float | None = None
    bytes: int | None = None
    format: str | None = None
    notes: list[str] | None = None
    confidence: float | None = None
    status: int | None = None
    error: str | None = None
    retry_after: int | None = None


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the descriptions of errors for a route."""
    return {s: {"model": ErrorLine, "description": _REFUSALS[s]} for s in statuses}
