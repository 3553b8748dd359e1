"""One HTML page of an evaluation that needs nothing else: scores, and a wipe between any two views.

The page is written picture by picture, so that memory does not grow with their number. Its pictures
are text that the browser decodes when they are looked at. `page.html`, `.css` and `.js` are its
parts; the page runs no other script and loads nothing (its Content-Security-Policy says so).
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation.report import parts
from maskgit_sr.images import colormaps
from maskgit_sr.images.encode import MAX_SIDE

Result = Mapping[str, Any]
Views = Callable[[str], Mapping[str, np.ndarray]]


def write(folder: Path, results: Sequence[Result], views: Views, *, quality: int = 90) -> Path:
    """Writes `folder`/index.html, whole or not at all.

    Args:
      folder: made if missing.
      results: of `evaluator.evaluate`, of one or more systems on the same images, ours first.
      views: name → the pictures of an image by label, in the order to be shown; called once per
        image, in order. uint8 [H, W, 3] is a picture: "LR", "HR", and systems under their names;
        pictures smaller than HR are shown enlarged, and those of its size get an error map. uint8
        [h, w] is a map of values from 0 (at 0) to 1 (at 255), such as "confidence".
      quality: of the WebP copies, 0 to 100. What is smaller than HR is copied without loss.
    Returns:
      The path of the page.
    Raises:
      UserError: the results cannot stand in one table, or the page cannot be written.
    """
    _check(results)
    path = Path(folder) / "index.html"
    _write(path, _page(results, views, quality))
    return path


def _check(results: Sequence[Result]) -> None:
    if not results:
        raise UserError("report: expected the scores of one system or more, found none")
    first, texts = results[0], dict[str, str]()
    systems = [result["system"] for result in results]
    if twice := [name for name in systems if systems.count(name) > 1]:
        raise UserError(f"report: expected systems of different names, found '{twice[0]}' twice")
    for result in results:
        crops = [(one["protocol"].get("crop") or 0) for one in (first, result)]
        if crops[0] != crops[1]:
            raise UserError(
                f"report: '{first['system']}' was scored with crop {crops[0]},"
                f" '{result['system']}' with crop {crops[1]}"
            )
        for key, metric in result["protocol"]["metrics"].items():
            if texts.setdefault(key, metric["text"]) != metric["text"]:
                raise UserError(
                    f"report: {key} was measured in two ways: {texts[key]}; and {metric['text']}"
                )


def _write(path: Path, chunks: Iterable[str]) -> None:
    with paths.whole(path) as part:
        with paths.naming(path):
            file = part.open("w", encoding="utf-8", newline="\n")
        with file:
            for chunk in chunks:  # an OSError of `views` is not about the page
                with paths.naming(path):
                    file.write(chunk)
            with paths.naming(path):
                file.flush()


# ---------------------------------------------------------------- the page


def _page(results: Sequence[Result], views: Views, quality: int) -> Iterator[str]:
    metrics = _metrics(results)
    names = list(dict.fromkeys(row["name"] for result in results for row in result["images"]))
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ours, *peers = (parts.escape(result["system"]) for result in results)
    lossy = (
        f"Pictures here are lossy copies (WebP, quality {quality}); scores are of the originals."
    )
    values = {
        "script_hash": f"'sha256-{digest}'",
        "title": f"{ours}: evaluation report",
        "heading": ours,
        "lead": f'<p class="lead">beside {", ".join(peers)}</p>' if peers else "",
        "facts": parts.facts(results),
        "problems": parts.problems(results),
        "summary": parts.summary(results, metrics),
        "best_note": " Bold: the best of its column." if peers else "",
        "terms": parts.terms(metrics),
        "footer": f"{lossy} Copies smaller than HR are shown enlarged and are kept without loss."
        f" Error maps are |picture − HR| of the originals, the mean of R, G and B; their brightest"
        f" colour is {colormaps.ERROR_PEAK} of 255 and above, in every picture.",
        "lossy": lossy,
        "error_ramp": colormaps.css(colormaps.ERROR),
        "map_ramp": colormaps.css(colormaps.CONFIDENCE),
        "style": _part("page.css"),
        "script": script,
        "data": parts.data(_data(results, metrics, names)),
    }
    page = re.sub(r"{{(\w+)}}", lambda found: values[found[1]], _part("page.html"))
    head, tail = page.split("<!-- pictures -->\n")
    yield head
    for index, name in enumerate(names):
        yield from _pictures(index, views(name), quality)
    yield tail


def _part(name: str) -> str:
    return (resources.files("maskgit_sr.evaluation.report") / name).read_text(encoding="utf-8")


def _metrics(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns all metrics in the order of the table; `rows` is True if single images have it."""
    found: dict[str, Mapping[str, Any]] = {}
    for result in results:
        found = {**result["protocol"]["metrics"], **found}
    order = dict.fromkeys(key for result in results for key in result["protocol"]["metrics"])
    listed = []
    for key in order:
        means = (result["summary"].get(key, {}).get("mean") for result in results)
        sizes = [abs(mean) for mean in map(parts.number, means) if mean is not None]
        unit = found[key].get("unit") or ""
        listed.append(
            {
                "key": key,
                "name": _metric_name(key),
                "unit": unit,
                "better": found[key].get("better"),
                "text": found[key]["text"],
                "needs": found[key].get("needs", "reference"),
                "digits": 2 if unit == "dB" or max(sizes, default=0) >= 10 else 4,
                "rows": found[key].get("needs") != "set",
            }
        )
    return listed


