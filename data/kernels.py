"""Kernels of the degradations: blurs of Real-ESRGAN and BSRGAN, a camera's sharpening.

A kernel is float32 [size, size] with sum 1. Coordinates are pixels from its centre; x runs along
columns, y along rows. With u, v the coordinates turned by `theta` and divided by the two standard
deviations, r² = u² + v².

    gaussian     exp(-r²/2) (Real-ESRGAN Sec. 3.1, BSRGAN Sec. 3.1)
    generalized  exp(-r^(2β)/2): flatter than a Gaussian for β > 1 (Real-ESRGAN Sec. 3.1, eq. 4)
    plateau      1 / (1 + r^(2β)): a plateau with slow flanks (Real-ESRGAN Sec. 3.1, eq. 5)
    sinc         c·J₁(c·r)/(2πr): ideal circular low-pass filter, cut off at the sides without a
                 window: ringing (Real-ESRGAN Sec. 3.3, eq. 6)
    unsharp      the image plus `amount` times what a Gaussian blur takes from it
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

SHAPES = ("gaussian", "generalized", "plateau", "sinc", "unsharp")


@dataclass(frozen=True)
class Kernel:
    """Parameters of one kernel; those that its shape does not use keep their defaults.

    The seven kernels of Real-ESRGAN are "sinc" and the other three shapes, each isotropic
    (`sigma_y` equal to `sigma_x`) or anisotropic.

    Attributes:
      shape: one of `SHAPES`.
      size: odd side in pixels.
      sigma_x, sigma_y: standard deviations along the two axes, in pixels.
      theta: rotation of the axes in radians.
      beta: exponent of "generalized" and "plateau"; 1 makes "generalized" a Gaussian.
      cutoff: of "sinc": the frequency in radians a pixel above which nothing passes, 0..π.
      offset: moves the centre towards the bottom right, in pixels (BSRGAN's shifted Gaussian).
      amount: of "unsharp": how often what a Gaussian blur takes away is added to the image.
    """

    shape: str
    size: int
    sigma_x: float = 0.0
    sigma_y: float = 0.0
    theta: float = 0.0
    beta: float = 1.0
    cutoff: float = 0.0
    offset: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        if self.shape == "sinc":
            return f"sinc {self.size} cut-off {self.cutoff:.2f}"
        if self.shape == "unsharp":
            return f"unsharp mask {self.size} sigma {self.sigma_x:.2f} amount {self.amount:.2f}"
        text = f"{self.shape} {self.size} sigma {self.sigma_x:.2f}"
        if self.sigma_y != self.sigma_x:
            text += f" x {self.sigma_y:.2f} at {self.theta:.2f}"
        return text + (f" beta {self.beta:.2f}" if self.beta != 1 else "")

    def array(self) -> np.ndarray:
        """Returns the kernel, float32 [size, size] with sum 1.

        Raises:
          ValueError: an unknown shape, an even size, a sigma, β or cut-off that is not positive, a
            cut-off above π, or a negative amount.
        """
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"kernel size must be odd and positive, got {self.size}")
        if self.shape == "sinc":
            return _normalized(self._sinc())
        if self.shape == "gaussian":
            return _normalized(np.exp(-0.5 * self._squared_radius()))
        if self.shape == "unsharp":
            return self._unsharp()
        if self.shape not in SHAPES:
            raise ValueError(f"kernel shape must be one of {', '.join(SHAPES)}, got {self.shape!r}")
        if self.beta <= 0:
            raise ValueError(f"kernel beta must be positive, got {self.beta}")
        power = self._squared_radius() ** self.beta
        return _normalized(1 / (1 + power) if self.shape == "plateau" else np.exp(-0.5 * power))

    def _squared_radius(self) -> np.ndarray:
        """Returns r² at every pixel, float64 [size, size]."""
        if not min(self.sigma_x, self.sigma_y) > 0:
            raise ValueError(f"kernel sigma must be positive, got {self.sigma_x}, {self.sigma_y}")
        y, x = np.mgrid[: self.size, : self.size] - ((self.size - 1) / 2 + self.offset)
        u = (x * math.cos(self.theta) + y * math.sin(self.theta)) / self.sigma_x
        v = (y * math.cos(self.theta) - x * math.sin(self.theta)) / self.sigma_y
        return u * u + v * v

    def _unsharp(self) -> np.ndarray:
        if self.amount < 0:
            raise ValueError(f"unsharp amount must not be negative, got {self.amount}")
        blur = Kernel("gaussian", self.size, self.sigma_x, self.sigma_x)
        # 1 + amount - amount: the sum stays 1, so that flat areas keep their level.
        kernel = -self.amount * blur.array()
        kernel[self.size // 2, self.size // 2] += 1 + self.amount
        return kernel

    def _sinc(self) -> np.ndarray:
        if not 0 < self.cutoff <= math.pi:
            raise ValueError(f"sinc cut-off must be in 0..π, got {self.cutoff}")
        y, x = np.mgrid[: self.size, : self.size] - (self.size - 1) / 2
        r = np.hypot(x, y)
        centre = self.size // 2
        r[centre, centre] = 1  # not 0/0; the limit, J₁(cr)/r → c/2, is put there below
        kernel = self.cutoff * special.j1(self.cutoff * r) / (2 * math.pi * r)
        kernel[centre, centre] = self.cutoff**2 / (4 * math.pi)
        return kernel


def _normalized(kernel: np.ndarray) -> np.ndarray:
    # Divided in float64, so that the sum is 1 to the precision of float32.
    return (kernel / kernel.sum()).astype(np.float32)
