"""Pixel fidelity: PSNR, SSIM and MS-SSIM.

Images are RGB float32 [B,H,W,3] in [0,1]; scores are [B] float32. Sets have images of many sizes,
so nothing is compiled for a size: NumPy does what is cheap, and the windows of SSIM are computed
tile by tile. Under `jit` and `grad` all is traced as usual. A score means nothing without its
protocol, so colour and border are arguments:

- color="rgb": the three channels; PSNR pools the error over them, SSIM averages their scores.
- color="y": BT.601 luma in [16,235]/255, unrounded: MATLAB's and BasicSR's rgb2ycbcr, the "Y" of
  super-resolution papers.
- color="luma": MATLAB's rgb2gray, 0.2989 R + 0.5870 G + 0.1140 B rounded to 8 bits: what the
  original scripts of SSIM and NIQE take. IQA-PyTorch has 0.299, 0.587 and 0.114, which moves its
  SSIM by up to 2e-5.
- border: pixels cut from each side first. Papers cut the scale factor for synthetic sets and
  nothing for real pairs.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image
from maskgit_sr.perceptual.published import pair

Score = Float[Array, "B"]
Color = Literal["rgb", "y", "luma"]

MAX_PSNR = 100.0
_LUMA = (0.298936021293775, 0.587043074451121, 0.114020904255103)
_STUDIO = (65.481, 128.553, 24.966)
_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_TAPS = [math.exp(-((i - _WINDOW // 2) ** 2) / (2 * _SIGMA**2)) for i in range(_WINDOW)]
_GAUSS = [tap / sum(_TAPS) for tap in _TAPS]
_C1, _C2 = 0.01**2, 0.03**2
_TILE = 256  # window positions a side of what is computed at once
# 161: the least side of which the fifth scale still holds the window, as halves are rounded up.
MS_SSIM_SIDE = (_WINDOW - 1) * 2 ** (len(_MS_WEIGHTS) - 1) + 1


def on_host(*arrays: Array) -> list[Any]:
    """Returns NumPy arrays, for which nothing is compiled; arrays that are traced as they are."""
    return [x if isinstance(x, jax.core.Tracer) else np.asarray(x) for x in arrays]


def numpy_of(x: Array) -> Any:
    """Returns the module that an array belongs to, NumPy's or JAX's."""
    return np if isinstance(x, np.ndarray) else jnp


def rgb_to_y(x: Array) -> Array:
    """Returns BT.601 luma of RGB in [0,1]: [...,3] -> [...,1] in [16,235]/255, unrounded."""
    return (_weigh(x, _STUDIO) + 16) / 255


def _weigh(x: Array, weights: tuple[float, float, float]) -> Array:
    """Returns the weighted sum of three channels, [...,3] -> [...,1]."""
    column = np.array(weights, x.dtype)[:, None]
    # A matrix product: on CPU, XLA takes fifty times as long to sum an axis of three elements.
    if isinstance(x, np.ndarray):
        return x @ column
    return jnp.matmul(x, column, precision="highest")


def rgb_to_luma(x: Array) -> Array:
    """Returns MATLAB's rgb2gray of RGB in [0,1]: [...,3] -> [...,1] in grey levels 0, 1, …, 255."""
    return (255 * _weigh(x, _LUMA)).round()


def cut(x: Array, border: int) -> Array:
    """Returns images [B,H,W,C] without `border` pixels at each side."""
    return x[:, border:-border, border:-border] if border else x


def _prepare(x: Array, color: Color, border: int) -> Array:
    x = cut(x, border)
    if color == "y":
        return rgb_to_y(x)
    return rgb_to_luma(x) / 255 if color == "luma" else x


def _checked(x: Image, y: Image, color: str, border: int, smallest: int) -> tuple[Array, Array]:
    x, y = pair(*on_host(x, y))
    if color not in ("rgb", "y", "luma"):
        raise ValueError(f"color {color!r}: expected rgb, y or luma")
    if border < 0 or min(x.shape[1:3]) - 2 * border < smallest:
        raise ValueError(
            f"image of {x.shape[1]}x{x.shape[2]} with border {border}: "
            f"expected at least {smallest} pixels a side to be left"
        )
    return x, y


def psnr(x: Image, y: Image, *, color: Color = "rgb", border: int = 0) -> Score:
    """Returns the PSNR in dB, [B,H,W,3] in [0,1] -> [B]; higher is better.

    10 log10(1 / mean squared error): the peak is 1 for every colour, also for luma that ends at
    235/255, as in papers. Capped at 100 dB, which equal images get. Nothing is rounded: round the
    images to 8 bits first to score what a file will hold.

    Raises:
        ValueError: shapes differ, are not [B,H,W,3], or the border leaves no pixel.
    """
    x, y = _checked(x, y, color, border, 1)
    error = _prepare(x, color, border) - _prepare(y, color, border)
    mse = jnp.asarray((error**2).mean((1, 2, 3)))
    # Bounded before the logarithm, so that equal images give the cap and not infinity.
    return -10 * jnp.log10(jnp.maximum(mse, 10 ** (-MAX_PSNR / 10)))


def _planes(x: Array, color: Color, border: int) -> Array:
    """Returns [B·C,h,w] of [B,H,W,3]: on CPU a trailing axis of 1 or 3 makes everything slow."""
    x = _prepare(x, color, border).transpose(0, 3, 1, 2)
    return x.reshape(-1, *x.shape[2:])


def _blur(x: Array) -> Array:
    """Blurs [N,H,W] by an 11x11 Gaussian of sigma 1.5, only where the window fits."""
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


