"""Arrays to make pictures of."""

import numpy as np


def noise(height, width, channels, dtype=np.uint8, seed=0):
    """Random samples of any dtype; no channel axis where `channels` is 0."""
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels else (height, width)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def gradient(height=24, width=40):
    """A smooth uint8 RGB picture, which JPEG keeps."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 5, x * 5, (x + y) * 3], axis=-1).astype(np.uint8)
