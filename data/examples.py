"""Makes a training example of a photograph: crop, flip, degrade, crop again.

All draws come from one generator, so an example is a function of the image and that generator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from data import degradations, operations
from data.quality import detail
from data.readers import Reader
from data.sources import check_scale
from maskgit_sr.errors import UserError
from maskgit_sr.images.samples import unit

TRIES = 4  # places in one image before another image is taken
IMAGES = 64  # images in a row without one good crop before the thresholds must be wrong


@dataclass(frozen=True)
class ExampleSpec:
    """Settings of the training examples.

    Attributes:
      crop: side of the HR crop, a multiple of `scale`.
      margin: so many more HR pixels are degraded than are kept, a multiple of `scale`; the kept
        crop lies anywhere in them, so that JPEG blocks and borders fall anywhere (Real-ESRGAN: 400
        pixels are degraded, 256 kept).
      scale: HR side over LR side.
      preset: see `degradations.named`; or "none": HR alone.
      zoom: HR crops, but not those of pairs, are enlarged by a factor drawn from this range, by
        bicubic. Photographs at a camera's own pixels are soft: at 0.3 cycle a pixel those of RealSR
        have an eighth of the power of photographs that were reduced. A zoom of 1.5 to 2 makes
        these as soft.
      sharpen: unsharp-mask the HR crop as the target too (Real-ESRGAN Sec. 3.3).
      contrast, sharpness: crops below either (`quality.detail`, levels of 255) are passed over.
      arrays: those that an example has, others being left out; (): all that there are.
    """

    crop: int
    margin: int = 0
    scale: int = 4
    preset: str | degradations.Settings = "realesrgan"
    zoom: tuple[float, float] = (1.0, 1.0)
    sharpen: bool = False
    contrast: float = 0.0
    sharpness: float = 0.0
    arrays: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scale < 1 or self.crop < self.scale or self.crop % self.scale:
            raise UserError(f"crop must be a multiple of scale {self.scale}, got {self.crop}")
        if self.margin < 0 or self.margin % self.scale:
            raise UserError(f"margin must be a multiple of scale {self.scale}, got {self.margin}")
        low, high = self.zoom
        if not 1 <= low <= high:
            raise UserError(f"zoom must be a range from 1 upwards, got {low:g} to {high:g}")
        if self.preset != "none":
            degradations.named(self.preset)

    @classmethod
    def configured(cls, data: Any, crop: int, scale: int, arrays: tuple[str, ...]) -> ExampleSpec:
        """Returns the spec of the settings `data` of a config (`configs.common`).

        Args:
          arrays: those that a stage takes; without "lr" it sees photographs as they are.

        Raises:
          UserError: a setting out of its range.
        """
        names = ("margin", "preset", "sharpen", "contrast", "sharpness")
        settings = {name: getattr(data, name) for name in names}
        spec = cls(crop=crop, scale=scale, zoom=tuple(data.zoom), arrays=arrays, **settings)
        # What is not degraded has no use for a margin.
        return spec if "lr" in arrays else replace(spec, preset="none", margin=0)

    def make(self, reader: Reader, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Makes the example of one index.

        Returns:
          dict(hr uint8 [crop, crop, 3], lr uint8 [crop/scale, crop/scale, 3], index int64, id str);
          without lr for the preset "none", unless the source has LR images of its own. Of a taught
          source: with teacher uint8 [crop, crop, 3] and strength float32, without hr where the
          source has none.

        Raises:
          UserError: none of `IMAGES` images in a row has a crop over the thresholds, a pair's sizes
            do not fit, or the source lacks one of `arrays`.
        """
        example = self._chosen(reader, index, rng)
        made = self._paired(example, rng) if "lr" in example else self._degraded(example, rng)
        if missing := [name for name in self.arrays if name not in made]:
            raise UserError(
                f"{reader.source!r}: examples without {', '.join(missing)}; data.teach makes those "
                "with a teacher, and with hr by --keep-hr"
            )
        made = {name: made[name] for name in self.arrays or made}
        return {**made, "index": np.int64(index), "id": example["id"]}

    def _chosen(self, reader: Reader, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Returns a pair as it is, or an example with a crop over the thresholds in place of hr."""
        side = self.crop + self.margin
        limit = min(IMAGES, len(reader))
        for step in range(limit):
            example = reader[index + step]  # the next image, so that an index gives one example
            if "lr" in example:
                return example
            for _ in range(TRIES):
                zoom = rng.uniform(*self.zoom) if self.zoom[1] > 1 else 1.0
                crop = random_crop(example["hr"], max(1, round(side / zoom)), rng)
                if self._good(crop):  # judged before it is enlarged, which lowers its sharpness
                    return {**example, "hr": enlarged(crop, side)}
            name = example["id"]
            reader.skipped.note(name, f"{name}: {TRIES} crops in a row flat or blurred")
        raise UserError(
            f"{reader.source!r}: no crop of {limit} images has contrast {self.contrast:g} and "
            f"sharpness {self.sharpness:g}; lower these thresholds"
        )

    def _good(self, crop: np.ndarray) -> bool:
        if not (self.contrast or self.sharpness):
            return True
        contrast, sharpness = detail(crop)
        return contrast >= self.contrast and sharpness >= self.sharpness

    def _degraded(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        hr = _turned(example["hr"], rng.integers(2, size=3))
        # Once for target and chain: sharpening costs the most of all steps (data/README.md).
        sharp = operations.usm_sharpen(unit(hr)) if self.sharpen else None
        target = hr if sharp is None else operations.to_bytes(sharp)
        # In LR pixels, so that the LR window shows exactly what the HR window does.
        top, left = (int(n) for n in rng.integers(self.margin // self.scale + 1, size=2))
        made = {"hr": _window(target, top * self.scale, left * self.scale, self.crop)}
        if self.preset != "none":
            record = degradations.draw(rng, self.preset, hr.shape[0], hr.shape[1], self.scale)
            if sharp is not None and record.sharpens:
                lr = record.apply(sharp, sharpened=True)
            else:
                lr = record.apply(hr)
            made["lr"] = _window(lr, top, left, self.crop // self.scale)
        return made

    def _paired(self, pair: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the same window of images that came together, turned alike."""
        small = self.crop // self.scale
        lr = reflected(pair["lr"], small)
        top, left = (int(n) for n in rng.integers([n - small + 1 for n in lr.shape[:2]]))
        turns = rng.integers(2, size=3)
        made = {"lr": _turned(_window(lr, top, left, small), turns)}
        for name, what in (("hr", "HR"), ("teacher", "teacher's output")):
            if name not in pair:
                continue
            where = f"pair {pair['id']}"
            check_scale(pair[name].shape, pair["lr"].shape, self.scale, where, what)
            large = reflected(pair[name], self.crop)
            window = _window(large, top * self.scale, left * self.scale, self.crop)
            made[name] = _turned(window, turns)
        return made | ({"strength": pair["strength"]} if "strength" in pair else {})


def random_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a [size, size, 3] crop at a random place; smaller images are reflected first."""
    image = reflected(image, size)
    top, left = rng.integers([n - size + 1 for n in image.shape[:2]])
    return image[top : top + size, left : left + size]


def enlarged(crop: np.ndarray, side: int) -> np.ndarray:
    """Returns uint8 [n, n, 3] resized to [side, side, 3] by bicubic; itself if it has that size."""
    if crop.shape[0] == side:
        return crop
    return operations.to_bytes(operations.resize(unit(crop), side, side, "bicubic"))


def reflected(image: np.ndarray, size: int) -> np.ndarray:
    """Reflects sides shorter than `size` at the bottom and right; the edge is not repeated."""
    below, right = (max(size - n, 0) for n in image.shape[:2])
    if not below and not right:
        return image
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101)


def _window(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _turned(image: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Returns one of the eight flips and quarter turns: upside down, left to right, transposed."""
    if turns[0]:
        image = image[::-1]
    if turns[1]:
        image = image[:, ::-1]
    if turns[2]:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image)