def _metric_name(key: str) -> str:
    """psnr_rgb → PSNR RGB, ms_ssim_y → MS-SSIM Y, lpips_alex → LPIPS alex."""
    text = key.replace("ms_ssim", "ms-ssim").replace("lr_psnr", "lr-psnr")
    first, *rest = text.split("_")
    return " ".join([first.upper(), *(w.upper() if w in ("rgb", "y") else w for w in rest)])


def _data(
    results: Sequence[Result], metrics: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Any]:
    """Returns the scores from which page.js builds its tables."""
    rows = [{row["name"]: row for row in result["images"]} for result in results]
    shown = [metric for metric in metrics if metric["rows"]]
    images = []
    for name in names:
        own = [by_name.get(name) for by_name in rows]
        there = [row for row in own if row is not None]
        images.append(
            {
                "name": parts.writable(name),
                "height": there[0]["height"],
                "width": there[0]["width"],
                "scores": [
                    [parts.number((row or {"scores": {}})["scores"].get(m["key"])) for m in shown]
                    for row in own
                ],
                "notes": [
                    parts.writable(note if len(results) == 1 else f"{result['system']}: {note}")
                    for result, row in zip(results, own, strict=True)
                    for note in (row or {}).get("notes", ())
                ],
            }
        )
    reference = [i for i, metric in enumerate(shown) if metric["needs"] == "reference"]
    return {
        "systems": [parts.writable(result["system"]) for result in results],
        "metrics": [{k: m[k] for k in ("key", "name", "better", "digits")} for m in shown],
        "images": images,
        "first": reference[0] if reference else 0,
        "peak": colormaps.ERROR_PEAK,
    }


# ---------------------------------------------------------------- pictures


def _pictures(index: int, views: Mapping[str, np.ndarray], quality: int) -> Iterator[str]:
    """Yields the elements of one image: its pictures as text, then their labels and sizes."""
    for label, array in views.items():
        color = array.ndim == 3 and array.shape[2] == 3
        if array.dtype != np.uint8 or not (color or array.ndim == 2) or 0 in array.shape:
            raise ValueError(f"{label}: expected uint8 [H,W,3] or [H,W], found {array.shape}")
    pictures = {label: array for label, array in views.items() if array.ndim == 3}
    hr = pictures.get("HR")
    full = hr if hr is not None else max(pictures.values(), key=np.size, default=None)
    listed: dict[str, list[dict[str, Any]]] = {"pictures": [], "maps": []}
    for number, (label, array) in enumerate(views.items()):
        key = f"p{index}-{number}"
        height, width = array.shape[:2]
        entry = {"label": parts.writable(label), "width": width, "height": height, "id": key}
        shown = array if array.ndim == 3 else colormaps.CONFIDENCE[array]
        small = full is not None and shown.size < full.size
        yield _element(key, shown, None if small else quality)
        if hr is not None and label not in ("HR", "LR") and array.shape == hr.shape:
            entry["error"] = f"{key}-error"
            yield _element(f"{key}-error", colormaps.error(array, hr), quality)
        listed["pictures" if array.ndim == 3 else "maps"].append(entry)
    height, width = (0, 0) if full is None else full.shape[:2]
    text = parts.data({"width": width, "height": height, **listed})
    yield f'<script type="application/json" id="views-{index}">{text}</script>\n'


def _element(key: str, picture: np.ndarray, quality: int | None) -> str:
    """Returns a picture as a data URI that nothing decodes yet; lossless if `quality` is None."""
    kind = "WEBP" if max(picture.shape) <= MAX_SIDE["WEBP"] else "PNG"
    options: dict[str, Any] = {"lossless": True} if quality is None else {"quality": quality}
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **(options if kind == "WEBP" else {}))
    data = base64.b64encode(buffer.getbuffer()).decode()
    return (
        f'<script type="text/plain" id="{key}">data:image/{kind.lower()};base64,{data}</script>\n'
    )
