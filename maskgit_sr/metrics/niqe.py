"""NIQE: Mittal, Soundararajan & Bovik 2013, "Making a 'completely blind' image quality analyzer".

How far the statistics of 96x96 blocks are from those of pristine photographs; lower is better,
about 3 to 6 for good photographs. Published programs of that name differ in two things:

- the pristine statistics: those of the authors' 2012 release, which BasicSR and IQA-PyTorch also
  have, or those of MATLAB's built-in `niqe`, which gives other numbers;
- the grey image: MATLAB's rgb2gray, or BasicSR's default, Y in [16,235].

Where the 7x7 neighbourhood of a pixel is flat, its normalised value is 0 in exact arithmetic. The
published programs get about 1e-14 of either sign there, and the sign decides whether the pixel is
counted, so their scores depend on the order in which they add. Here it is 0: no order of adding
matters, and float32 is enough.
"""

import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from scipy.io import loadmat
from scipy.special import gammaln

from maskgit_sr.arrays import Image
from maskgit_sr.errors import UserError
from maskgit_sr.metrics.pixel import Score, cut, numpy_of, on_host, rgb_to_luma, rgb_to_y
from maskgit_sr.ops.resize import downsample_bicubic
from maskgit_sr.perceptual.published import single

BLOCK = 96
FEATURES = 36
_BATCH = 16  # blocks computed at once
_REACH, _SIGMA = 3, 7 / 6
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))

_SHAPES = np.arange(200, 10001) / 1000  # of the generalised Gaussian
_RATIOS = np.exp(2 * gammaln(2 / _SHAPES) - gammaln(1 / _SHAPES) - gammaln(3 / _SHAPES))
_WIDTHS = np.exp((gammaln(1 / _SHAPES) - gammaln(3 / _SHAPES)) / 2)
_MEANS = np.exp(gammaln(2 / _SHAPES) - gammaln(1 / _SHAPES))


def load(
    file: Path, color: Literal["luma", "y"] = "luma", border: int = 0
) -> Callable[[Image], Score]:
    """Returns the score [B,H,W,3] in [0,1] -> [B] with the pristine statistics in `file`.

    Args:
        file: npz with mu_pris_param [36] and cov_pris_param [36,36], or a MATLAB file with
            mu_prisparam and cov_prisparam.
        color: "luma" is rgb2gray, "y" BasicSR's Y; both rounded to 8 bits.
        border: pixels cut from each side first.

    The score is NaN, by definition, where fewer than two blocks are left that have texture, such as
    for a flat image. It raises ValueError for images that hold fewer than two blocks.

    Raises:
        UserError: the file is something else.
    """
    mean, cov = _read(file)

    def score(x: Image) -> Score:
        # On the host: equation 10 takes float64, which JAX does not have by default.
        return jnp.asarray(distance(np.asarray(features(x, color=color, border=border)), mean, cov))

    return score


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        if file.suffix == ".mat":
            stored, names = loadmat(file), ("mu_prisparam", "cov_prisparam")
        else:
            stored, names = np.load(file), ("mu_pris_param", "cov_pris_param")
        mean, cov = (np.asarray(stored[name], np.float64) for name in names)
        return mean.reshape(FEATURES), cov.reshape(FEATURES, FEATURES)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{file}: not NIQE's statistics ({reason})") from None


