"""Images to degrade: float32 RGB in [0, 1]."""

import numpy as np


def photo(height, width, seed=0):
    """Smooth colour fields with an edge and some texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = rng.uniform(1, 6, (3, 2)), rng.uniform(0, 2 * np.pi, 3)
    fields = [np.sin(a * x + b * y + c) for (a, b), c in zip(*waves, strict=True)]
    image = 0.5 + 0.3 * np.stack(fields, -1)
    image[x > y + 0.2] -= 0.15
    return np.clip(image + rng.normal(0, 0.03, image.shape), 0, 1).astype(np.float32)


def waves(height, width):
    """Ripples of three periods around a dark bar, by a formula: nothing in it is drawn."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / 3 + y / 11), np.cos(x / 9 - y / 5), np.sin((x + y) / 21)]
    image = 0.55 + 0.3 * np.stack(planes, -1)
    image[height // 3 : height // 2, width // 4 : width // 2] *= 0.2
    return image.astype(np.float32)


def flat(red, green, blue, side=256):
    """A square of one colour."""
    return np.broadcast_to(np.float32([red, green, blue]), (side, side, 3)).copy()