def _ssim_means(x: Array, y: Array) -> Array:
    """Returns the means of SSIM and of its contrast-structure factor of [N,H,W]: [2,N]."""
    height, width = (side - _WINDOW + 1 for side in x.shape[1:])  # positions of the window
    total: Array | float = 0.0
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            size = np.array([min(_TILE, height - top), min(_TILE, width - left)])
            sums = _tile_sums(_tile(x, top, left), _tile(y, top, left), size)
            # Float64 on the host, as the tiles of a large image are many.
            total = total + (sums if isinstance(x, jax.Array) else np.asarray(sums, np.float64))
    return jnp.asarray(total / (height * width), jnp.float32)


def _tile(x: Array, top: int, left: int) -> Array:
    """Returns the pixels of a tile's windows, filled up to one size."""
    side = _TILE + _WINDOW - 1
    x = x[:, top : top + side, left : left + side]
    fill = [(0, 0), (0, side - x.shape[1]), (0, side - x.shape[2])]
    return numpy_of(x).pad(x, fill)


@jax.jit
def _tile_sums(x: Array, y: Array, size: Array) -> Array:
    """Returns the sums of both maps over the first (rows, columns) of the windows: [2,N]."""
    rows, columns = (jnp.arange(_TILE) < side for side in size)
    inside = rows[:, None] & columns[None]
    # One plane after the other, so that a CPU's working set stays in its cache.
    return lax.map(lambda planes: _ssim_sums(planes[0], planes[1], inside), (x, y)).T


def _ssim_sums(x: Array, y: Array, inside: Array) -> Array:
    # Moments around 1/2 lose less to cancellation in float32.
    x, y = x - 0.5, y - 0.5
    mx, my, xx, yy, xy = _blur(jnp.stack([x, y, x * x, y * y, x * y]))
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    mx, my = mx + 0.5, my + 0.5
    cs = (2 * cov + _C2) / (vx + vy + _C2)
    luminance = (2 * mx * my + _C1) / (mx * mx + my * my + _C1)
    return jnp.stack([jnp.sum(one, where=inside) for one in (luminance * cs, cs)])


def ssim(x: Image, y: Image, *, color: Color = "y", border: int = 0) -> Score:
    """Returns SSIM, [B,H,W,3] in [0,1] -> [B], 1 for equal images; higher is better.

    Wang et al. 2004 at full resolution: 11x11 Gaussian window of sigma 1.5, valid positions only,
    K1 = 0.01, K2 = 0.03, range 1, population variances; mean over positions, then channels.

    Raises:
        ValueError: shapes differ, are not [B,H,W,3], or a side has fewer than 11 pixels without
            the border.
    """
    x, y = _checked(x, y, color, border, _WINDOW)
    value, _ = _ssim_means(_planes(x, color, border), _planes(y, color, border))
    return jnp.mean(value.reshape(x.shape[0], -1), axis=1)


def ms_ssim(
    x: Image,
    y: Image,
    *,
    color: Color = "y",
    border: int = 0,
    method: Literal["product", "sum"] = "product",
) -> Score:
    """Returns MS-SSIM, [B,H,W,3] in [0,1] -> [B], 1 for equal images; higher is better.

    Wang et al. 2003, equation 7: five scales by 2x2 means, the window of `ssim` at each;
    contrast-structure at the first four scales times SSIM at the last, each to its weight;
    negative factors count as 0; mean over channels. method="sum" is what the authors' script also
    offers and what IQA-PyTorch's table of official values holds: the weighted mean of the same
    five numbers.

    As in that script the last row or column of an odd side is halved with itself. So the window
    fits at the fifth scale from 161 pixels on, which is also pytorch-msssim's limit; the script
    itself refuses less than 176. (pytorch-msssim and IQA-PyTorch average the first row of an odd
    side with zeros instead, which moves the score by some 1e-3.)

    Raises:
        ValueError: shapes differ, are not [B,H,W,3], or a side has fewer than 161 pixels without
            the border.
    """
    x, y = _checked(x, y, color, border, MS_SSIM_SIDE)
    if method not in ("product", "sum"):
        raise ValueError(f"method {method!r}: expected product or sum")
    factors = _ms_factors(_planes(x, color, border), _planes(y, color, border))
    factors = factors.reshape(len(_MS_WEIGHTS), x.shape[0], -1)
    weights = jnp.array(_MS_WEIGHTS)[:, None, None]
    if method == "sum":  # the weights add up to 1.0001
        return jnp.mean(jnp.sum(factors * weights, axis=0) / sum(_MS_WEIGHTS), axis=1)
    # A negative number has no real power.
    return jnp.mean(jnp.prod(jnp.maximum(factors, 0) ** weights, axis=0), axis=1)


def _ms_factors(x: Array, y: Array) -> Array:
    """Returns the factors of MS-SSIM, scale by scale: [N,H,W] -> [5,N]."""
    factors = []
    for scale in range(len(_MS_WEIGHTS)):
        if scale:
            x, y = _halve(x), _halve(y)
        value, cs = _ssim_means(x, y)
        factors.append(cs)
    return jnp.stack([*factors[:-1], value])


def _halve(x: Array) -> Array:
    fill = [(0, 0), *((0, side % 2) for side in x.shape[1:])]
    x = numpy_of(x).pad(x, fill, mode="edge")
    x = x[:, ::2] + x[:, 1::2]
    return (x[:, :, ::2] + x[:, :, 1::2]) / 4
