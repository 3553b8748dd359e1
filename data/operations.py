"""The single steps of a degradation, each a pure function of (image, parameters, generator).

Images are float32 [H, W, 3], RGB, in [0, 1] unless a function says otherwise; results may leave
the range where it says so.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from scipy import stats

from maskgit_sr.images.samples import unit

_CV2_MODES = dict(area=cv2.INTER_AREA, bilinear=cv2.INTER_LINEAR, bicubic=cv2.INTER_CUBIC)
MODES = (*_CV2_MODES, "adaptive", "nearest")

_BORDER = cv2.BORDER_REFLECT_101  # torch's and SciPy's "reflect"/"mirror": the edge is not repeated


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Returns uint8 of the same shape: clipped to [0, 1], times 255, rounded half to even."""
    # Clipped first: convertScaleAbs would take the absolute value of what is below 0.
    return cv2.convertScaleAbs(np.clip(image, 0, 1), alpha=255)


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlates every channel with `kernel` [k, k]; the border is reflected without its edge."""
    column, row = kernel.sum(1), kernel.sum(0)
    # With sum 1 a separable kernel is the product of its marginals: k + k products a pixel.
    if np.abs(np.outer(column, row) - kernel).max() < 1e-7:
        return cv2.sepFilter2D(image, -1, row, column, borderType=_BORDER)
    return cv2.filter2D(image, -1, kernel, borderType=_BORDER)


def usm_sharpen(
    image: np.ndarray, amount: float = 0.5, radius: int = 50, threshold: float = 10
) -> np.ndarray:
    """Unsharp masking where detail is above a threshold (Real-ESRGAN Sec. 3.3: sharper targets).

    Args:
      amount: weight of the detail (image minus its blur) that is added.
      radius: side of the Gaussian window in pixels, made odd; its sigma is OpenCV's default for
        that side (8 for 50).
      threshold: least detail, in levels of 255, that is sharpened; the mask is blurred likewise.
    """
    side = radius + 1 - radius % 2
    # Separable: as a plain 51×51 convolution it would take most of the chain's time, and change at
    # most 0.05 levels (data/README.md).
    smooth = cv2.GaussianBlur(image, (side, side), 0, borderType=_BORDER)
    detail = cv2.absdiff(image, smooth)
    edges = cv2.threshold(detail, threshold / 255, 1, cv2.THRESH_BINARY, dst=detail)[1]
    mask = cv2.GaussianBlur(edges, (side, side), 0, borderType=_BORDER)
    sharp = cv2.addWeighted(image, 1 + amount, smooth, -amount, 0)
    change = cv2.subtract(np.clip(sharp, 0, 1, out=sharp), image, dst=sharp)
    return cv2.add(image, cv2.multiply(change, mask, dst=change), dst=change)


def resize(
    image: np.ndarray,
    height: int,
    width: int,
    mode: str,
    *,
    antialias: bool = False,
    factor: float = 0.0,
) -> np.ndarray:
    """Resizes to [height, width, 3]; bicubic may leave [0, 1].

    Args:
      mode: "area": mean over the covered pixels, parts of pixels counting in part (cv2's
        INTER_AREA); "adaptive": mean over all pixels that are touched, wholly or in part (torch's
        `interpolate(mode="area")`, which Real-ESRGAN uses); equal for whole reductions. "bilinear"
        and "bicubic". "nearest": the first pixel of every block, for whole reductions.
      antialias: of bilinear and bicubic. False: the kernel keeps its width when shrinking, so fine
        detail aliases, as torch's `interpolate` and cv2 do (bicubic a = -0.75). True: the kernel
        is widened by the reduction, as in PIL, MATLAB and `jax.image.resize` (bicubic a = -0.5).
      factor: places the samples of bilinear and bicubic 1/factor pixels apart, as torch does when
        it is given a factor, instead of by the ratio of the sizes; 0: by the sizes. Where a factor
        cuts off to the size that is there, the image is returned as it is; torch's bicubic would
        shift it by less than a pixel.

    Raises:
      ValueError: unknown mode, a size below 1, a factor that does not lead to the size, or
        "nearest" to a size that is no whole reduction.
    """
    if mode not in MODES:
        raise ValueError(f"resize mode must be one of {', '.join(MODES)}, got {mode!r}")
    if min(height, width) < 1:
        raise ValueError(f"resize to {height}x{width}: sides must be at least 1")
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    if mode == "nearest":
        if rows % height or columns % width:
            raise ValueError(f"nearest from {rows}x{columns} to {height}x{width}: not whole")
        return np.ascontiguousarray(image[:: rows // height, :: columns // width])
    if mode == "adaptive":
        tall = _window_means(image, height)
        return cv2.transpose(_window_means(cv2.transpose(tall), width))
    if antialias and mode != "area":
        vertical = _antialiased_weights(rows, height, mode)
        across = _antialiased_weights(columns, width, mode)
        tall = _along_rows(vertical, image)
        return _along_rows(across, tall.swapaxes(0, 1)).swapaxes(0, 1).copy()
    if factor and mode != "area":
        if (int(rows * factor), int(columns * factor)) != (height, width):
            raise ValueError(f"factor {factor} of {rows}x{columns} is not {height}x{width}")
        # OpenCV rounds the sizes that it derives from factors; torch cuts off.
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=_CV2_MODES[mode])
        return np.ascontiguousarray(image[:height, :width])
    return cv2.resize(image, (width, height), interpolation=_CV2_MODES[mode])


def _window_means(image: np.ndarray, size: int) -> np.ndarray:
    """Returns [size, K, 3] of image [N, K, 3]: means over rows ⌊i·N/size⌋ to ⌈(i+1)·N/size⌉ - 1.

    A tap a step, so time goes with N + 2·size rows.
    """
    rows = image.shape[0]
    i = np.arange(size)
    first, last = i * rows // size, -(-(i + 1) * rows // size) - 1
    taps = int((last - first).max()) + 1
    total = np.zeros((size, *image.shape[1:]), np.float32)
    for tap in range(taps):
        inside = first + tap <= last
        if inside.all():
            total += image[first + tap]
        else:
            total[inside] += image[first[inside] + tap]
    total /= (last - first + 1).astype(np.float32)[:, None, None]
    return total


def _along_rows(weights: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Returns weights [M, N] times image [N, K, 3]: [M, K, 3]."""
    flat = np.ascontiguousarray(image, np.float32).reshape(image.shape[0], -1)
    # Not NumPy's matmul: a BLAS that starts threads of its own stalls the reading threads.
    product = cv2.gemm(weights, flat, 1, None, 0)  # type: ignore[call-overload]
    return product.reshape(len(weights), *image.shape[1:])


