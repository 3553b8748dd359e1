"""Degradations as records: the steps, in order, with every parameter that was drawn.

`Degradation.apply` turns one HR image into the same LR image every time, bit for bit on one
version of OpenCV; `to_dict` and `from_dict` carry a record through JSON without loss; `str` gives
one readable line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data import operations
from data.kernels import Kernel
from maskgit_sr.images.samples import unit


@dataclass(frozen=True)
class Sharpen:
    """Unsharp masking, see `operations.usm_sharpen`."""

    amount: float = 0.5
    radius: int = 50
    threshold: float = 10

    def __call__(self, image: np.ndarray) -> np.ndarray:
        # Fields have the names of the operation's parameters.
        return operations.usm_sharpen(image, **vars(self))

    def __str__(self) -> str:
        return f"sharpen {self.amount:g}"


@dataclass(frozen=True)
class Blur:
    """Correlation with a kernel."""

    kernel: Kernel

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return operations.blur(image, self.kernel.array())

    def __str__(self) -> str:
        return f"blur {self.kernel}"


@dataclass(frozen=True)
class Resize:
    """Resampling to [height, width], see `operations.resize`."""

    height: int
    width: int
    mode: str
    antialias: bool = False
    factor: float = 0.0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return operations.resize(image, **vars(self))

    def __str__(self) -> str:
        smooth = " antialiased" if self.antialias else ""
        return f"resize {self.height}x{self.width} {self.mode}{smooth}"


@dataclass(frozen=True)
class GaussianNoise:
    """N(0, sigma²), sigma in levels of 255; clipped to [0, 1]."""

    sigma: float
    grey: bool
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        # A stored seed, not the generator of the draws: the record gives the same noise each time.
        rng = np.random.default_rng(self.seed)
        noisy = operations.gaussian_noise(image, self.sigma / 255, rng, grey=self.grey)
        return np.clip(noisy, 0, 1, out=noisy)

    def __str__(self) -> str:
        return f"{'grey ' * self.grey}noise sigma {self.sigma:.1f}"


@dataclass(frozen=True)
class CorrelatedNoise:
    """N(0, covariance) at every pixel, rows of the covariance in levels² of 255; clipped."""

    covariance: tuple[tuple[float, float, float], ...]
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        covariance = np.asarray(self.covariance) / 255**2
        noisy = operations.correlated_noise(image, covariance, np.random.default_rng(self.seed))
        return np.clip(noisy, 0, 1, out=noisy)

    def __str__(self) -> str:
        sigmas = "/".join(f"{row[i] ** 0.5:.1f}" for i, row in enumerate(self.covariance))
        return f"correlated noise sigma {sigmas}"


@dataclass(frozen=True)
class PoissonNoise:
    """`scale` times shot noise, see `operations.poisson_noise`; clipped to [0, 1]."""

    scale: float
    grey: bool
    seed: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        noisy = operations.poisson_noise(image, self.scale, rng, grey=self.grey)
        return np.clip(noisy, 0, 1, out=noisy)

    def __str__(self) -> str:
        return f"{'grey ' * self.grey}shot noise {self.scale:.2f}"


@dataclass(frozen=True)
class Jpeg:
    """JPEG round trip; chroma at half resolution, as most files have it, or at the whole."""

    quality: int
    subsampled: bool = True

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return operations.jpeg(image, self.quality, self.subsampled)

    def __str__(self) -> str:
        return f"JPEG {self.quality}{'' if self.subsampled else ' 4:4:4'}"


Step = Sharpen | Blur | Resize | GaussianNoise | CorrelatedNoise | PoissonNoise | Jpeg

# Names of the steps in JSON. Files of records hold them, so they must not change.
_NAMES: dict[str, type] = {
    "sharpen": Sharpen,
    "blur": Blur,
    "resize": Resize,
    "gaussian_noise": GaussianNoise,
    "correlated_noise": CorrelatedNoise,
    "poisson_noise": PoissonNoise,
    "jpeg": Jpeg,
}


@dataclass(frozen=True)
class Degradation:
    """The steps from one HR image of [height, width] to its LR image.

    Attributes:
      height, width: of the HR image that it was drawn for, in pixels.
      scale: HR side over LR side.
      steps: in the order of their application.
    """

    height: int
    width: int
    scale: int
    steps: tuple[Step, ...]

    @property
    def sharpens(self) -> bool:
        """Returns whether the first step is a `Sharpen`."""
        return bool(self.steps) and isinstance(self.steps[0], Sharpen)

    def apply(self, hr: np.ndarray, *, sharpened: bool = False) -> np.ndarray:
        """Returns the LR image of `hr`: uint8 [height/scale, width/scale, 3], rounded at the end.

        Args:
          hr: [height, width, 3], uint8, or float32 in [0, 1].
          sharpened: `hr` has gone through the first step, a `Sharpen`, already.

        Raises:
          ValueError: `hr` has another size, or is sharpened by a degradation that does not sharpen.
        """
        if sharpened and not self.sharpens:
            raise ValueError("this degradation does not start by sharpening")
        # The steps hold absolute sizes, so that a record fits images of one size.
        if hr.shape != (self.height, self.width, 3):
            raise ValueError(
                f"degradation drawn for {self.height}x{self.width} RGB, got shape {hr.shape}"
            )
        image = unit(hr) if hr.dtype == np.uint8 else hr
        # Float32 between the steps: 8 bits only where JPEG and shot noise need them, and last.
        for step in self.steps[1:] if sharpened else self.steps:
            image = step(image)
        return operations.to_bytes(image)

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as a JSON-ready dict."""
        names = {kind: name for name, kind in _NAMES.items()}
        steps = [{"step": names[type(step)], **dataclasses.asdict(step)} for step in self.steps]
        return {"height": self.height, "width": self.width, "scale": self.scale, "steps": steps}

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> Degradation:
        """Returns the record that `to_dict` made.

        Raises:
          ValueError: an unknown step, or parameters that a step does not take.
        """
        try:
            height, width, scale = (int(record[key]) for key in ("height", "width", "scale"))
            return Degradation(height, width, scale, tuple(map(_step, record["steps"])))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record of a degradation: {error!r}") from error

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))


def _step(entry: Mapping[str, Any]) -> Step:
    fields = dict(entry)
    name = fields.pop("step")
    if name not in _NAMES:
        raise ValueError(f"unknown step {name!r}, expected one of {', '.join(_NAMES)}")
    if name == "blur":
        # Parameters that records of earlier versions lack keep their defaults.
        fields["kernel"] = Kernel(**fields["kernel"])
    if name == "correlated_noise":  # JSON gives lists, with which a record could not be hashed
        fields["covariance"] = tuple(tuple(row) for row in fields["covariance"])
    step = _NAMES[name](**fields)
    _check_types(step)
    return step


def _check_types(record: Any) -> None:
    """Raises TypeError where a number, text or truth value is something else."""
    # Exact types, since True is an int; annotations are text in this module (see its first import).
    kinds = {"float": (float, int), "int": (int,), "str": (str,), "bool": (bool,)}
    for entry in dataclasses.fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, Kernel):
            _check_types(value)
        elif (expected := kinds.get(str(entry.type))) and type(value) not in expected:
            raise TypeError(f"{entry.name} must be a {entry.type}, got {value!r}")
        elif not expected and not all(type(n) in kinds["float"] for row in value for n in row):
            raise TypeError(f"{entry.name} must hold numbers, got {value!r}")
