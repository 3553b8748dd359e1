"""Photographs of one scene through two lenses, as in RealSR and DRealSR."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data.chain import Blur, GaussianNoise, Jpeg, Resize, Step
from data.kernels import Kernel

Range = tuple[float, float]


@dataclass(frozen=True)
class SecondLens:
    """The scene through a shorter lens, by the camera's own processing, registered to the longer.

    RealSR (Cai et al., ICCV 2019, Sec. 3) and DRealSR photograph with a zoom lens and register the
    images. On its way to the LR image the light passes optics and demosaicing (a blur), the
    sensor's noise, the sharpening that every camera applies to its JPEG files, and the
    registration's interpolation (a second blur). Blurs alone, as in "camera", leave out the third:
    between HR and LR images of RealSR contrast is raised by a seventh at 1/8 cycle an LR pixel and
    falls steeply beyond 1/4. Sharpening between two blurs does that.

    Sigmas are in LR pixels; all ranges are uniform.
    """

    optics: Range = (0.3, 1.0)
    area: float = 0.5  # else antialiased bicubic
    noise: float = 0.6
    noise_sigma: Range = (0.0, 2.0)  # levels of 255
    grey: float = 0.4
    sharpening: float = 0.9
    sharpening_amount: Range = (0.0, 2.5)
    sharpening_sigma: Range = (0.6, 1.7)
    jpeg: float = 0.3
    jpeg_quality: tuple[int, int] = (80, 97)
    registration: Range = (0.3, 0.9)

    def steps(self, rng: np.random.Generator, height: int, width: int, scale: int) -> list[Step]:
        # Before the reduction, so in HR pixels: the range, in LR pixels, holds at every scale.
        chain: list[Step] = [gaussian(scale * float(rng.uniform(*self.optics)))]
        mode = "area" if rng.random() < self.area else "bicubic"
        chain.append(Resize(height // scale, width // scale, mode, antialias=mode == "bicubic"))
        if rng.random() < self.noise:
            sigma, grey = float(rng.uniform(*self.noise_sigma)), bool(rng.random() < self.grey)
            chain.append(GaussianNoise(sigma, grey, int(rng.integers(2**32))))
        if rng.random() < self.sharpening:
            sigma, amount = (
                float(rng.uniform(*r)) for r in (self.sharpening_sigma, self.sharpening_amount)
            )
            chain.append(unsharp(sigma, amount))
        if rng.random() < self.jpeg:
            chain.append(Jpeg(int(rng.integers(*self.jpeg_quality, endpoint=True))))
        return [*chain, gaussian(float(rng.uniform(*self.registration)))]


def gaussian(sigma: float) -> Blur:
    """Returns an isotropic Gaussian blur of that sigma in pixels."""
    return Blur(Kernel("gaussian", _side(sigma), sigma, sigma))


def unsharp(sigma: float, amount: float) -> Blur:
    """Returns a linear unsharp mask, `amount` times what the Gaussian of that sigma takes away."""
    return Blur(Kernel("unsharp", _side(sigma), sigma, sigma, amount=amount))


def _side(sigma: float) -> int:
    """Returns the side of the smallest kernel that reaches three sigmas from its centre."""
    return 2 * math.ceil(3 * sigma) + 1
