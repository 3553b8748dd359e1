"""Images restored by a model, as input of the evaluator and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation.evaluator import Reader, Sample, scored_part, scored_size
from maskgit_sr.images import files
from maskgit_sr.images.pairing import Entry
from maskgit_sr.images.samples import cast
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.base import Method


def study(method: Method, name: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Returns the runs of one of the method's studies as (name, options of `Upscaler.restore`).

    Raises:
        UserError: the method has no such study.
    """
    if not method.studies:
        raise UserError(f"--ablation: {method.name} has no studies")
    if name not in method.studies:
        raise UserError(f"--ablation: expected one of {', '.join(method.studies)}, found '{name}'")
    return method.studies[name]


def check_pair(lr: np.ndarray, hr: np.ndarray, scale: int, short: bool = False) -> tuple[int, int]:
    """Returns the (rows, columns) of LR [h, w, 3] that HR [H, W, 3] shows wholly.

    HR may be less than ``scale`` pixels larger than ``scale`` times LR, as its sides need be no
    multiples.

    Args:
        short: it may also be so much smaller: some tools round the size of LR up.

    Raises:
        UserError: the sizes do not belong together.
    """
    more = [a - scale * b for a, b in zip(hr.shape[:2], lr.shape[:2], strict=True)]
    if max(more) >= scale or min(more) < (1 - scale if short else 0):
        sizes = [f"{kind} {x.shape[1]}x{x.shape[0]}" for kind, x in (("HR", hr), ("LR", lr))]
        raise UserError(f"{sizes[0]} is not {scale} times {sizes[1]}")
    rows, columns = map(min, lr.shape[:2], (side // scale for side in hr.shape[:2]))
    return rows, columns


def from_model(
    upscaler: Upscaler,
    entries: Sequence[Entry],
    options: Mapping[str, Any],
    keep: Path | None = None,
    samples: int = 1,
) -> Reader:
    """Returns a reader that restores the `lr` of an entry.

    Args:
        options: of `Upscaler.restore`.
        keep: folder for the outputs, and for their confidence maps if the method provides any; of
            several outputs for an image the first.
        samples: outputs for each image, by as many seeds from that of `options` on.
    """
    method = upscaler.method
    confidence = keep is not None and "confidence" in method.provides

    def read(index: int) -> Sample:
        entry = entries[index]
        assert entry.lr is not None
        lr = images.read(entry.lr)
        hr = None if entry.hr is None else images.read(entry.hr)
        if hr is not None:  # checked before the restoration, which takes most of the time
            check_pair(lr.color, hr.color, method.scale, short=True)
        restored = upscaler.restore(lr, confidence=confidence, **options)
        if keep is not None:
            target = kept_file(keep, entry)
            images.write(restored.picture, target)
            if restored.confidence is not None:
                grey = images.from_confidence(restored.confidence, *restored.confidence.shape)
                images.write(grey, files.confidence_path(target))
        seeds = (options["seed"] + i for i in range(1, samples))
        more = (upscaler.restore(lr, **{**options, "seed": seed}).picture for seed in seeds)
        return Sample(entry.name, restored.picture, hr, lr, tuple(more))

    return read


def kept_file(folder: Path, entry: Entry) -> Path:
    """Returns the path at which `from_model` keeps the output of an entry."""
    return folder / f"{entry.name}.png"


def views(
    entry: Entry, system: str, kept: Path | None = None, crop: int = 0
) -> dict[str, np.ndarray]:
    """Returns the images of an entry in a report's order: LR, bicubic, output, HR, confidence.

    Each is uint8 [H, W, 3], the confidence uint8 [H, W] at the size of LR. Images without a file
    are left out.

    Args:
        crop: side of the scored square from the centre in SR pixels; 0: all. If output and HR
            differ in size, both are cropped at the right and bottom, as they were scored.
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
        path = files.confidence_path(output)
        if path.exists():  # only of methods that provide it
            # the file is grey, and read as three equal channels
            found["confidence"] = _eight_bits(path)[..., 0]
    if color is None:
        return found
    shapes = {name: view.shape for name, view in found.items()}
    # as they were scored, whether or not that took --crop-to-min
    (height, width), scale = scored_size(
        color.shape, shapes.get("HR"), shapes.get("LR"), crop_to_min=True
    )
    # the map was written at the size of LR
    by = {"LR": scale, "confidence": scale}
    return {
        name: scored_part(image, (height, width), crop, scale, by.get(name, 1))
        for name, image in found.items()
    }


def _eight_bits(path: Path) -> np.ndarray:
    return cast(images.read(path).color, np.uint8)
