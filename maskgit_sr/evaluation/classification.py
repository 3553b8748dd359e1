"""Classification errors on restored crops: SR3's table 3 (Saharia et al. 2023, section 4.2.1).

As Sajjadi et al. 2017 and Zhang et al. 2018 did: ResNet-50 on the centre of 224x224 of photographs
of ImageNet, and on what is restored from that crop after it was shrunk, from 56x56 at x4. SR3 took
the first 1,000 of the validation set; its baseline, the crops themselves, is 0.252 and 0.080.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from maskgit_sr import assets, errors, images, paths
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import statistics
from maskgit_sr.evaluation.labels import Labelled
from maskgit_sr.images.samples import cast, unit
from maskgit_sr.inference.results import finish
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.ops.resize import downsample_bicubic
from maskgit_sr.perceptual import published, resnet

FORMAT = 1
KIND = "maskgit_sr classification"
WEIGHTS = "resnet50.safetensors"
TOP = 5
_SHORT = 256  # side that torchvision shrinks to before it cuts 224
_BATCH = 16
_NETWORK = "torchvision's ResNet, RGB in [0,1] normalised as ImageNet"
_CUT = (
    f"centre {resnet.SIDE}x{resnet.SIDE} after the shorter side was resized to {_SHORT} (bilinear, "
    f"antialiased); pictures of {resnet.SIDE}x{resnet.SIDE} as they are"
)

Crop = np.ndarray
"""uint8 [224, 224, 3]."""


class Classifier(NamedTuple):
    """A network: `logits` maps images [B,224,224,3] in [0,1] to [B,classes]."""

    logits: Callable[[np.ndarray], np.ndarray]
    classes: int
    sha256: str


def load(file: Path | None = None) -> Classifier:
    """Reads a ResNet, by default the one that `assets.find` finds.

    Raises:
        UserError: the file is absent or another network.
    """
    path = assets.find(WEIGHTS, file)
    params = published.load(path, resnet.read, resnet.logits, images=1)
    apply = jax.jit(resnet.logits)

    def logits(x: np.ndarray) -> np.ndarray:
        # Filled up, since another batch size would compile another program.
        take = np.minimum(np.arange(_BATCH), len(x) - 1)
        return np.asarray(apply(params, jnp.asarray(x[take])))[: len(x)]

    return Classifier(logits, len(params["fc"]["bias"]), assets.digest(path))


# ---------------------------------------------------------------- systems


def crop(color: np.ndarray) -> Crop:
    """Returns the centre of uint8 [H, W, 3] that ImageNet's classifiers take."""
    height, width = color.shape[:2]
    side = resnet.SIDE
    if (height, width) != (side, side):
        # As torchvision: the longer side is cut to whole pixels, and the centre rounded.
        scale = _SHORT / min(height, width)
        size = [_SHORT if s == min(height, width) else int(s * scale) for s in (width, height)]
        color = np.asarray(Image.fromarray(color).resize(size, Image.Resampling.BILINEAR))
        top, left = (round((s - side) / 2) for s in color.shape[:2])
        color = color[top : top + side, left : left + side]
    return color


def shrunk(picture: Crop, scale: int) -> np.ndarray:
    """Returns the crop at 1/scale of its side, uint8, by MATLAB's antialiased bicubic."""
    # rounded once, at the end, as a file of it would be
    exact: Any = picture[None].astype(np.float64)
    return np.asarray(downsample_bicubic(exact, scale)[0]).clip(0, 255).round().astype(np.uint8)


System = Callable[[Sequence[Crop]], Sequence[Crop]]


def systems(upscaler: Upscaler | None, name: str, seed: int, **options: Any) -> dict[str, System]:
    """Returns what is classified: the crops, and with a model bicubic and its output.

    Raises:
        UserError: the model's scale does not divide 224.
    """
    found: dict[str, System] = {"photographs" if upscaler else "pictures": lambda crops: crops}
    if upscaler is None:
        return found
    model, scale = upscaler, upscaler.method.scale
    if resnet.SIDE % scale:
        raise UserError(f"--model: expected a scale that divides {resnet.SIDE}, found {scale}")
    chosen = model.options(**{"confidence": False, **options})

    def bicubic(crops: Sequence[Crop]) -> list[Crop]:
        return [images.resize(shrunk(one, scale), resnet.SIDE, resnet.SIDE) for one in crops]

    def restored(crops: Sequence[Crop]) -> list[Crop]:
        small = [images.from_array(shrunk(one, scale)) for one in crops]
        mosaics = [model.mosaic(picture, chosen) for picture in small]
        done = model.complete(mosaics, chosen, seed)
        return [
            finish(picture, mosaic.color, scale).color
            for picture, mosaic in zip(small, done, strict=True)
        ]

    return found | {"bicubic": bicubic, name: restored}


# ---------------------------------------------------------------- errors


def measure(
    entries: Sequence[Labelled],
    compared: dict[str, System],
    classifier: Classifier,
    *,
    source: dict[str, Any],
    problems: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Returns the top-1 and top-5 errors of each system, as plain JSON values.

    A photograph that cannot be read, restored or classified is left out and told.
    """
    lines = list(problems)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(entries), _BATCH):
        part = entries[start : start + _BATCH]
        rows += _rows(part, compared, classifier, lines)
        if progress is not None:
            progress(start + len(part), len(entries))
    summary = {}
    for name in compared:
        ranks = [row["ranks"][name] for row in rows]
        summary[name] = {
            f"top{k}_error": statistics.proportion(sum(rank >= k for rank in ranks), len(ranks))
            for k in (1, TOP)
        }
    return {
        "format": FORMAT,
        "kind": KIND,
        "protocol": f"{_NETWORK}, weights {classifier.sha256[:8]}; {_CUT}",
        "classifier": {"sha256": classifier.sha256, "classes": classifier.classes},
        "source": source,
        "images": rows,
        "problems": lines,
        "summary": summary,
        "counts": {"classified": len(rows), "of": len(entries) + len(problems)},
    }


def _rows(
    part: Sequence[Labelled],
    compared: dict[str, System],
    classifier: Classifier,
    lines: list[str],
) -> Iterator[dict[str, Any]]:
    """Yields name, label and, by system, the rank of the label among the logits, 0 if highest."""
    kept, crops = [], []
    for entry in part:
        try:
            crops.append(crop(cast(images.read(entry.path).color, np.uint8)))
        except Exception as error:  # of one photograph, memory included
            lines.append(errors.failure(error, entry.name))
        else:
            kept.append(entry)
    if not kept:
        return
    try:
        ranks = {
            name: _ranks(classifier.logits(unit(np.stack(system(crops)))), kept)
            for name, system in compared.items()
        }
    except Exception as error:
        if len(kept) == 1:
            lines.append(errors.failure(error, kept[0].name))
            return
        for entry in kept:  # one by one, since only one of them need be the cause
            yield from _rows([entry], compared, classifier, lines)
        return
    for i, entry in enumerate(kept):
        own = {name: int(found[i]) for name, found in ranks.items()}
        yield {"name": entry.name, "label": entry.label, "ranks": own}


def _ranks(logits: np.ndarray, entries: Sequence[Labelled]) -> np.ndarray:
    # NaN is above nothing, so that the label would rank first.
    if not np.isfinite(logits).all():
        raise UserError("the classifier's output is not finite")
    own = logits[np.arange(len(entries)), [entry.label for entry in entries]]
    return (logits > own[:, None]).sum(1)


def write(result: dict[str, Any], path: Path) -> None:
    """Writes a result as JSON, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    paths.write(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
