"""Quality checks of training photographs: contrast, sharpness and duplicates."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np


def detail(image: np.ndarray) -> tuple[float, float]:
    """Returns (contrast, sharpness) of uint8 [H, W, 3], in levels of 255.

    Contrast is the standard deviation of the luma: below 3 or so nothing is to be seen. Sharpness
    is the standard deviation of its Laplacian: a photograph out of focus has less than 2 (the
    rounding to 8 bits alone makes 1.3), sharp ones have 8 to 50.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    contrast = cv2.meanStdDev(grey)[1]
    # Signed 16 bits: the Laplacian of 8-bit levels lies in ±1020.
    sharpness = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1]
    return float(contrast[0, 0]), float(sharpness[0, 0])


def pixel_digest(image: np.ndarray) -> str:
    """Returns SHA-256 of size and pixels of uint8 [H, W, 3], equal whatever the file format."""
    # The size counts: the same bytes in another shape are another image.
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def difference_hash(image: np.ndarray) -> np.ndarray:
    """Returns 256 bits, uint64 [4]: set where the next of 16×17 fields in a row is brighter.

    Few bits change under rescaling, recompression and small changes of colour.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # float32: means rounded to 8 bits would tie in smooth areas.
    fields = cv2.resize(grey.astype(np.float32), (17, 16), interpolation=cv2.INTER_AREA)
    return np.packbits(fields[:, 1:] > fields[:, :-1]).view(np.uint64)


class NearDuplicates:
    """Finds the remembered image whose difference hash is nearest.

    Args:
      limit: at most so many of the 256 bits may differ. Unrelated photographs differ in about 128,
        with a standard deviation of 8 or more.
    """

    def __init__(self, limit: int = 12):
        self._limit = limit
        self._hashes = np.zeros((0, 4), np.uint64)
        self._names: list[str] = []

    def nearest(self, code: np.ndarray) -> tuple[str, int] | None:
        """Returns (name, differing bits) of the nearest image within the limit, or None."""
        if not self._names:
            return None
        differing = np.bitwise_count(self._hashes ^ code).sum(1)
        found = int(differing.argmin())
        if differing[found] > self._limit:
            return None
        return self._names[found], int(differing[found])

    def add(self, name: str, code: np.ndarray) -> None:
        """Remembers one image."""
        self._hashes = np.vstack([self._hashes, code])  # cheaper than the comparison with all
        self._names.append(name)
