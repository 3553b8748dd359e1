"""HTTP errors of the service. Their line is the body of the response, as {"error": line}."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException

from maskgit_sr.serving.codecs import CodecFailed

_log = logging.getLogger("maskgit_sr.serving")


def refusal(error: CodecFailed) -> HTTPException:
    """Returns the HTTP error of an image that was not decoded or encoded."""
    if error.kind in ("TooManyPixels", "TooManyBytes"):
        return HTTPException(413, str(error))
    if error.kind == "MemoryError":
        return HTTPException(413, "the image takes more memory than its size allows for")
    if error.kind == "UserError":
        return HTTPException(415, str(error))
    if error.kind == "died":  # as at a defect of a decoder, which the file has found
        return HTTPException(415, "the image could not be decoded or encoded: its process died")
    _log.error("a codec process failed: %s", error)
    return HTTPException(500, f"the image could not be restored ({error.kind})")


def late(state: str, status: int, message: str, seconds: float) -> HTTPException:
    """Returns the HTTP error of what a deadline has ended in a service of that state."""
    if state == "stopping":
        return stopping()
    return HTTPException(status, f"{message} within {seconds:g} s")


def stopping() -> HTTPException:
    """Returns the HTTP error of requests that a shutdown cuts off."""
    return later(503, "the server is stopping")


def later(status: int, message: str, seconds: int = 5) -> HTTPException:
    """Returns an HTTP error with a Retry-After header of `seconds`."""
    return HTTPException(status, message, {"Retry-After": str(seconds)})
