"""Pixel fidelity: PSNR, SSIM and MS-SSIM.

Images are RGB float32 [B,H,W,3] in [0,1]; scores are [B] float32. Every function is compiled once
per shape. A score means nothing without its protocol, so colour and border are arguments:

- color="rgb": the three channels; PSNR pools the error over them, SSIM averages their scores.
- color="y": BT.601 luma in [16,235]/255, unrounded: MATLAB's and BasicSR's rgb2ycbcr, the "Y" of
  super-resolution papers.
- color="luma": 0.299 R + 0.587 G + 0.114 B rounded to 8 bits: what SSIM's original scripts take,
  and IQA-PyTorch by default.
- border: pixels cut from each side first. Papers cut the scale factor for synthetic sets and
  nothing for real pairs.
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image

Score = Float[Array, "B"]
Color = Literal["rgb", "y", "luma"]

MAX_PSNR = 100.0
_LUMA = (0.299, 0.587, 0.114)
_STUDIO = (65.481, 128.553, 24.966)
_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_TAPS = [math.exp(-((i - _WINDOW // 2) ** 2) / (2 * _SIGMA**2)) for i in range(_WINDOW)]
_GAUSS = [tap / sum(_TAPS) for tap in _TAPS]
_C1, _C2 = 0.01**2, 0.03**2


def rgb_to_y(x: Array) -> Array:
    """BT.601 luma of RGB in [0,1]: [...,3] -> [...,1] in [16,235]/255, unrounded."""
    y = jnp.sum(x * jnp.array(_STUDIO, x.dtype), axis=-1, keepdims=True)
    return (y + 16) / 255


def _prepare(x: Array, color: Color, border: int) -> Array:
    x = x.astype(jnp.float32)
    if border:
        x = x[:, border:-border, border:-border]
    if color == "y":
        return rgb_to_y(x)
    if color == "luma":
        return jnp.round(255 * jnp.sum(x * jnp.array(_LUMA), axis=-1, keepdims=True)) / 255
    return x


def _check(x: Array, y: Array, color: str, border: int, smallest: int) -> None:
    if x.shape != y.shape or x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(f"expected two images [B,H,W,3] of one shape, found {x.shape}, {y.shape}")
    if color not in ("rgb", "y", "luma"):
        raise ValueError(f"color {color!r}: expected rgb, y or luma")
    if border < 0 or min(x.shape[1:3]) - 2 * border < smallest:
        raise ValueError(
            f"image of {x.shape[1]}x{x.shape[2]} with border {border}: "
            f"expected at least {smallest} pixels a side to be left"
        )


@partial(jax.jit, static_argnames=("color", "border"))
def psnr(x: Image, y: Image, *, color: Color = "rgb", border: int = 0) -> Score:
    """Peak signal-to-noise ratio in dB, [B,H,W,3] in [0,1] -> [B]; higher is better.

    10 log10(1 / mean squared error): the peak is 1 for every colour, also for luma that ends at
    235/255, as in papers. Capped at 100 dB, which equal images get. Nothing is rounded: round the
    images to 8 bits first to score what a file will hold.

    Raises:
        ValueError: shapes differ, are not [B,H,W,3], or the border leaves no pixel.
    """
    _check(x, y, color, border, 1)
    error = _prepare(x, color, border) - _prepare(y, color, border)
    mse = jnp.mean(error**2, axis=(1, 2, 3))
    return -10 * jnp.log10(jnp.maximum(mse, 10 ** (-MAX_PSNR / 10)))


def _blur(x: Array) -> Array:
    """11x11 Gaussian of sigma 1.5 over [B,H,W,C], only where the window fits."""
    # A loop over taps: it compiles and runs faster on CPU than a depthwise convolution, and is
    # exact float32 on accelerators, where a convolution may not be.
    gauss = jnp.array(_GAUSS)
    for axis in (1, 2):
        x = _blur_axis(x, gauss, axis)
    return x


def _blur_axis(x: Array, gauss: Array, axis: int) -> Array:
    shape = list(x.shape)
    shape[axis] -= _WINDOW - 1

    def add_tap(i: Array, total: Array) -> Array:
        return total + gauss[i] * lax.dynamic_slice_in_dim(x, i, shape[axis], axis)

    return lax.fori_loop(0, _WINDOW, add_tap, jnp.zeros(shape))


def _ssim_maps(x: Array, y: Array) -> tuple[Array, Array]:
    """SSIM and its contrast-structure factor, each [B,C]."""
    mx, my = _blur(x), _blur(y)
    # Moments around 1/2 lose less to cancellation in float32.
    cx, cy = x - 0.5, y - 0.5
    nx, ny = mx - 0.5, my - 0.5
    vx, vy = _blur(cx * cx) - nx * nx, _blur(cy * cy) - ny * ny
    cov = _blur(cx * cy) - nx * ny
    cs = (2 * cov + _C2) / (vx + vy + _C2)
    luminance = (2 * mx * my + _C1) / (mx * mx + my * my + _C1)
    return jnp.mean(luminance * cs, axis=(1, 2)), jnp.mean(cs, axis=(1, 2))


@partial(jax.jit, static_argnames=("color", "border"))
def ssim(x: Image, y: Image, *, color: Color = "y", border: int = 0) -> Score:
    """Structural similarity, [B,H,W,3] in [0,1] -> [B], 1 for equal images; higher is better.

    Wang et al. 2004 at full resolution: 11x11 Gaussian window of sigma 1.5, valid positions only,
    K1 = 0.01, K2 = 0.03, range 1, population variances; mean over positions, then channels.

    Raises:
        ValueError: shapes differ, are not [B,H,W,3], or a side has fewer than 11 pixels without
            the border.
    """
    _check(x, y, color, border, _WINDOW)
    value, _ = _ssim_maps(_prepare(x, color, border), _prepare(y, color, border))
    return jnp.mean(value, axis=1)


@partial(jax.jit, static_argnames=("color", "border"))
def ms_ssim(x: Image, y: Image, *, color: Color = "y", border: int = 0) -> Score:
    """Multi-scale SSIM, [B,H,W,3] in [0,1] -> [B], 1 for equal images; higher is better.

    Wang et al. 2003, equation 7: five scales by 2x2 means, the window of `ssim` at each;
    contrast-structure at the first four scales times SSIM at the last, each to its weight;
    negative factors count as 0; mean over channels. (The original script can also sum instead.)

    Raises:
        ValueError: shapes differ, are not [B,H,W,3], or a side has fewer than 176 pixels without
            the border.
    """
    _check(x, y, color, border, _WINDOW * 2 ** (len(_MS_WEIGHTS) - 1))
    factors = _ms_factors(_prepare(x, color, border), _prepare(y, color, border))
    weights = jnp.array(_MS_WEIGHTS)[:, None, None]
    return jnp.mean(jnp.prod(jnp.maximum(factors, 0) ** weights, axis=0), axis=1)


def _ms_factors(x: Array, y: Array) -> Array:
    """What MS-SSIM multiplies, scale by scale: [5,B,C]."""
    factors = []
    for scale in range(len(_MS_WEIGHTS)):
        if scale:
            x, y = _halve(x), _halve(y)
        value, cs = _ssim_maps(x, y)
        factors.append(cs)
    return jnp.stack([*factors[:-1], value])


def _halve(x: Array) -> Array:
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :h, :w]
    return x.reshape(x.shape[0], h // 2, 2, w // 2, 2, x.shape[3]).mean((2, 4))
