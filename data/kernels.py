"""Kernels of the degradations: blurs of Real-ESRGAN and BSRGAN, a camera's sharpening.

A kernel is float32 [size, size] with sum 1. Coordinates are pixels from its centre; x runs along
columns, y along rows. With u, v the coordinates turned by `theta` and divided by the two standard
deviations, r² = u² + v².
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
        """The kernel itself.

        Raises:
          ValueError: unknown shape, or a parameter out of its range.
        """
        if self.shape == "sinc":
            return sinc_kernel(self.size, self.cutoff)
        if self.shape == "unsharp":
            return unsharp_kernel(self.size, self.sigma_x, amount=self.amount)
        axes = (self.size, self.sigma_x, self.sigma_y, self.theta)
        if self.shape == "gaussian":
            return gaussian_kernel(*axes, offset=self.offset)
        if self.shape == "generalized":
            return generalized_gaussian_kernel(*axes, beta=self.beta)
        if self.shape == "plateau":
            return plateau_kernel(*axes, beta=self.beta)
        raise ValueError(f"kernel shape must be one of {', '.join(SHAPES)}, got {self.shape!r}")


def _squared_radius(
    size: int, sigma_x: float, sigma_y: float | None, theta: float, offset: float = 0.0
) -> np.ndarray:
    """r² at every pixel, float64 [size, size]."""
    _check_size(size)
    sigma_y = sigma_x if sigma_y is None else sigma_y
    if not min(sigma_x, sigma_y) > 0:
        raise ValueError(f"kernel sigma must be positive, got {sigma_x}, {sigma_y}")
    y, x = np.mgrid[:size, :size] - ((size - 1) / 2 + offset)
    u = (x * math.cos(theta) + y * math.sin(theta)) / sigma_x
    v = (y * math.cos(theta) - x * math.sin(theta)) / sigma_y
    return u * u + v * v


def _check_size(size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"kernel size must be odd and positive, got {size}")


def _normalized(kernel: np.ndarray) -> np.ndarray:
    return (kernel / kernel.sum()).astype(np.float32)


def gaussian_kernel(
    size: int,
    sigma_x: float,
    sigma_y: float | None = None,
    theta: float = 0.0,
    *,
    offset: float = 0.0,
) -> np.ndarray:
    """exp(-r²/2) (Real-ESRGAN Sec. 3.1, BSRGAN Sec. 3.1); see `Kernel` for the arguments.

    Raises:
      ValueError: an even size, or a sigma that is not positive.
    """
    return _normalized(np.exp(-0.5 * _squared_radius(size, sigma_x, sigma_y, theta, offset)))


def generalized_gaussian_kernel(
    size: int, sigma_x: float, sigma_y: float | None = None, theta: float = 0.0, *, beta: float
) -> np.ndarray:
    """exp(-r^(2β)/2): flatter than a Gaussian for β > 1 (Real-ESRGAN Sec. 3.1, eq. 4).

    Raises:
      ValueError: an even size, a sigma or β that is not positive.
    """
    _check_beta(beta)
    return _normalized(np.exp(-0.5 * _squared_radius(size, sigma_x, sigma_y, theta) ** beta))


def plateau_kernel(
    size: int, sigma_x: float, sigma_y: float | None = None, theta: float = 0.0, *, beta: float
) -> np.ndarray:
    """1 / (1 + r^(2β)): a plateau with slow flanks (Real-ESRGAN Sec. 3.1, eq. 5).

    Raises:
      ValueError: an even size, a sigma or β that is not positive.
    """
    _check_beta(beta)
    return _normalized(1 / (1 + _squared_radius(size, sigma_x, sigma_y, theta) ** beta))


def unsharp_kernel(size: int, sigma: float, *, amount: float) -> np.ndarray:
    """The image plus `amount` times what a Gaussian blur takes from it, as one kernel.

    Raises:
      ValueError: an even size, a sigma that is not positive, or a negative amount.
    """
    if amount < 0:
        raise ValueError(f"unsharp amount must not be negative, got {amount}")
    kernel = -amount * gaussian_kernel(size, sigma)
    kernel[size // 2, size // 2] += 1 + amount
    return kernel


def _check_beta(beta: float) -> None:
    if beta <= 0:
        raise ValueError(f"kernel beta must be positive, got {beta}")


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """Ideal circular low-pass filter, c·J₁(c·r)/(2πr): ringing (Real-ESRGAN Sec. 3.3, eq. 6).

    Args:
      size: odd side in pixels; the filter is cut off there without a window.
      cutoff: c, radians a pixel, in 0..π.

    Raises:
      ValueError: an even size, or a cut-off outside (0, π].
    """
    _check_size(size)
    if not 0 < cutoff <= math.pi:
        raise ValueError(f"sinc cut-off must be in 0..π, got {cutoff}")
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    r = np.hypot(x, y)
    centre = size // 2
    r[centre, centre] = 1  # J₁(cr)/r → c/2
    kernel = cutoff * special.j1(cutoff * r) / (2 * math.pi * r)
    kernel[centre, centre] = cutoff**2 / (4 * math.pi)
    return _normalized(kernel)
