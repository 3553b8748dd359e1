"""Pictures that a model restores, as the evaluator and its report take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_sr import images
from maskgit_sr.evaluation.evaluator import Read, Sample
from maskgit_sr.images import files
from maskgit_sr.images.pairing import Entry
from maskgit_sr.images.samples import cast
from maskgit_sr.inference.upscaler import Upscaler

PARTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("generator confidence", {"policy": "generator", "control": False}),
    ("+ critic", {"policy": "critic", "control": False}),
    ("+ control", {"policy": "critic", "control": True}),
)
"""RealSRT's ablation (a), (b), (c)."""
STEPS = (1, 2, 3, 4, 6, 8, 12, 16)


def study(name: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, options of `Upscaler.restore`) of every run of a study, "parts" or "steps"."""
    if name == "parts":
        return list(PARTS)
    return [
        (f"{policy} T={steps}", {"policy": policy, "steps": steps})
        for policy in ("critic", "generator")
        for steps in STEPS
    ]


def from_model(
    upscaler: Upscaler,
    entries: Sequence[Entry],
    options: Mapping[str, Any],
    keep: Path | None = None,
) -> Read:
    """Restores the `lr` of an entry.

    Args:
        options: of `Upscaler.restore`.
        keep: folder that takes the outputs and their confidence maps.
    """

    def read(index: int) -> Sample:
        entry = entries[index]
        assert entry.lr is not None
        lr = images.read(entry.lr)
        hr = None if entry.hr is None else images.read(entry.hr)
        restored = upscaler.restore(lr, confidence=keep is not None, **options)
        if keep is not None:
            target = kept_file(keep, entry)
            images.write(restored.picture, target)
            assert restored.confidence is not None
            grey = images.from_confidence(restored.confidence, *restored.confidence.shape)
            images.write(grey, files.confidence_path(target))
        return Sample(entry.name, restored.picture, hr, lr)

    return read


def kept_file(folder: Path, entry: Entry) -> Path:
    """Where `from_model` keeps the output of an entry."""
    return folder / f"{entry.name}.png"


def views(
    entry: Entry, system: str, kept: Path | None = None, crop: int = 0
) -> dict[str, np.ndarray]:
    """Pictures of an entry in the order of a report: LR, bicubic, the output, HR, confidence.

    uint8 [H, W, 3], the confidence uint8 [H, W] at the size of LR; what there is no file of is
    left out.

    Args:
        crop: side of the square from the centre that was scored; 0: all. Output and HR of other
            sizes are cut at the right and bottom, as they were scored.
    """
    found: dict[str, np.ndarray] = {}
    output = entry.sr if kept is None else kept_file(kept, entry)
    color = None if output is None else _eight_bits(output)
    if entry.lr is not None:
        found["LR"] = _eight_bits(entry.lr)
        if color is not None:
            found["bicubic"] = images.resize(found["LR"], *color.shape[:2])
    if color is not None:
        found[system] = color
    if entry.hr is not None:
        found["HR"] = _eight_bits(entry.hr)
    if kept is not None and output is not None:
        found["confidence"] = _eight_bits(files.confidence_path(output))[..., 0]
    return found if color is None else _scored(found, system, crop)


def _scored(found: dict[str, np.ndarray], system: str, crop: int) -> dict[str, np.ndarray]:
    """The part that was scored; LR and confidence are as many times smaller as they are."""
    height, width = found[system].shape[:2]
    if "HR" in found:
        height, width = min(height, found["HR"].shape[0]), min(width, found["HR"].shape[1])
    scale = height // found["LR"].shape[0] if "LR" in found else 1
    side = (crop, crop) if crop else (height, width)
    corner = [(a - b) // 2 // scale * scale for a, b in zip((height, width), side, strict=True)]

    def cut(image: np.ndarray, by: int) -> np.ndarray:
        top, left = (at // by for at in corner)
        return image[top : top + side[0] // by, left : left + side[1] // by]

    small = ("LR", "confidence")
    return {name: cut(image, scale if name in small else 1) for name, image in found.items()}


def _eight_bits(path: Path) -> np.ndarray:
    return cast(images.read(path).color, np.uint8)
