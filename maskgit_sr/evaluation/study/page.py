"""Page of a two-alternative forced-choice study: SR3's (Saharia et al. 2023, section 4.2.2).

A subject sees a photograph and an output of it side by side for 3 seconds and then says which one
is which. Task 1 has the low-resolution input between the two and asks for the better high-quality
version of it, task 2 has the two alone and asks which one is from a camera.

The page is one file that loads nothing. It is written scene by scene, so that memory does not grow
with their number; all pictures are without loss, since a lossy copy would tell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_sr import errors, images, paths
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation.evaluator import scored_part, scored_size
from maskgit_sr.evaluation.report import parts
from maskgit_sr.images.pairing import Entry
from maskgit_sr.images.samples import cast

QUESTIONS = {
    1: "Which of the two images is a better high quality version of the low resolution image in "
    "the middle?",
    2: "Which image would you guess is from a camera?",
}
_MIDDLE = '<img id="picture-middle" alt="low-resolution picture" draggable="false">\n    '


def write(
    folder: Path,
    entries: Sequence[Entry],
    systems: Sequence[str],
    *,
    task: int,
    seconds: float = 3,
    trials: int = 50,
    crop: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, int, list[str]]:
    """Writes `folder`/index.html, whole or not at all.

    Args:
        entries: with `hr`, an output of each system (`sr` and `more`), and `lr` for task 1.
        systems: their names, different from each other.
        task: 1 or 2.
        seconds: for which the pictures are shown.
        trials: pairs that a subject sees, each of another scene.
        crop: side of a square from the centre that is shown; 0: all.

    Returns:
        The path, the number of scenes, and a line for each that could not be used.

    Raises:
        UserError: no scene can be used, or the page cannot be written.
    """
    path = folder / "index.html"
    scenes: list[dict[str, Any]] = []
    problems: list[str] = []
    head, tail = _part("study.html").split("<!-- pictures -->\n")
    script = _part("study.js")
    values = _values(script, task, seconds)
    with paths.whole(path) as part:
        with paths.naming(path):
            part.write_text(parts.filled(head, values), encoding="utf-8", newline="\n")
        for number, entry in enumerate(entries):
            try:
                elements, size = _scene(entry, len(scenes), task, crop)
            except Exception as error:  # of one scene, memory included
                problems.append(errors.failure(error, entry.name))
            else:
                scenes.append({"name": parts.writable(entry.name), **size})
                _append(path, part, elements)
            if progress is not None:
                progress(number + 1, len(entries))
        if not scenes:
            raise UserError(f"study: no scene can be used: {problems[0]}")
        data = {
            "task": task,
            "seconds": seconds,
            "trials": min(trials, len(scenes)),
            "systems": [parts.writable(name) for name in systems],
            "scenes": scenes,
        }
        # by which answers to two studies are told apart
        data["study"] = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:8]
        _append(path, part, [parts.filled(tail, {"script": script, "data": parts.data(data)})])
    return path, len(scenes), problems


def _append(path: Path, part: Path, texts: Iterable[str]) -> None:
    with paths.naming(path), part.open("a", encoding="utf-8", newline="\n") as file:
        file.writelines(texts)


def _values(script: str, task: int, seconds: float) -> dict[str, str]:
    between = " and, between them, a small one enlarged" if task == 1 else ""
    return {
        "script_hash": parts.script_hash(script),
        "style": _part("study.css"),
        "question": parts.escape(QUESTIONS[task]),
        "what": f"two pictures of the same scene{between}",
        "seconds": f"{seconds:g}",
        "middle": _MIDDLE if task == 1 else "",
    }


def _scene(entry: Entry, index: int, task: int, crop: int) -> tuple[Iterator[str], dict[str, int]]:
    """Returns the elements of a scene's pictures, and its size."""
    assert entry.hr is not None and entry.sr is not None
    hr, *outputs = (_read(path) for path in (entry.hr, entry.sr, *entry.more))
    lr = None if entry.lr is None else _read(entry.lr)
    found = []
    for output in outputs:
        shapes = output.shape, hr.shape, None if lr is None else lr.shape
        part, scale = scored_size(*shapes, crop_to_min=True)
        if max(abs(a - b) for a, b in zip(output.shape, hr.shape, strict=True)) >= scale:
            sizes = " and ".join(f"{one.shape[1]}x{one.shape[0]}" for one in (output, hr))
            raise UserError(f"expected output and reference of one size, found {sizes}")
        found.append((part, scale))
    if len(set(found)) > 1:
        sizes = " and ".join(sorted({f"{w}x{h}" for (h, w), _ in found}))
        raise UserError(f"expected outputs of one size, found {sizes}")
    size, scale = found[0]
    if min(size) < crop:
        raise UserError(f"{size[1]}x{size[0]} is smaller than the crop of {crop}")
    pictures = {str(k): scored_part(one, size, crop, scale, 1) for k, one in enumerate(outputs)}
    pictures["hr"] = scored_part(hr, size, crop, scale, 1)
    height, width = pictures["hr"].shape[:2]
    if task == 1:
        assert lr is not None
        small = scored_part(lr, size, crop, scale, scale)
        pictures["lr"] = images.resize(small, height, width)
    elements = (parts.picture(f"s{index}-{key}", one, None) for key, one in pictures.items())
    return elements, {"width": width, "height": height}


def _read(path: Path) -> np.ndarray:
    return cast(images.read(path).color, np.uint8)


def _part(name: str) -> str:
    return (resources.files("maskgit_sr.evaluation.study") / name).read_text(encoding="utf-8")
