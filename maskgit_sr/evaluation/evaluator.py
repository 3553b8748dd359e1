"""Scores of a set of images, together with the protocol of their measurement.

`evaluate` takes images one at a time, from files or from a model, so that memory does not grow
with their number, and continues when one of them cannot be scored. Its result is plain JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskgit_sr import errors, images, metrics, paths
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import statistics
from maskgit_sr.images import Picture
from maskgit_sr.images.pairing import Entry
from maskgit_sr.images.samples import peak, unit
from maskgit_sr.metrics.protocols import Protocol

FORMAT = 1
KIND = "maskgit_sr scores"
_PACKAGES = ("maskgit_sr", "jax", "numpy", "scipy", "pillow", "opencv-python-headless")


@dataclasses.dataclass(frozen=True)
class Sample:
    """The images of one scene; `hr` and `lr` may be None if no metric needs them.

    `more` are further outputs of a stochastic system for the same input. Scores of single outputs
    are then means over all of them.
    """

    name: str
    sr: Picture
    hr: Picture | None = None
    lr: Picture | None = None
    more: tuple[Picture, ...] = ()


Reader = Callable[[int], Sample]
"""Maps the index of a scene to its images; raises UserError if they are unreadable."""
Progress = Callable[[int, int], None]


def from_files(entries: Sequence[Entry]) -> Reader:
    """Returns a reader of the entries' files; every entry must have an `sr`."""

    def read(index: int) -> Sample:
        entry = entries[index]
        found = {kind: getattr(entry, kind) for kind in ("sr", "hr", "lr")}
        pictures = {k: images.read(path) for k, path in found.items() if path}
        return Sample(entry.name, **pictures, more=tuple(map(images.read, entry.more)))

    return read


