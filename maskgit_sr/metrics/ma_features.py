"""Features of Ma's metric: statistics of frequencies, oriented subbands and patches, in float64."""

import math

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import dctn
from scipy.ndimage import correlate1d
from scipy.special import gammaln

from maskgit_sr.ops.resize import resize_weights

COUNTS = (18, 45, 75)
MIN_SIDE = 84  # the third scale then has 25 patches, as many as one has pixels
_ORIENTATIONS = 6
_GUARD = 16  # pixels of the first scale's bands that are left out at each side
_STEP, _WINDOW = 3, 7
_ROWS = 64  # rows of blocks transformed at once

_SHAPES = np.arange(30, 10001) / 1000  # of the generalised Gaussian
# E x² / (E|x|)² by shape, rising once reversed.
_RATIOS = np.exp(gammaln(1 / _SHAPES) + gammaln(3 / _SHAPES) - 2 * gammaln(2 / _SHAPES))[::-1]


def _blur(x: np.ndarray, side: int, sigma: float) -> np.ndarray:
    """Returns [H,W] through a Gaussian window, with zeros outside of the image."""
    taps = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        x = correlate1d(x, taps / taps.sum(), axis=axis, mode="constant")
    return x


def features(grey: Float[np.ndarray, "H W"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns 18 features of local frequencies, 45 of subbands and 75 of patches.

    Args:
        grey: levels 0 to 255, float64, at least 84 a side.
    """
    scales = [grey / 255]
    for _ in range(2):
        scales.append(_blur(scales[-1], 3, 0.5)[1::2, 1::2])
    frequencies = np.concatenate([frequency_features(x) for x in scales])
    singular = np.concatenate([np.linalg.svd(_patches(x), compute_uv=False) for x in scales])
    return frequencies, subband_features(grey), singular


def gaussian_shape(x: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n"]:
    """Returns the shapes of the generalised Gaussians whose moments k values have."""
    spread = np.square(np.abs(x - x.mean(-1, keepdims=True)).mean(-1))
    wanted = x.var(-1, ddof=1) / (spread + 1e-7)
    above = np.clip(np.searchsorted(_RATIOS, wanted), 1, len(_RATIOS) - 1)
    nearer = wanted - _RATIOS[above - 1] < _RATIOS[above] - wanted
    return _SHAPES[::-1][np.where(nearer, above - 1, above)]


def variation(x: np.ndarray, small: float) -> np.ndarray:
    """Returns deviation over mean of the last axis' magnitudes."""
    size = np.abs(x)
    quotient: np.ndarray = size.std(-1, ddof=1) / (size.mean(-1) + small)
    return quotient


# Of a block's frequencies [7, 7]: mostly horizontal ones, mostly vertical ones, and the others.
_ACROSS = np.zeros((_WINDOW, _WINDOW), bool)
for _row, _first in enumerate((1, 2, 4, 5)):
    _ACROSS[_row, _first:] = True
_OTHERS = ~(_ACROSS | _ACROSS.T)
_OTHERS[0, 0] = False


def frequency_features(x: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "6"]:
    """Returns, of cosine transforms of 7x7 blocks, extremes' mean and mean of three statistics:
    shape, variation, and variance of the variation over orientations.
    """
    # Whole blocks of 3x3, each with 2 pixels around it; zeros outside of the image.
    reach = (_WINDOW - _STEP) // 2
    pads = [(reach, reach + -side % _STEP) for side in x.shape]
    windows = sliding_window_view(np.pad(x, pads), (_WINDOW, _WINDOW))[::_STEP, ::_STEP]
    parts = []
    for first in range(0, len(windows), _ROWS):
        block = dctn(windows[first : first + _ROWS], axes=(2, 3), norm="ortho")
        varied = [variation(block[..., mask], 1e-8) for mask in (_ACROSS, _OTHERS, _ACROSS.T)]
        flat = block.reshape(*block.shape[:2], -1)[..., 1:]
        statistics = (gaussian_shape(flat), variation(flat, 1e-7), np.var(varied, 0, ddof=1))
        parts.append(np.reshape(statistics, (3, -1)))
    shape, varied_all, oriented = np.sort(np.concatenate(parts, axis=1))
    low = math.ceil(0.1 * len(shape))
    high = int(0.9 * len(shape)) - 1  # MATLAB counts from 1
    found = [shape[:low], shape, varied_all[high:], varied_all, oriented[high:], oriented]
    return np.array([part.mean() for part in found])


def _patches(x: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "n 25"]:
    """Returns the 5x5 patches side by side, with zeros outside of the image."""
    x = np.pad(x, [(0, -side % 5) for side in x.shape])
    rows, columns = (side // 5 for side in x.shape)
    return x.reshape(rows, 5, columns, 5).swapaxes(1, 2).reshape(-1, 25)


def steerable(x: Float[np.ndarray, "H W"]) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Returns the high-pass residual and the bands of six orientations at two scales.

    The real steerable pyramid of Simoncelli & Freeman 1995, as matlabPyrTools' buildSFpyr.
    """
    grid = [(np.arange(side) - side // 2) / (side / 2) for side in x.shape]
    radius, angle = np.hypot(*np.ix_(*grid)), np.arctan2(*np.broadcast_arrays(*np.ix_(*grid)))
    centre = tuple(side // 2 for side in x.shape)
    radius[centre] = radius[centre[0], centre[1] - 1]  # whose logarithm exists
    octave = np.log2(radius)
    order = _ORIENTATIONS - 1
    norm = 2**order * math.factorial(order) / math.sqrt(_ORIENTATIONS * math.factorial(2 * order))

    # Tables with lines between their entries, as published: a forest's thresholds are sharp.
    steps, turns = np.arange(-256, 1) / 256, np.pi * np.arange(-2048, 1025) / 1024

    def high(level: int) -> np.ndarray:
        return np.interp(octave + level, steps, np.cos(np.pi / 2 * steps))

    def low(level: int) -> np.ndarray:
        return np.interp(octave + level, steps, -np.sin(np.pi / 2 * steps))

    def turned(index: int) -> np.ndarray:
        table = norm * np.cos(turns) ** order
        return np.interp(angle - np.pi * index / _ORIENTATIONS, turns, table)

    def image(spectrum: np.ndarray) -> np.ndarray:
        return np.fft.ifft2(np.fft.ifftshift(spectrum)).real

    spectrum = np.fft.fftshift(np.fft.fft2(x))
    residual, spectrum = image(spectrum * high(0)), spectrum * low(0)
    scales = []
    for level in (1, 2):
        filtered = (-1j) ** order * spectrum * high(level)
        scales.append([image(filtered * turned(i)) for i in range(_ORIENTATIONS)])
        halves = [(side + 1) // 2 for side in spectrum.shape]
        begins = [side // 2 - half // 2 for side, half in zip(spectrum.shape, halves, strict=True)]
        inner = tuple(slice(b, b + half) for b, half in zip(begins, halves, strict=True))
        spectrum, octave, angle = spectrum[inner], octave[inner], angle[inner]
        spectrum = spectrum * low(level)
    return residual, scales


def resized(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns MATLAB's bicubic imresize of [H,W] to a larger size."""
    (top, rows), (left, columns) = (
        resize_weights(size, count, 0, count)
        for size, count in zip(x.shape, (height, width), strict=True)
    )
    part = x[top : top + rows.shape[1], left : left + columns.shape[1]]
    larger: np.ndarray = rows @ part @ columns.T
    return larger


def normalised(
    bands: list[np.ndarray], index: int, parent: np.ndarray | None, guard: int
) -> np.ndarray:
    """Returns a band [h,w] over the deviation that its neighbours predict, less 1 + guard a side.

    Neighbours are 3x3 coefficients, one of the parent band, and those of the other orientations.
    """
    own, inner = bands[index], (slice(1, -1), slice(1, -1))
    near = list(sliding_window_view(own, (own.shape[0] - 2, own.shape[1] - 2)).reshape(9, -1))
    others = [*([] if parent is None else [parent]), *bands[:index], *bands[index + 1 :]]
    vectors = np.stack([*near, *(band[inner].reshape(-1) for band in others)], axis=1)
    # Other orientations are not counted, as in the published code.
    size = 9 + (parent is not None)
    values, axes = np.linalg.eigh(vectors.T @ vectors / len(vectors))
    positive = np.maximum(values, 0)
    values = positive * values.sum() / (positive.sum() or 1)
    kept = values > len(values) * np.spacing(values.max())  # as in MATLAB's pinv
    deviation = np.sqrt(np.square(vectors @ axes[:, kept]) @ (1 / values[kept]) / size)
    centre = own[inner].reshape(-1)
    centre = centre - centre.mean()
    found = np.divide(centre, deviation, out=np.zeros_like(centre), where=deviation > 0)
    found = found.reshape(own[inner].shape)[guard:-guard, guard:-guard]
    whole: np.ndarray = found - found.mean()
    return whole


def contrast_structure(x: np.ndarray, y: np.ndarray) -> float:
    """Returns SSIM's contrast and structure of two bands [h,w], of grey levels."""

    def mean(z: np.ndarray) -> np.ndarray:
        return _blur(z, 11, 1.5)[5:-5, 5:-5]

    bias = (0.03 * 255) ** 2
    means = mean(x), mean(y)
    both = mean(x * x) - means[0] ** 2 + mean(y * y) - means[1] ** 2
    shared = mean(x * y) - means[0] * means[1]
    return float(((2 * shared + bias) / (both + bias)).mean())


def subband_features(grey: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "45"]:
    """Returns shapes of the 12 normalised bands, and of the two scales' of each orientation
    together; contrast-structure of each band with the high-pass residual, and of each pair of the
    first scale's normalised bands.
    """
    residual, (fine, coarse) = steerable(grey)
    height, width = grey.shape
    bands = []
    for i in range(_ORIENTATIONS):
        parent = None
        if i < _ORIENTATIONS - 1:  # the published code leaves the last orientation's out
            parent = resized(coarse[i], *(2 * side for side in coarse[i].shape))[:height, :width]
        bands.append(normalised(fine, i, parent, _GUARD))
    bands += [normalised(coarse, i, None, _GUARD // 2) for i in range(_ORIENTATIONS)]
    flat = [band.reshape(-1) for band in bands]
    joined = [np.concatenate(pair) for pair in zip(flat[:6], flat[6:], strict=True)]
    shapes = [gaussian_shape(x) for x in [*flat, *joined]]
    scales = [contrast_structure(resized(x, height, width), residual) for x in [*fine, *coarse]]
    pairs = [
        contrast_structure(bands[i], bands[j])
        for i in range(_ORIENTATIONS)
        for j in range(i + 1, _ORIENTATIONS)
    ]
    return np.array([*shapes, *scales, *pairs])