@functools.lru_cache(maxsize=256)
def _antialiased_weights(size_in: int, size_out: int, mode: str) -> np.ndarray:
    """Returns the resampling matrix, float32 [size_out, size_in], rows sum to 1."""
    stretch = max(size_in / size_out, 1.0)
    centres = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    d = np.abs(np.arange(size_in)[None, :] - centres[:, None]) / stretch
    if mode == "bilinear":
        weights = np.maximum(1 - d, 0)
    else:  # Keys' cubic with a = -0.5
        near = (1.5 * d - 2.5) * d * d + 1
        far = ((-0.5 * d + 2.5) * d - 4) * d + 2
        weights = np.where(d < 1, near, np.where(d < 2, far, 0.0))
    # What a kernel has beyond the border is left out and the rest scaled up, as PIL does.
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    weights.flags.writeable = False  # shared through the cache
    return weights


def gaussian_noise(
    image: np.ndarray, sigma: float, rng: np.random.Generator, *, grey: bool = False
) -> np.ndarray:
    """Adds N(0, sigma²), sigma in units of the [0, 1] range; `grey`: the same in all channels.

    The result may leave [0, 1].
    """
    shape = (*image.shape[:2], 1 if grey else image.shape[2])
    return image + rng.standard_normal(shape, dtype=np.float32) * np.float32(sigma)


