"""PGM and PPM of more than 8 bits, of which Pillow keeps 8 and OpenCV ignores the maximum."""

from __future__ import annotations

import re

import numpy as np

from maskgit_sr.errors import UserError
from maskgit_sr.images.bounds import check_size

# Magic, width, height and maximum, between which there are spaces and comments; then one space.
_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])"
_HEADER = re.compile(rb"P([2356])" + rb"".join(_SPACE + rb"+(\d{1,10})" for _ in range(3)) + rb"\s")
_LONGEST_HEADER = 1 << 16


def deep(data: bytes) -> bool:
    """Returns True for a PGM or PPM file whose maximum value is above 255."""
    found = _HEADER.match(data[:_LONGEST_HEADER])
    return found is not None and 255 < int(found[4]) < 65536


def read(data: bytes, limit: int) -> np.ndarray:
    """Returns uint16 [H, W, C], scaled so that the file's maximum becomes 65535.

    Raises:
      UserError: more than `limit` pixels, or fewer samples than the header tells.
    """
    found = _HEADER.match(data[:_LONGEST_HEADER])
    assert found is not None
    width, height, top = (int(found[i]) for i in (2, 3, 4))
    check_size(width, height, limit)
    channels = 3 if found[1] in b"36" else 1
    count = width * height * channels
    body = memoryview(data)[found.end() :]
    if found[1] in b"56":
        samples = np.frombuffer(body[: 2 * count], ">u2", len(body[: 2 * count]) // 2)
    else:
        words = re.sub(rb"#[^\n\r]*", b"", body).split(maxsplit=count)[:count]
        if not all(word.isdigit() and len(word) < 10 for word in words):
            raise UserError("damaged picture (a sample that is no number)")
        samples = np.array(words, dtype="S9").astype(np.uint32)
    if len(samples) < count:
        raise UserError(f"truncated picture ({len(samples):,} of {count:,} samples)")
    scaled = np.rint(np.minimum(samples, top) * np.float64(65535 / top))
    return scaled.astype(np.uint16).reshape(height, width, channels)
