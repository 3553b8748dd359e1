"""Self-contained HTML pages: an evaluation's scores, and a wipe between any two views.

A page is written image by image, so that memory does not grow with their number. Its images are
text that the browser decodes only when they are viewed. `page.html`, `.css` and `.js` are its
parts; the page runs no other script and loads nothing (by its Content-Security-Policy).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import statistics
from maskgit_sr.evaluation.report import parts
from maskgit_sr.images import colormaps
from maskgit_sr.metrics.spec import OF_SETS

Result = Mapping[str, Any]
_FOOTER = (
    "Pictures here are lossy copies (WebP, quality {quality}); scores are of the originals. Copies "
    "smaller than HR are shown enlarged and are kept without loss. Error maps are |picture − HR| "
    "of the originals, the mean of R, G and B; their brightest colour is {peak} of 255 and above, "
    "in every picture."
)
Views = Callable[[str], Mapping[str, np.ndarray]]


def write(folder: Path, results: Sequence[Result], views: Views, *, quality: int = 90) -> Path:
    """Writes `folder`/index.html, whole or not at all.

    Args:
      folder: created if missing.
      results: of `evaluator.evaluate`, of one or more systems on the same images, ours first.
      views: maps the name of a scene to its views by label, in the order to be shown; called once
        per scene, in order. uint8 [H, W, 3] is an image: "LR", "HR", and systems under their names;
        images smaller than HR are shown enlarged, and those of its size get an error map. uint8
        [h, w] is a map of values from 0 (at 0) to 1 (at 255), such as "confidence".
      quality: of the WebP copies, 0 to 100. Views smaller than HR are copied without loss.
    Returns:
      The path of the page.
    Raises:
      UserError: the results cannot stand in one table, or the page cannot be written.
    """
    if not results:
        raise UserError("report: expected the scores of one system or more, found none")
    systems = [result["system"] for result in results]
    if twice := [name for name in systems if systems.count(name) > 1]:
        raise UserError(f"report: expected systems of different names, found '{twice[0]}' twice")
    statistics.check_alike(results)
    path = Path(folder) / "index.html"
    metrics = _metrics(results)
    names = list(dict.fromkeys(row["name"] for result in results for row in result["images"]))
    ours, *peers = (parts.escape(result["system"]) for result in results)
    scores = {
        "summary": parts.summary(results, metrics),
        "best_note": " Bold: the best of its column." if peers else "",
        "terms": parts.terms(metrics),
    }
    values = {
        "kind": "Evaluation report",
        "title": f"{ours}: evaluation report",
        "heading": ours,
        "lead": f'<p class="lead">beside {", ".join(peers)}</p>' if peers else "",
        "facts": parts.facts(results),
        "problems": parts.problems(results),
        "scores": parts.filled(_part("scores.html"), scores),
        "footer": _FOOTER.format(quality=quality, peak=colormaps.ERROR_PEAK),
        "data": parts.data(_data(results, metrics, names)),
    }
    write_page(path, values, names, views, quality)
    return path


# ---------------------------------------------------------------- the page


def write_page(
    path: Path, values: Mapping[str, str], names: Sequence[str], views: Views, quality: int
) -> None:
    """Writes a page, whole or not at all.

    Args:
        values: texts of page.html by their names, in HTML; ``data`` is what page.js takes.
        names: of the scenes; they and `views` as for `write`.
    """
    with paths.whole(path) as part:
        for chunk in _page(values, names, views, quality):
            # `views` are made outside: an OSError of theirs is not about the page
            with paths.naming(path), part.open("a", encoding="utf-8", newline="\n") as file:
                file.write(chunk)


def _page(
    values: Mapping[str, str], names: Sequence[str], views: Views, quality: int
) -> Iterator[str]:
    script = _part("page.js")
    values = {
        "script_hash": parts.script_hash(script),
        "error_ramp": colormaps.css(colormaps.ERROR),
        "map_ramp": colormaps.css(colormaps.CONFIDENCE),
        "peak": str(colormaps.ERROR_PEAK),
        "style": _part("page.css"),
        "script": script,
        **values,
    }
    head, tail = parts.filled(_part("page.html"), values).split("<!-- pictures -->\n")
    yield head
    for index, name in enumerate(names):
        yield from _pictures(index, views(name), quality)
    yield tail


def _part(name: str) -> str:
    return (resources.files("maskgit_sr.evaluation.report") / name).read_text(encoding="utf-8")


def _metrics(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns all metrics in the table's order; `rows` is True if single images are scored."""
    found: dict[str, Mapping[str, Any]] = {}
    for result in results:
        found |= result["protocol"]["metrics"]
    listed = []
    for key, spec in found.items():
        means = [result["summary"].get(key, {}).get("mean") for result in results]
        large = any(abs(mean or 0) >= 10 for mean in means)
        listed.append(
            {
                **{name: spec[name] for name in ("unit", "better", "text")},
                "key": key,
                "name": _metric_name(key),
                "digits": 2 if spec["unit"] == "dB" or large else 4,
                "rows": spec["needs"] not in OF_SETS,
            }
        )
    return listed


