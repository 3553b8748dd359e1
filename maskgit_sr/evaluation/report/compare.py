"""Self-contained HTML page of restored images beside what they were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskgit_sr import images
from maskgit_sr.evaluation.report import page, parts
from maskgit_sr.images.decode import header_size
from maskgit_sr.images.samples import cast

MAX_SIDE = 4096
"""Longest side of a copy on the page, in pixels; larger ones are reduced."""
QUALITY = 90


class Scene(NamedTuple):
    """An image: the file that it was made of, and its outputs by the labels to show.

    Maps are grey files from 0, black, to 1.
    """

    source: Path
    outputs: Mapping[str, Path]
    maps: Mapping[str, Path] = {}


def write(path: Path, scenes: Sequence[Scene], model: str) -> None:
    """Writes a page of scenes, whole or not at all; files are read one after the other.

    Args:
        model: its name, to be shown.

    Raises:
        UserError: an image that cannot be read, or a page that cannot be written.
    """
    names = [str(scene.source) for scene in scenes]
    by_name = dict(zip(names, scenes, strict=True))
    listed = []
    for name, scene in by_name.items():
        first = next(iter(scene.outputs.values()))
        with first.open("rb") as file:
            height, width = header_size(file)
        size = {"height": height, "width": width}
        listed.append({"name": parts.writable(name), **size, "scores": [[]], "notes": []})
    heading = parts.escape(names[0] if len(names) == 1 else f"{len(names)} pictures")
    data = {"systems": [next(iter(scenes[0].outputs))], "metrics": [], "images": listed}
    values = {
        "kind": "Before and after",
        "title": f"{heading}: before and after",
        "heading": heading,
        "lead": f'<p class="lead">restored by {parts.escape(model)}</p>',
        "facts": "",
        "problems": "",
        "scores": "",
        "footer": f"Pictures here are copies of at most {MAX_SIDE} pixels a side, lossy (WebP, "
        f"quality {QUALITY}) but for inputs, which are shown enlarged.",
        "data": parts.data(data | {"opened": True}),
    }

    def views(name: str) -> dict[str, np.ndarray]:
        scene = by_name[name]
        files = {"input": scene.source, **scene.outputs}
        maps = {label: _copy(file)[..., 0] for label, file in scene.maps.items()}
        return {label: _copy(file) for label, file in files.items()} | maps

    page.write_page(path, values, names, views, QUALITY)


def _copy(path: Path) -> np.ndarray:
    """Returns uint8 [H, W, 3], transparency over white, of at most `MAX_SIDE` a side."""
    picture = images.read(path)
    color = cast(picture.color, np.uint8)
    if picture.alpha is not None:
        opaque = cast(picture.alpha, np.float32)[..., None]
        color = np.rint(color * opaque + 255 * (1 - opaque)).astype(np.uint8)
    height, width = color.shape[:2]
    reduced = MAX_SIDE / max(height, width)
    if reduced < 1:
        color = images.resize(color, *(max(1, round(side * reduced)) for side in (height, width)))
    return color
