"""Low-resolution inputs from high-resolution photographs: the simple, first-order chain.

Images are float32 [H, W, 3], RGB, in [0, 1]. All functions are pure. One example's random choices
are drawn once into a `Degradation`, a flat record that `dataclasses.asdict` turns into JSON-ready
values; `apply` then repeats the same degradation bit for bit.

Chain: blur → random resize → (noise → JPEG → final resize), or, as a camera works, (final resize →
noise → JPEG). The parts are those of Real-ESRGAN (Wang et al., ICCVW 2021, Sec. 3), one order only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

MODES = ("area", "bilinear", "bicubic")
_CV2_MODES = {
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
}


def gaussian_kernel(
    size: int, sigma_x: float, sigma_y: float | None = None, theta: float = 0.0
) -> np.ndarray:
    """Gaussian blur kernel, float32 [size, size], sum 1 (Real-ESRGAN Sec. 3.1).

    Args:
      size: odd number of pixels.
      sigma_x, sigma_y: standard deviations in pixels along the two axes; one value → isotropic.
      theta: rotation of the axes in radians.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"kernel size must be odd and positive, got {size}")
    sigma_y = sigma_x if sigma_y is None else sigma_y
    if min(sigma_x, sigma_y) <= 0:
        raise ValueError(f"kernel sigma must be positive, got {sigma_x}, {sigma_y}")
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    u = (x * np.cos(theta) + y * np.sin(theta)) / sigma_x
    v = (y * np.cos(theta) - x * np.sin(theta)) / sigma_y
    kernel = np.exp(-0.5 * (u * u + v * v))
    return (kernel / kernel.sum()).astype(np.float32)


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlates every channel with `kernel` [k, k]; the border is reflected without its edge."""
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def resize(
    image: np.ndarray, height: int, width: int, mode: str, *, antialias: bool = False
) -> np.ndarray:
    """Resizes to [height, width, 3]; bicubic may leave [0, 1].

    Args:
      mode: "area" (mean over the covered pixels; cv2 INTER_AREA), "bilinear" or "bicubic".
      antialias: False: the kernel keeps its width when shrinking, so fine detail aliases, as
        torch's `F.interpolate` (bicubic a = -0.75) and Real-ESRGAN do. True: the kernel is widened
        by the reduction, as in PIL, MATLAB and `jax.image.resize` (bicubic a = -0.5). "area" is
        antialiased by nature.
    """
    if mode not in MODES:
        raise ValueError(f"resize mode must be one of {', '.join(MODES)}, got {mode!r}")
    if image.shape[:2] == (height, width):
        return image
    if antialias and mode != "area":
        rows = _antialiased_weights(image.shape[0], height, mode)
        columns = _antialiased_weights(image.shape[1], width, mode)
        return _along_rows(columns, _along_rows(rows, image).swapaxes(0, 1)).swapaxes(0, 1).copy()
    return cv2.resize(image, (width, height), interpolation=_CV2_MODES[mode])


def _along_rows(weights: np.ndarray, image: np.ndarray) -> np.ndarray:
    """weights [M, N] times image [N, K, 3] → [M, K, 3]."""
    flat = np.ascontiguousarray(image, np.float32).reshape(image.shape[0], -1)
    # Not NumPy's matmul: a BLAS that starts threads of its own stalls the reading threads.
    product = cv2.gemm(weights, flat, 1, None, 0)  # type: ignore[call-overload]
    return product.reshape(len(weights), *image.shape[1:])


@functools.lru_cache(maxsize=256)
def _antialiased_weights(size_in: int, size_out: int, mode: str) -> np.ndarray:
    """Resampling matrix, float32 [size_out, size_in], rows sum to 1."""
    stretch = max(size_in / size_out, 1.0)
    centres = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    d = np.abs(np.arange(size_in)[None, :] - centres[:, None]) / stretch
    if mode == "bilinear":
        weights = np.maximum(1 - d, 0)
    else:  # Keys' cubic with a = -0.5
        near = (1.5 * d - 2.5) * d * d + 1
        far = ((-0.5 * d + 2.5) * d - 4) * d + 2
        weights = np.where(d < 1, near, np.where(d < 2, far, 0.0))
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    weights.flags.writeable = False  # shared through the cache
    return weights


def gaussian_noise(
    image: np.ndarray, sigma: float, rng: np.random.Generator, *, grey: bool = False
) -> np.ndarray:
    """Adds N(0, sigma²), sigma in units of the [0, 1] range; `grey`: the same in all channels."""
    shape = (*image.shape[:2], 1 if grey else image.shape[2])
    return image + rng.standard_normal(shape, dtype=np.float32) * np.float32(sigma)


def poisson_noise(
    image: np.ndarray, scale: float, rng: np.random.Generator, *, grey: bool = False
) -> np.ndarray:
    """Adds `scale` times shot noise (Real-ESRGAN Sec. 3.1 and its released settings).

    The image, rounded to 8 bits, counts as the mean of a Poisson variable whose full range is the
    number of different levels in it, rounded up to a power of two. `grey`: noise of the luma
    (BT.601), the same in all channels.
    """
    clean = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if grey else image
    levels = _to_bytes(clean)
    counts = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    full = 2.0 ** np.ceil(np.log2(counts))
    clean = levels.astype(np.float32) / np.float32(255)
    noise = (rng.poisson(clean * full) / full).astype(np.float32) - clean
    return image + noise * np.float32(scale)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """JPEG round trip at `quality` 1..100 (4:2:0 chroma); rounds to 8 bits first."""
    bgr = cv2.cvtColor(_to_bytes(image), cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(255)


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
    border = cv2.BORDER_REFLECT_101
    detail = image - cv2.GaussianBlur(image, (side, side), 0, borderType=border)
    edges = (np.abs(detail) * 255 > threshold).astype(np.float32)
    mask = cv2.GaussianBlur(edges, (side, side), 0, borderType=border)
    sharp = np.clip(image + np.float32(amount) * detail, 0, 1)
    return mask * sharp + (1 - mask) * image


@dataclass(frozen=True)
class Settings:
    """How strong the drawn degradations are: ranges (uniform) and probabilities.

    The defaults are the preset "medium".
    """

    blur_probability: float = 0.85
    anisotropic_probability: float = 0.35
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    blur_sigma: tuple[float, float] = (0.2, 4.0)  # HR pixels
    resize_probabilities: tuple[float, float, float] = (0.15, 0.35, 0.5)  # up, down, keep
    resize_range: tuple[float, float] = (0.35, 1.3)  # of the HR side; below 1 = down
    # The final resize: area, bilinear, bicubic; how often the last two are antialiased.
    final_mode_probabilities: tuple[float, float, float] = (0.4, 0.2, 0.4)
    antialias_probability: float = 0.5
    resize_first_probability: float = 0.5  # noise and JPEG after the final resize, at LR size
    noise_probability: float = 0.6
    poisson_probability: float = 0.3  # of the noisy examples
    noise_sigma: tuple[float, float] = (0.0, 12 / 255)
    poisson_scale: tuple[float, float] = (0.05, 0.6)
    grey_noise_probability: float = 0.4
    jpeg_probability: float = 0.5
    jpeg_quality: tuple[int, int] = (60, 95)


PRESETS: Mapping[str, Settings] = MappingProxyType(
    {
        "medium": Settings(),
        "light": Settings(
            blur_sigma=(0.2, 2.5),
            resize_probabilities=(0.1, 0.2, 0.7),
            resize_range=(0.6, 1.2),
            noise_probability=0.4,
            noise_sigma=(0.0, 5 / 255),
            poisson_scale=(0.05, 0.25),
            jpeg_probability=0.3,
            jpeg_quality=(80, 97),
        ),
        "camera": Settings(
            # Photographs of one scene through two lenses (RealSR, DRealSR) differ by a blur of
            # sigma 1.5 to 3 HR pixels, noise below 3 levels, and no aliasing.
            blur_sigma=(0.8, 3.2),
            resize_probabilities=(0.1, 0.2, 0.7),
            resize_range=(0.6, 1.2),
            antialias_probability=1.0,
            noise_probability=0.4,
            noise_sigma=(0.0, 4 / 255),
            poisson_scale=(0.05, 0.2),
            jpeg_probability=0.2,
            jpeg_quality=(85, 97),
        ),
    }
)


@dataclass(frozen=True)
class Degradation:
    """Everything that was drawn for one example; a step that is left out has the noted value."""

    kernel_size: int  # 0: no blur
    sigma_x: float
    sigma_y: float
    theta: float
    resize_factor: float  # 1: no intermediate resize
    resize_mode: str
    final_mode: str
    final_antialias: bool
    resize_first: bool  # final resize before noise and JPEG instead of after
    noise: str  # "none", "gaussian" or "poisson"
    noise_level: float  # sigma in [0, 1] units, or Poisson scale
    noise_grey: bool
    noise_seed: int
    jpeg_quality: int  # 0: no JPEG


def draw(rng: np.random.Generator, strength: Settings) -> Degradation:
    """Draws one record; the number of draws from `rng` does not depend on the outcome."""
    chance = rng.random(8)
    kernel_size = int(rng.choice(strength.kernel_sizes))
    sigma_x, sigma_y = rng.uniform(*strength.blur_sigma, size=2)
    theta = rng.uniform(0, np.pi)
    direction = rng.choice(3, p=strength.resize_probabilities)
    up, down = (rng.uniform(*clip(strength.resize_range, 1.0)) for clip in (np.maximum, np.minimum))
    factors = (up, down, 1.0)
    resize_mode = MODES[rng.choice(3)]
    final_mode = MODES[rng.choice(3, p=strength.final_mode_probabilities)]
    sigma, scale = rng.uniform(*strength.noise_sigma), rng.uniform(*strength.poisson_scale)
    noise_seed = int(rng.integers(2**32))
    quality = int(rng.integers(*strength.jpeg_quality, endpoint=True))

    anisotropic = chance[1] < strength.anisotropic_probability
    noise = "poisson" if chance[3] < strength.poisson_probability else "gaussian"
    return Degradation(
        kernel_size=kernel_size if chance[0] < strength.blur_probability else 0,
        sigma_x=float(sigma_x),
        sigma_y=float(sigma_y if anisotropic else sigma_x),
        theta=float(theta) if anisotropic else 0.0,
        resize_factor=float(factors[direction]),
        resize_mode=resize_mode,
        final_mode=final_mode,
        final_antialias=final_mode != "area" and bool(chance[6] < strength.antialias_probability),
        resize_first=bool(chance[7] < strength.resize_first_probability),
        noise=noise if chance[2] < strength.noise_probability else "none",
        noise_level=float(scale if noise == "poisson" else sigma),
        noise_grey=bool(chance[4] < strength.grey_noise_probability),
        noise_seed=noise_seed,
        jpeg_quality=quality if chance[5] < strength.jpeg_probability else 0,
    )


def apply(hr: np.ndarray, record: Degradation, scale: int) -> np.ndarray:
    """The LR image of `hr` under `record`: float32 [H/scale, W/scale, 3], multiples of 1/255.

    Raises:
      ValueError: the sides of `hr` are not multiples of `scale`.
    """
    height, width = hr.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"HR size {height}x{width} is not a multiple of the scale {scale}")
    image = hr
    if record.kernel_size:
        kernel = gaussian_kernel(record.kernel_size, record.sigma_x, record.sigma_y, record.theta)
        image = blur(image, kernel)
    if record.resize_factor != 1:
        rows, columns = (max(1, round(n * record.resize_factor)) for n in (height, width))
        image = resize(image, rows, columns, record.resize_mode)
    if not record.resize_first:
        image = _noise_and_jpeg(image, record)
    image = resize(
        image, height // scale, width // scale, record.final_mode, antialias=record.final_antialias
    )
    if record.resize_first:
        image = _noise_and_jpeg(image, record)
    return _to_bytes(image).astype(np.float32) / np.float32(255)


def _noise_and_jpeg(image: np.ndarray, record: Degradation) -> np.ndarray:
    if record.noise != "none":
        add = poisson_noise if record.noise == "poisson" else gaussian_noise
        rng = np.random.default_rng(record.noise_seed)
        image = add(image, record.noise_level, rng, grey=record.noise_grey)
    return jpeg(image, record.jpeg_quality) if record.jpeg_quality else image


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
