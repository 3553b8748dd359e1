"""Presets: random draws of degradations.

`draw(rng, preset, height, width, scale)` returns the record of one degradation (`data.chain`) of an
HR image of that size; every choice comes from `rng`, so equal generators give equal records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from data.chain import (
    Blur,
    CorrelatedNoise,
    Degradation,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    Resize,
    Sharpen,
    Step,
)
from data.kernels import Kernel
from data.lens import Range, SecondLens
from data.sources import parse_mixture
from data.web import Web
from maskgit_sr.errors import UserError

_TORCH_MODES = ("adaptive", "bilinear", "bicubic")  # what `F.interpolate` calls area, …
_CV2_MODES = ("bilinear", "bicubic", "area")


class Settings(Protocol):
    """A preset: draws the steps of one degradation."""

    def steps(
        self, rng: np.random.Generator, height: int, width: int, scale: int
    ) -> list[Step]: ...


@dataclass(frozen=True)
class Order:
    """One round of blur → resize → noise → JPEG: ranges (uniform) and probabilities.

    The defaults are the first order of Real-ESRGAN's released settings.
    """

    blur: float = 1.0
    sinc: float = 0.1  # of the blurred
    # Else Gaussian, generalised, plateau, each isotropic and then anisotropic.
    kernels: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    sigma: Range = (0.2, 3.0)
    generalized_beta: Range = (0.5, 4.0)
    plateau_beta: Range = (1.0, 2.0)
    resize: tuple[float, float, float] = (0.2, 0.7, 0.1)  # up, down, keep
    resize_range: Range = (0.15, 1.5)
    noise: float = 1.0
    gaussian: float = 0.5  # of the noisy; the others get shot noise
    gaussian_sigma: Range = (1.0, 30.0)  # levels of 255
    poisson_scale: Range = (0.05, 3.0)
    grey: float = 0.4
    jpeg: float = 1.0
    jpeg_quality: tuple[int, int] = (30, 95)

    def draw_blur(self, rng: np.random.Generator) -> list[Step]:
        return [Blur(self._kernel(rng))] if rng.random() < self.blur else []

    def _kernel(self, rng: np.random.Generator) -> Kernel:
        # int() and float() throughout: records go to JSON, which has no NumPy scalars.
        size = int(rng.choice(self.kernel_sizes))
        if rng.random() < self.sinc:
            lowest = math.pi / 3 if size < 13 else math.pi / 5
            return Kernel("sinc", size, cutoff=float(rng.uniform(lowest, math.pi)))
        shape, anisotropic = divmod(int(rng.choice(6, p=self.kernels)), 2)
        sigma_x, sigma_y = map(float, rng.uniform(*self.sigma, size=2))
        theta = float(rng.uniform(-math.pi, math.pi))
        beta = 1.0
        if shape:  # half below 1, half above
            low, high = self.generalized_beta if shape == 1 else self.plateau_beta
            beta = float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))
        return Kernel(
            ("gaussian", "generalized", "plateau")[shape],
            size,
            sigma_x,
            sigma_y if anisotropic else sigma_x,
            theta if anisotropic else 0.0,
            beta,
        )

    def draw_factor(self, rng: np.random.Generator) -> float:
        low, high = self.resize_range
        direction = rng.choice(3, p=self.resize)
        return float((rng.uniform(1, high), rng.uniform(low, 1), 1.0)[direction])

    def draw_noise(self, rng: np.random.Generator) -> list[Step]:
        if rng.random() >= self.noise:
            return []
        kind, grey = rng.random() < self.gaussian, bool(rng.random() < self.grey)
        seed = int(rng.integers(2**32))  # of the noise itself, so that a record holds no arrays
        if kind:
            return [GaussianNoise(float(rng.uniform(*self.gaussian_sigma)), grey, seed)]
        return [PoissonNoise(float(rng.uniform(*self.poisson_scale)), grey, seed)]

    def draw_jpeg(self, rng: np.random.Generator) -> list[Step]:
        if rng.random() >= self.jpeg:
            return []
        return [Jpeg(int(rng.integers(*self.jpeg_quality, endpoint=True)))]


@dataclass(frozen=True)
class HighOrder:
    """Real-ESRGAN's chain (Wang et al., ICCVW 2021, Sec. 3): sharpen, then one order or two.

    The last order's JPEG comes before or after the final resize and sinc filter. All choices are
    per example; the public code shares resize factors and modes within a batch.

    Attributes:
      orders: one or two.
      noise_after: the last order's noise stays with its JPEG when that follows the final resize,
        as in a camera, whose noise is that of its own pixels; else it precedes the final resize.
      jpeg_after: how often JPEG follows the final resize.
      final_modes: with their probabilities.
      final_antialias: how often the final bilinear or bicubic resize is antialiased.
      sinc: how often the final sinc filter is applied.
    """

    orders: tuple[Order, ...]
    sharpen: bool = True
    modes: tuple[str, ...] = _TORCH_MODES
    noise_after: bool = False
    jpeg_after: float = 0.5
    final_modes: tuple[tuple[str, float], ...] = tuple((mode, 1 / 3) for mode in _TORCH_MODES)
    final_antialias: float = 0.0
    sinc: float = 0.8
    sinc_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)

    def steps(self, rng: np.random.Generator, height: int, width: int, scale: int) -> list[Step]:
        chain: list[Step] = [Sharpen()] if self.sharpen else []
        *before, last = self.orders
        for order in before:
            chain += order.draw_blur(rng)
            chain += self._resize(rng, order.draw_factor(rng), height, width)
            chain += order.draw_noise(rng) + order.draw_jpeg(rng)
        chain += last.draw_blur(rng)
        factor = last.draw_factor(rng)
        if before:  # the resize of the second order starts from the LR size
            rows, columns = (max(1, int(n / scale * factor)) for n in (height, width))
            chain.append(Resize(rows, columns, _pick(rng, self.modes)))
        else:
            chain += self._resize(rng, factor, height, width)

        # Drawn in one order wherever they are applied: another order of draws would give other
        # records for the same seed.
        noise, jpeg = last.draw_noise(rng), last.draw_jpeg(rng)
        final = self._final(rng, height // scale, width // scale)
        if rng.random() < self.jpeg_after:
            order_of_steps = [final, noise, jpeg] if self.noise_after else [noise, final, jpeg]
        else:
            order_of_steps = [noise, jpeg, final]
        return chain + [step for steps in order_of_steps for step in steps]

    def _resize(
        self, rng: np.random.Generator, factor: float, height: int, width: int
    ) -> list[Step]:
        if factor == 1:
            return []
        rows, columns = (max(1, int(n * factor)) for n in (height, width))
        whole = min(height, width) * factor >= 1  # else torch has no such size either
        return [Resize(rows, columns, _pick(rng, self.modes), factor=factor if whole else 0.0)]

    def _final(self, rng: np.random.Generator, height: int, width: int) -> list[Step]:
        names, shares = zip(*self.final_modes, strict=True)
        mode = names[rng.choice(len(names), p=shares)]
        smooth = mode in ("bilinear", "bicubic") and bool(rng.random() < self.final_antialias)
        steps: list[Step] = [Resize(height, width, mode, antialias=smooth)]
        if rng.random() < self.sinc:
            cutoff = float(rng.uniform(math.pi / 3, math.pi))
            steps.append(Blur(Kernel("sinc", int(rng.choice(self.sinc_sizes)), cutoff=cutoff)))
        return steps


@dataclass(frozen=True)
class Shuffled:
    """BSRGAN's chain (Zhang et al., ICCV 2021, Sec. 3 and its released code).

    Two blurs, two reductions, noise and JPEG in random order, the second reduction after the
    first; JPEG once more at the end. Camera sensor noise needs a learned ISP model that is not
    public; the released settings leave it out as well.

    Attributes:
      halve_first: how often a ×4 reduction starts by halving the image.
      plain: how often the first reduction is a resize; else a shifted Gaussian and decimation.
      jpeg: how often there is a JPEG step besides the last.
    """

    halve_first: float = 0.25
    plain: float = 0.75
    jpeg: float = 0.9
    sigma_levels: tuple[int, int] = (2, 25)  # levels of 255
    jpeg_quality: tuple[int, int] = (30, 95)

    def steps(self, rng: np.random.Generator, height: int, width: int, scale: int) -> list[Step]:
        chain: list[Step] = []
        rows, columns, rest = height, width, scale
        if scale == 4 and rng.random() < self.halve_first:
            rows, columns, rest = height // 2, width // 2, 2
            if rng.random() < 0.5:
                chain.append(Resize(rows, columns, _pick(rng, _CV2_MODES)))
            else:
                chain.append(Resize(rows, columns, "bicubic", antialias=True))
        order = list(rng.permutation(("blur", "blur", "reduce", "finish", "noise", "jpeg")))
        first, second = order.index("reduce"), order.index("finish")
        if first > second:  # "finish" makes the LR size, whatever size "reduce" has drawn
            order[first], order[second] = order[second], order[first]
        for name in order:
            if name == "blur":
                chain.append(Blur(self._kernel(rng, rest)))
            elif name == "reduce":
                chain += self._reduce(rng, rows, columns, rest)
            elif name == "finish":
                chain.append(Resize(height // scale, width // scale, _pick(rng, _CV2_MODES)))
            elif name == "noise":
                chain.append(self._noise(rng))
            elif rng.random() < self.jpeg:
                chain.append(self._jpeg(rng))
        return [*chain, self._jpeg(rng)]

    def _kernel(self, rng: np.random.Generator, rest: int) -> Kernel:
        size = 2 * int(rng.integers(2, 11, endpoint=True)) + 3
        if rng.random() < 0.5:  # variances, not deviations, are uniform
            x, y = (math.sqrt(v) for v in rng.uniform(1e-3, 4 + rest, size=2))
            return Kernel("gaussian", size, x, y, float(rng.uniform(0, math.pi)))
        sigma = float(rng.uniform(1e-2, 2 + 0.2 * rest))
        return Kernel("gaussian", size, sigma, sigma)

    def _reduce(self, rng: np.random.Generator, rows: int, columns: int, rest: int) -> list[Step]:
        if rng.random() < self.plain:
            factor = rng.uniform(1, 2 * rest)
            height, width = (max(1, int(n / factor)) for n in (rows, columns))
            return [Resize(height, width, _pick(rng, _CV2_MODES))]
        # Decimation keeps the first pixel of a block; the shifted kernel samples its centre.
        sigma = float(rng.uniform(0.1, 0.6 * rest))
        kernel = Kernel("gaussian", 25, sigma, sigma, offset=(rest - 1) / 2)
        return [Blur(kernel), Resize(rows // rest, columns // rest, "nearest")]

    def _noise(self, rng: np.random.Generator) -> Step:
        low, high = self.sigma_levels
        kind, seed = rng.random(), int(rng.integers(2**32))
        if not 0.4 <= kind <= 0.6:
            sigma = float(rng.integers(low, high, endpoint=True))
            return GaussianNoise(sigma, bool(kind < 0.4), seed)
        axes = np.linalg.qr(rng.uniform(size=(3, 3)))[0]
        # Absolute values as in the released code: eigenvalues may become negative.
        covariance = np.abs(high**2 * (axes.T * rng.uniform(size=3)) @ axes)
        return CorrelatedNoise(
            tuple((float(a), float(b), float(c)) for a, b, c in covariance), seed
        )

    def _jpeg(self, rng: np.random.Generator) -> Jpeg:
        return Jpeg(int(rng.integers(*self.jpeg_quality, endpoint=True)))


@dataclass(frozen=True)
class Bicubic:
    """The classical setting: one antialiased bicubic reduction (MATLAB's imresize)."""

    def steps(self, rng: np.random.Generator, height: int, width: int, scale: int) -> list[Step]:
        return [Resize(height // scale, width // scale, "bicubic", antialias=True)]


@dataclass(frozen=True)
class Either:
    """One of several presets, drawn anew for every example.

    Without weights, which need not sum to 1, each is as likely as the others.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] = ()

    def steps(self, rng: np.random.Generator, height: int, width: int, scale: int) -> list[Step]:
        if not self.weights:
            return named(_pick(rng, self.names)).steps(rng, height, width, scale)
        shares = np.array(self.weights) / max(self.weights)  # whose sum is finite
        name = self.names[int(rng.choice(len(self.names), p=shares / shares.sum()))]
        return named(name).steps(rng, height, width, scale)


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


_MILD = Order(
    blur=0.8,
    sinc=0.05,
    sigma=(0.2, 1.5),
    resize=(0.1, 0.2, 0.7),
    resize_range=(0.6, 1.2),
    noise=0.5,
    gaussian_sigma=(1.0, 8.0),
    poisson_scale=(0.05, 0.4),
    jpeg=0.5,
    jpeg_quality=(70, 95),
)

PRESETS: Mapping[str, Settings] = MappingProxyType(
    {
        "realesrgan": HighOrder(
            (
                Order(),
                Order(
                    blur=0.8,
                    sigma=(0.2, 1.5),
                    resize=(0.3, 0.4, 0.3),
                    resize_range=(0.3, 1.2),
                    gaussian_sigma=(1.0, 25.0),
                    poisson_scale=(0.05, 2.5),
                ),
            )
        ),
        "bsrgan": Shuffled(),
        "bicubic": Bicubic(),
        # One order, for photographs that are small rather than damaged.
        "light": HighOrder((_MILD,), sharpen=False, final_antialias=0.5, sinc=0.2),
        # Photographs of one scene through two lenses (RealSR, DRealSR) differ by a blur of sigma
        # 1.5 to 3 HR pixels, noise below 3 levels, and no aliasing.
        "camera": HighOrder(
            (
                Order(
                    blur=0.85,
                    sinc=0.0,
                    kernels=(0.65, 0.35, 0.0, 0.0, 0.0, 0.0),
                    sigma=(0.8, 3.2),
                    resize=(0.1, 0.2, 0.7),
                    resize_range=(0.6, 1.2),
                    noise=0.4,
                    gaussian=0.7,
                    gaussian_sigma=(0.0, 4.0),
                    poisson_scale=(0.05, 0.2),
                    jpeg=0.2,
                    jpeg_quality=(85, 97),
                ),
            ),
            sharpen=False,
            modes=("area", "bilinear", "bicubic"),
            noise_after=True,
            final_modes=(("area", 0.4), ("bilinear", 0.2), ("bicubic", 0.4)),
            final_antialias=1.0,
            sinc=0.0,
        ),
        "lens": SecondLens(),
        "web": Web(),
        # Photographs as they come from a lens or a web page: little damage, any blur.
        "photo": Either(("light", "camera")),
    }
)


def draw(
    rng: np.random.Generator, preset: str | Settings, height: int, width: int, scale: int
) -> Degradation:
    """Returns the record of one degradation of an HR image of [height, width].

    Args:
      preset: see `named`.
      scale: HR side over LR side; 2, 3 and 4 are what the presets were made for.

    Raises:
      ValueError: a size that is no positive multiple of `scale`; `UserError`: unknown preset.
    """
    if scale < 1 or min(height, width) < scale or height % scale or width % scale:
        raise ValueError(f"HR size {height}x{width} is not a multiple of the scale {scale}")
    settings = named(preset)
    return Degradation(height, width, scale, tuple(settings.steps(rng, height, width, scale)))


def named(preset: str | Settings) -> Settings:
    """Returns the settings of a preset: a name in `PRESETS`, several by weight, or settings.

    "web*0.7;lens*0.3" draws one of the two for every example, in these proportions.

    Raises:
      UserError: unknown name, or a weight that is not positive.
    """
    if not isinstance(preset, str):
        return preset
    mixture = parse_mixture(preset, "preset", f"one of {', '.join(PRESETS)}")
    for name, _ in mixture:
        if name not in PRESETS:
            raise UserError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    if len(mixture) == 1:
        return PRESETS[mixture[0][0]]
    return Either(*zip(*mixture, strict=True))