def features(
    x: Image, *, color: Literal["luma", "y"] = "luma", border: int = 0
) -> Float[Array, "B n 36"]:
    """Returns 18 numbers at two scales for each 96x96 block; remainders at the edges are dropped.

    Raises:
        ValueError: x is not [B,H,W,3], or holds fewer than two blocks without the border.
    """
    [x] = on_host(x)
    x = cut(single(x, 1 + 2 * border), border)
    rows, columns = x.shape[1] // BLOCK, x.shape[2] // BLOCK
    if rows * columns < 2:
        raise ValueError(
            f"image of {x.shape[1]}x{x.shape[2]}: NIQE takes at least two blocks of {BLOCK} pixels "
            f"a side, such as {BLOCK}x{2 * BLOCK}"
        )
    x = x[:, : rows * BLOCK, : columns * BLOCK]
    grey = (255 * rgb_to_y(x)).round() if color == "y" else rgb_to_luma(x)
    half = downsample_bicubic(grey, 2)
    # So many blocks at a time, whatever the image's size: one program for all.
    large, small = _blocks(grey[..., 0], BLOCK), _blocks(half[..., 0], BLOCK // 2)
    parts = zip(large, small, strict=True)
    numpy = numpy_of(x)  # on the host no program is compiled for a number of blocks
    found = numpy.concatenate([numpy.asarray(_block_features(*part)) for part in parts])
    return found[: len(x) * rows * columns].reshape(len(x), rows * columns, FEATURES)


def _blocks(x: Array, side: int) -> Iterator[Array]:
    """Yields the blocks of [B,H,W] with what is around them, edges repeated, in equal batches."""
    numpy = numpy_of(x)
    padded = numpy.pad(x, ((0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="edge")
    whole = side + 2 * _REACH
    places = itertools.product(range(0, x.shape[1], side), range(0, x.shape[2], side))
    blocks = [padded[:, i : i + whole, j : j + whole] for i, j in places]
    stacked = numpy.stack(blocks, axis=1).reshape(-1, whole, whole)
    stacked = numpy.pad(stacked, ((0, -len(stacked) % _BATCH), (0, 0), (0, 0)))
    for begin in range(0, len(stacked), _BATCH):
        yield stacked[begin : begin + _BATCH]


@jax.jit
def _block_features(large: Array, small: Array) -> Array:
    """Returns the features [n,36] of blocks [n,s,s] of both scales, with what is around them."""
    scales = [_moments(_normalise(x)) for x in (large, small)]
    return _fit(*(jnp.stack(moment) for moment in zip(*scales, strict=True)))


def _normalise(padded: Array) -> Array:
    """Normalises [n,s+6,s+6]: (x - mean) / (deviation + 1) in 7x7 Gaussian windows -> [n,s,s]."""
    taps = np.exp(-(np.arange(-_REACH, _REACH + 1) ** 2) / (2 * _SIGMA**2))
    side = len(taps)
    window = jnp.asarray(np.outer(taps, taps).reshape(-1) / taps.sum() ** 2, jnp.float32)
    x = padded[:, _REACH:-_REACH, _REACH:-_REACH]

    def add(i: Array, moments: tuple[Array, Array]) -> tuple[Array, Array]:
        # Differences to the centre: exact for grey levels, and 0 where all is flat.
        step = lax.dynamic_slice(padded, (0, i // side, i % side), x.shape) - x
        return moments[0] + window[i] * step, moments[1] + window[i] * step * step

    mean, square = lax.fori_loop(0, side * side, add, (jnp.zeros(x.shape), jnp.zeros(x.shape)))
    # Rounding may make a variance negative.
    return -mean / (jnp.sqrt(jnp.maximum(square - mean * mean, 0)) + 1)


def _moments(x: Array) -> tuple[Array, Array, Array]:
    """Returns moments of normalised blocks [n,s,s] and of their products with four neighbours.

    Deviation below 0, deviation above 0, and (E|x|)²/E x² of each block: [5,n] each.
    """
    # Shifts wrap around within a block, as in the published programs.
    x = jnp.stack([x, *(x * jnp.roll(x, shift, axis=(1, 2)) for shift in _SHIFTS)])
    axes, squares = (2, 3), x * x
    left, right = (
        jnp.sqrt(jnp.where(part, squares, 0).sum(axes) / part.sum(axes, dtype=jnp.float32))
        for part in (x < 0, x > 0)
    )
    return left, right, jnp.abs(x).mean(axes) ** 2 / squares.mean(axes)


def _fit(left: Array, right: Array, spread: Array) -> Array:
    """Fits asymmetric generalised Gaussians to moments [2,5,n] -> features [n,36].

    Lasmar et al. 2009. Without values at either side of 0 the widths are NaN and the shape is the
    first of the table, as in the published programs.
    """
    ratio = left / right
    wanted = spread * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    table = jnp.asarray(_RATIOS, jnp.float32)
    # Ratios rise with the shape, so that bisection finds the nearest; `clip` keeps both neighbours.
    above = jnp.clip(jnp.searchsorted(table, wanted), 1, len(_RATIOS) - 1)
    nearer = wanted - table[above - 1] <= table[above] - wanted
    index = jnp.where(jnp.isnan(wanted), 0, jnp.where(nearer, above - 1, above))
    shape, width, mean = (jnp.asarray(t, jnp.float32)[index] for t in (_SHAPES, _WIDTHS, _MEANS))
    left, right = left * width, right * width
    found = []
    for scale in range(2):
        found += [shape[scale, 0], (left[scale, 0] + right[scale, 0]) / 2]
        for i in range(1, 1 + len(_SHIFTS)):
            low, high = left[scale, i], right[scale, i]
            found += [shape[scale, i], (high - low) * mean[scale, i], low, high]
    return jnp.stack(found, axis=-1)


def distance(found: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Returns the distance of block features [B,n,36] to the pristine Gaussian: float32 [B].

    Equation 10 in float64. The mean leaves out what is NaN, the covariance every block with a NaN.
    """
    scores = []
    for blocks in found.astype(np.float64):
        whole = blocks[~np.isnan(blocks).any(1)]
        if len(whole) < 2:
            scores.append(np.nan)
            continue
        difference = mean - np.nanmean(blocks, axis=0)
        inverse = np.linalg.pinv((cov + np.cov(whole, rowvar=False)) / 2)
        scores.append(np.sqrt(difference @ inverse @ difference))
    return np.array(scores, np.float32)