def evaluate(
    names: Sequence[str],
    read: Reader,
    protocol: Protocol,
    *,
    system: str,
    source: Mapping[str, Any],
    given: Sequence[str] = ("hr",),
    problems: Sequence[str] = (),
    crop_to_min: bool = False,
    assets: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Returns the scores of every image and their summary, as plain JSON values.

    Args:
        names: names of the images, by which results are compared.
        read: reads one scene; an error loses this scene only, here as in a metric.
        system: name of the system that made the images.
        source: origin of the images, stored with the scores.
        given: which of "hr", "lr" and "more" the samples have; metrics that need another are left
            out, and so are those whose weights are absent, each with a line in `problems`.
        problems: lines about scenes that were lost earlier, such as files without a partner.
        crop_to_min: if SR and HR differ in size, crop both at the right and bottom.

    Raises:
        UserError: no metric is left.
    """
    chosen, skipped = _metrics(protocol, given, assets)
    lines, rows = [*problems, *skipped], []
    # scenes that were lost earlier are part of the total, so that the exit code tells of them
    seen = sum(1 for line in problems if line)
    for index, name in enumerate(names):
        try:
            sample = read(index)
            row, notes = _row(sample, chosen, protocol, crop_to_min)
        except Exception as error:  # of one scene, memory included: the others are still scored
            lines.append(errors.failure(error, name))
        else:
            rows.append(row)
            lines += notes
        if progress is not None:
            progress(index + 1, len(names))
    summary = {
        name: statistics.summary([s for row in rows if (s := row["scores"].get(name)) is not None])
        for name, metric in chosen.items()
        if not metric.spec.of_set
    }
    # after the loop over images, which only feeds the metrics of a set, such as FID
    for name, metric in chosen.items():
        if metric.spec.of_set:
            summary[name] = _of_set(metric, len(rows), lines)
    return {
        "format": FORMAT,
        "kind": KIND,
        "system": system,
        "protocol": {
            "name": protocol.name,
            "text": protocol.text,
            "crop": protocol.crop,
            "border": protocol.border,
            "metrics": {
                name: {**dataclasses.asdict(metric.spec), "text": metric.spec.protocol}
                for name, metric in chosen.items()
            },
        },
        "source": dict(source),
        "versions": _versions(),
        "hardware": _hardware(),
        "images": rows,
        "problems": lines,
        "summary": summary,
        "counts": {"scored": len(rows), "of": len(names) + seen},
    }


def _metrics(
    protocol: Protocol, given: Sequence[str], assets: str | Path | None
) -> tuple[dict[str, Any], list[str]]:
    """Returns the metrics that can be measured, and one line for each that cannot."""
    possible, lines = [], []
    for name in protocol.metrics:
        if name not in metrics.SPECS:
            expected = ", ".join(metrics.SPECS)
            raise UserError(f"--metrics: expected one of {expected}, found '{name}'")
        lacking = [kind for kind in metrics.SPECS[name].images if kind not in given]
        if lacking:
            lines.append(f"{name}: left out, it needs --{' and --'.join(lacking)}")
        elif metrics.SPECS[name].of_samples and "more" not in given:
            lines.append(f"{name}: left out, it needs several outputs for an image")
        elif (missing := metrics.available(name, assets)) is not None:
            lines.append(f"{name}: left out, {missing}")
        else:
            possible.append(name)
    if not possible:
        raise UserError(f"no metric can be measured: {'; '.join(lines)}")
    return metrics.create(possible, border=protocol.border, assets=assets), lines


def _row(
    sample: Sample, chosen: Mapping[str, Any], protocol: Protocol, crop_to_min: bool
) -> tuple[dict[str, Any], list[str]]:
    outputs = [sample, *(dataclasses.replace(sample, sr=other) for other in sample.more)]
    parts = [_aligned(one, protocol.crop, crop_to_min) for one in outputs]
    srs, (hr, lr) = [part[0] for part in parts], parts[0][1:3]
    if sizes := {_size(sr[0]) for sr in srs[1:]} - {_size(srs[0][0])}:
        raise UserError(f"expected outputs of one size, found {_size(srs[0][0])} and {min(sizes)}")
    scores: dict[str, float | None] = {}
    lines = []
    for name, metric in chosen.items():
        # the border is cut from every side before the metric's own minimum applies
        smallest = metric.spec.min_size + 2 * metric.spec.border
        if min(srs[0].shape[1:3]) < smallest:
            found = _size(srs[0][0])
            lines.append(f"{sample.name}: {name} needs {smallest} pixels a side, found {found}")
            scores[name] = None
            continue
        others = [{"hr": hr, "lr": lr}[kind] for kind in metric.spec.images]
        if metric.spec.of_set:
            for sr in srs:
                metric.add(sr, *others)
        else:
            given = [np.stack(srs, axis=1)] if metric.spec.of_samples else srs
            value = float(np.mean([metric(sr, *others)[0] for sr in given]))
            # JSON has neither NaN nor infinity
            scores[name] = value if math.isfinite(value) else None
            if scores[name] is None:
                lines.append(f"{sample.name}: {name} is {value}")
    height, width = srs[0].shape[1:3]
    notes = list(dict.fromkeys(note for part in parts for note in part[3]))
    row = {"name": sample.name, "height": height, "width": width, "scores": scores, "notes": notes}
    return row, lines


def _aligned(
    sample: Sample, crop: int, crop_to_min: bool
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, list[str]]:
    """Returns SR, HR and LR over the same part of the scene, [1, H, W, 3] float32 in [0, 1]."""
    notes: list[str] = []
    pictures = {"SR": sample.sr, "HR": sample.hr, "LR": sample.lr}
    found = {kind: picture for kind, picture in pictures.items() if picture is not None}
    for kind, picture in found.items():
        alpha = picture.alpha
        if alpha is not None and (alpha < peak(alpha.dtype)).any():
            raise UserError(f"{kind} is transparent in parts; scores are of opaque pictures")
    shapes = {kind: picture.color.shape for kind, picture in found.items()}
    (height, width), scale = scored_size(
        shapes["SR"], shapes.get("HR"), shapes.get("LR"), crop_to_min=crop_to_min
    )
    sizes = [f"{kind} {_size(picture.color)}" for kind, picture in found.items() if kind != "LR"]
    if any(shape[:2] != (height, width) for kind, shape in shapes.items() if kind != "LR"):
        notes.append(f"{', '.join(sizes)}, both cut to {width}x{height}")
    grey = [kind for kind in ("SR", "HR") if kind in found and _colourless(found[kind])]
    if len(grey) == 1 and "HR" in found:  # BasicSR's convention, as for the Set14 of most papers
        notes.append(f"{grey[0]} is greyscale, scored as three equal channels")
    if min(height, width) < crop:
        raise UserError(f"{width}x{height} is smaller than the crop of {crop}")
    arrays = {}
    for kind, picture in found.items():
        if picture.color.dtype != np.uint8:
            notes.append(f"{kind} has {picture.color.dtype} samples, scored as they are")
        by = scale if kind == "LR" else 1
        arrays[kind] = unit(scored_part(picture.color, (height, width), crop, scale, by))[None]
    return arrays["SR"], arrays.get("HR"), arrays.get("LR"), notes


def scored_size(
    sr: tuple[int, ...],
    hr: tuple[int, ...] | None,
    lr: tuple[int, ...] | None,
    *,
    crop_to_min: bool = False,
) -> tuple[tuple[int, int], int]:
    """Returns (height, width) of the scene's part that all images of it show, and SR over LR.

    The shapes are (height, width, …). With an LR image the part is of whole LR pixels. An HR image
    whose sides are no multiples of the scale is larger or smaller than SR by less than the scale,
    which is cut at the right and bottom. Without an LR image nothing tells the scale: it is 1.

    Args:
        crop_to_min: cut, however much the sizes differ.

    Raises:
        UserError: the sizes do not belong together.
    """
    scale = 1
    if lr is not None:
        scale = sr[0] // lr[0]  # from the images: the files may be of any tool
        if tuple(sr[:2]) != tuple(scale * side for side in lr[:2]):
            raise UserError(f"SR {sr[1]}x{sr[0]} is no multiple of LR {lr[1]}x{lr[0]}")
    height, width = sr[:2] if hr is None else map(min, sr[:2], hr[:2])
    less = max(abs(a - b) for a, b in zip(sr[:2], (hr or sr)[:2], strict=True))
    if hr is not None and less >= scale and not crop_to_min:
        sizes = f"SR {sr[1]}x{sr[0]}, HR {hr[1]}x{hr[0]}"
        raise UserError(f"{sizes}: not the same size; --crop-to-min cuts both to the less")
    return (height // scale * scale, width // scale * scale), scale


def scored_part(
    image: np.ndarray, size: tuple[int, int], crop: int, scale: int, by: int = 1
) -> np.ndarray:
    """Returns the scored part of an image of a scene of `size` (height, width) in SR pixels.

    Args:
        crop: side of a square from the centre in SR pixels; 0: all. It begins at an LR pixel.
        scale: side of SR over that of LR.
        by: side of SR over that of `image`.
    """
    side = (crop, crop) if crop else size
    # rounded down to whole LR pixels, so that SR, HR and LR show the same part
    top, left = ((a - b) // 2 // scale * scale // by for a, b in zip(size, side, strict=True))
    return image[top : top + side[0] // by, left : left + side[1] // by]


def _colourless(picture: Picture) -> bool:
    """Returns True if all channels are equal, however the file stores them."""
    color = picture.color
    return picture.grey or bool((color == color[..., :1]).all())


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def _of_set(metric: Any, count: int, lines: list[str]) -> dict[str, float | int | None]:
    try:
        value = float(metric.value())
    except ValueError as error:  # too few images
        lines.append(f"{metric.spec.name}: {error}")
        return statistics.summary([])
    if not math.isfinite(value):
        lines.append(f"{metric.spec.name} is {value}")
        return statistics.summary([])
    return {**statistics.summary([value]), "n": count}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _hardware() -> str:
    device = jax.devices()[0]
    # processor() is empty where the system does not tell
    cpu = platform.processor() or platform.machine()
    # JAX calls every CPU just "cpu"
    kind = cpu if device.platform == "cpu" else device.device_kind
    return f"{device.platform} ({kind}), {os.cpu_count()} cores"


def write(result: Mapping[str, Any], path: Path) -> None:
    """Writes the result as JSON, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    # NaN is not JSON: an error here is better than a file that other readers reject
    paths.write(path, json.dumps(result, indent=1, allow_nan=False) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Reads a result that `write` has written.

    Raises:
        UserError: the file does not exist, is not JSON, or holds something else.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(result, dict) or result.get("kind") != KIND or result.get("format") != FORMAT:
        raise UserError(f"{path}: expected scores of format {FORMAT}, found something else")
    return result
