"""Photographs as they are found on web pages and sent by phones: reduced, sharpened, compressed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.chain import GaussianNoise, Jpeg, Resize, Step
from data.lens import Range, gaussian, unsharp

MODES = (("bicubic", True), ("area", False), ("bilinear", True), ("bicubic", False))
"""(mode, antialiased) of the reductions, the last of which aliases, as browsers' do."""


@dataclass(frozen=True)
class Web:
    """Blur, reduction, noise, sharpening and JPEG, once or twice.

    A picture that is shared twice was larger the first time; its blocks of 8 are then reduced
    together with it, so that their grid is no longer the second file's.

    Sigmas of blurs are in LR pixels; all ranges are uniform.
    """

    blur: float = 0.6
    blur_sigma: Range = (0.2, 1.0)
    noise: float = 0.6
    noise_sigma: Range = (0.0, 8.0)  # levels of 255
    grey: float = 0.4
    sharpening: float = 0.5
    sharpening_amount: Range = (0.2, 1.5)
    sharpening_sigma: Range = (0.5, 1.5)
    jpeg_quality: tuple[int, int] = (35, 90)
    subsampled: float = 0.75
    twice: float = 0.4
    larger: float = 0.6  # of those that are compressed twice
    larger_by: Range = (1.1, 2.0)

    def steps(self, rng: np.random.Generator, height: int, width: int, scale: int) -> list[Step]:
        rows, columns = height // scale, width // scale
        chain: list[Step] = []
        if rng.random() < self.blur:
            # Before the reduction, so in HR pixels: the range holds at every scale.
            chain.append(gaussian(scale * float(rng.uniform(*self.blur_sigma))))
        twice = rng.random() < self.twice
        factor = float(rng.uniform(*self.larger_by)) if twice and rng.random() < self.larger else 1
        chain.append(_reduced(rng, round(rows * factor), round(columns * factor)))
        if rng.random() < self.noise:
            sigma, grey = float(rng.uniform(*self.noise_sigma)), bool(rng.random() < self.grey)
            chain.append(GaussianNoise(sigma, grey, int(rng.integers(2**32))))
        if rng.random() < self.sharpening:
            ranges = (self.sharpening_sigma, self.sharpening_amount)
            chain.append(unsharp(*(float(rng.uniform(*r)) for r in ranges)))
        chain.append(self._jpeg(rng))
        if twice:
            chain += [] if factor == 1 else [_reduced(rng, rows, columns)]
            chain.append(self._jpeg(rng))
        return chain

    def _jpeg(self, rng: np.random.Generator) -> Jpeg:
        quality = int(rng.integers(*self.jpeg_quality, endpoint=True))
        return Jpeg(quality, bool(rng.random() < self.subsampled))


def _reduced(rng: np.random.Generator, rows: int, columns: int) -> Resize:
    mode, antialias = MODES[int(rng.integers(len(MODES)))]
    return Resize(rows, columns, mode, antialias)