def correlated_noise(
    image: np.ndarray, covariance: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Adds N(0, covariance [3, 3]) at every pixel, in units of the [0, 1] range (BSRGAN Sec. 3.3).

    The result may leave [0, 1]. A covariance that is not quite positive semi-definite is taken as
    its nearest one that is.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    # Covariances of BSRGAN's draws may have negative eigenvalues.
    root = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    return image + cv2.transform(rng.standard_normal(image.shape, dtype=np.float32), root)


def poisson_noise(
    image: np.ndarray, scale: float, rng: np.random.Generator, *, grey: bool = False
) -> np.ndarray:
    """Adds `scale` times shot noise (Real-ESRGAN Sec. 3.1 and its released settings).

    The image, rounded to 8 bits, counts as the mean of a Poisson variable whose full range is the
    number of different levels in it, rounded up to a power of two. `grey`: noise of the luma
    (BT.601), the same in all channels. The result may leave [0, 1].
    """
    clean = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if grey else image
    levels = to_bytes(clean)
    used = np.count_nonzero(cv2.calcHist([levels.reshape(-1, 1)], [0], None, [256], [0, 256]))
    full = 1 << (int(used) - 1).bit_length()
    counts = _poisson(levels, full, rng)
    noise = counts.astype(np.float32) * np.float32(scale / full)
    noise -= levels * np.float32(scale / 255)
    return image + (noise[..., None] if grey else noise)


_BUCKETS = 512  # of the first nine bits of a 32-bit uniform number


@functools.lru_cache(maxsize=9)  # 1, 2, 4, …, 256
def _poisson_tables(full: int) -> tuple[np.ndarray, np.ndarray]:
    """Tabulates the distribution functions of the 256 means level/255·full.

    Returns:
      (uint32 [256, K], P(X ≤ k) in units of 2⁻³², uint16 [256, _BUCKETS], the quantile at the
      lower end of each bucket).
    """
    means = np.arange(256) / 255 * full
    # Beyond this count lies half a unit of 2⁻³² for the largest mean, less for the others.
    last = int(stats.poisson.isf(2.0**-33, full)) + 1
    exact = stats.poisson.cdf(np.arange(last + 1)[None, :], means[:, None])
    table = np.minimum(np.round(exact * 2.0**32), 2.0**32 - 1).astype(np.uint32)
    table[:, -1] = 2**32 - 1  # ends the search of `_poisson`, whose numbers are all below
    starts = np.arange(_BUCKETS, dtype=np.uint64) * (2**32 // _BUCKETS)
    first = np.stack([np.searchsorted(row, starts, side="right") for row in table])
    return table, np.minimum(first, last).astype(np.uint16)


def _poisson(levels: np.ndarray, full: int, rng: np.random.Generator) -> np.ndarray:
    """Returns Poisson counts of mean level/255·full, uint16 of the shape of `levels`, by inversion.

    There are only 256 means, so their distribution functions are tabulated once; `rng.poisson`
    would work each one out anew for every pixel, five times as slowly. Probabilities are multiples
    of 2⁻³², one count never stands for less.
    """
    table, first = _poisson_tables(full)
    flat = levels.ravel()
    uniform = rng.integers(0, 2**32 - 1, flat.size, dtype=np.uint32)  # below every last entry
    row = flat.astype(np.intp)
    counts = first.ravel()[row * _BUCKETS + (uniform >> 23)]
    row *= table.shape[1]
    row += counts
    cumulative = table.ravel()
    # From the start of the bucket on, to the first k with uniform < P(X ≤ k).
    todo = np.flatnonzero(uniform >= cumulative[row])
    row, uniform = row[todo], uniform[todo]
    while todo.size:
        counts[todo] += 1
        row += 1
        more = uniform >= cumulative[row]
        todo, row, uniform = todo[more], row[more], uniform[more]
    return counts.reshape(levels.shape)


def jpeg(image: np.ndarray, quality: int, subsampled: bool = True) -> np.ndarray:
    """Returns the image after JPEG of `quality` 1..100, clipped to 8 bits first.

    Args:
      subsampled: chroma at half resolution (4:2:0), else 4:4:4.
    """
    bgr = cv2.cvtColor(to_bytes(image), cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    if not subsampled:  # 4:2:0 is OpenCV's default
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, code = cv2.imencode(".jpg", bgr, options)
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return unit(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))