def _metric_name(key: str) -> str:
    """Returns the name to show: psnr_rgb → PSNR RGB, ms_ssim_y → MS-SSIM Y."""
    text = key.replace("ms_ssim", "ms-ssim").replace("lr_psnr", "lr-psnr")
    first, *rest = text.split("_")
    return " ".join([first.upper(), *(w.upper() if w in ("rgb", "y") else w for w in rest)])


def _data(
    results: Sequence[Result], metrics: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Any]:
    """Returns the scores from which page.js builds its tables."""
    systems = [parts.writable(result["system"]) for result in results]
    by_name = [{row["name"]: row for row in result["images"]} for result in results]
    shown = [metric for metric in metrics if metric["rows"]]
    images = []
    for name in names:
        rows = {s: rows[name] for s, rows in zip(systems, by_name, strict=True) if name in rows}
        some = next(iter(rows.values()))
        scores = [rows[s]["scores"] if s in rows else {} for s in systems]
        notes = [(s, note) for s, row in rows.items() for note in row["notes"]]
        images.append(
            {
                "name": parts.writable(name),
                "height": some["height"],
                "width": some["width"],
                "scores": [[own.get(metric["key"]) for metric in shown] for own in scores],
                "notes": [
                    parts.writable(note if len(results) == 1 else f"{s}: {note}")
                    for s, note in notes
                ],
            }
        )
    kept = ("key", "name", "better", "digits")
    return {
        "systems": systems,
        "metrics": [{key: metric[key] for key in kept} for metric in shown],
        "images": images,
    }


# ---------------------------------------------------------------- pictures


def _pictures(index: int, views: Mapping[str, np.ndarray], quality: int) -> Iterator[str]:
    """Yields the elements of one scene: its views as text, then their labels and sizes."""
    for label, array in views.items():
        color = array.ndim == 3 and array.shape[2] == 3
        if array.dtype != np.uint8 or not (color or array.ndim == 2) or 0 in array.shape:
            raise ValueError(f"{label}: expected uint8 [H,W,3] or [H,W], found {array.shape}")
    pictures = {label: array for label, array in views.items() if array.ndim == 3}
    hr = pictures.get("HR")
    full = hr if hr is not None else max(pictures.values(), key=np.size, default=None)
    listed = []
    for number, (label, array) in enumerate(views.items()):
        key = f"p{index}-{number}"
        color = array.ndim == 3
        copy = array if color else colormaps.CONFIDENCE[array]
        small = full is not None and copy.size < full.size
        made = [("picture" if color else "map", key, label, copy, None if small else quality)]
        if hr is not None and label not in ("HR", "LR") and array.shape == hr.shape:
            # of the samples themselves rather than of their lossy copies
            error = colormaps.error(array, hr)
            made.append(("error", f"{key}-error", f"error of {label}", error, quality))
        for kind, identifier, text, image, lossy in made:
            height, width = image.shape[:2]
            text = parts.writable(text)
            size = {"width": width, "height": height}
            listed.append({"label": text, "kind": kind, "id": identifier, **size})
            yield parts.picture(identifier, image, lossy)
    # a stable sort: images come first, and each kind keeps its order
    listed.sort(key=lambda one: one["kind"] != "picture")
    height, width = (0, 0) if full is None else full.shape[:2]
    data = parts.data({"width": width, "height": height, "pictures": listed})
    yield f'<script type="application/json" id="views-{index}">{data}</script>\n'
