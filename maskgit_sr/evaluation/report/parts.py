"""Static parts of a report's page, and what every page needs: text, pictures, the script."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from maskgit_sr.images.encode import MAX_SIDE

Result = Mapping[str, Any]

_BETTER = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}
_FEW_PROBLEMS = 5


def facts(results: Sequence[Result]) -> str:
    """Returns protocol, counts, source and versions; one line per system where they differ."""

    def protocol(result: Result) -> str:
        found = result["protocol"]
        crop, border = found["crop"], found["border"]
        part = f"square of {crop} px from the centre" if crop else "whole pictures"
        cut = f"border of {border} px cut" if border else "no border cut"
        text = f": {found['text']}" if found["text"] else ""
        return f"{found['name']}{text} ({part}, {cut})"

    def scored(result: Result) -> str:
        return f"{result['counts']['scored']} of {result['counts']['of']} scored"

    def listed(key: str) -> Callable[[Result], str]:
        return lambda result: " · ".join(f"{k} {v}" for k, v in result[key].items() if v)

    rows = {
        "Protocol": protocol,
        "Images": scored,
        "Source": listed("source"),
        "Hardware": lambda result: str(result["hardware"]),
        "Versions": listed("versions"),
    }
    parts = []
    for title, words in rows.items():
        lines = [words(result) for result in results]
        if len(set(lines)) == 1:
            lines = lines[:1]
        else:
            lines = [f"{r['system']}: {line}" for r, line in zip(results, lines, strict=True)]
        shown = "".join(f"<dd>{escape(line)}</dd>" for line in lines)
        parts.append(f"<dt>{title}</dt>{shown}")
    return "".join(parts)


def problems(results: Sequence[Result]) -> str:
    """Returns the list of problems, folded if it is long.

    A line that all systems share is listed once.
    """
    systems: dict[str, list[str]] = {}
    for result in results:
        for line in result["problems"]:
            systems.setdefault(line, []).append(result["system"])
    lines = [
        line if len(those) == len(results) else f"{', '.join(those)}: {line}"
        for line, those in systems.items()
    ]
    if not lines:
        return ""
    title = f"{len(lines)} problem{'s' if len(lines) > 1 else ''}"
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    state = " open" if len(lines) <= _FEW_PROBLEMS else ""
    return f'<details class="notice"{state}><summary>{title}</summary><ul>{items}</ul></details>'


def summary(results: Sequence[Result], metrics: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of means: a row per system, a column per metric."""
    heads, best = [], {}
    for metric in metrics:
        means = [r["summary"].get(metric["key"], {}).get("mean") for r in results]
        finite = [mean for mean in means if mean is not None]
        if len(results) > 1 and finite and metric["better"] in _BETTER:
            best[metric["key"]] = (max if metric["better"] == "higher" else min)(finite)
        arrow, hint = _BETTER.get(metric["better"], ("", ""))
        unit = f' <span class="unit">{escape(metric["unit"])}</span>' if metric["unit"] else ""
        heads.append(
            f'<th scope="col" title="{escape(metric["text"])}">{escape(metric["name"])}{unit}'
            f' <span aria-hidden="true">{arrow}</span><span class="hidden">{hint}</span></th>'
        )
    rows = []
    for result in results:
        cells = (_cell(result, metric, best.get(metric["key"])) for metric in metrics)
        rows.append(f'<tr><th scope="row">{escape(result["system"])}</th>{"".join(cells)}</tr>')
    return (
        f'<table><thead><tr><th scope="col">System</th>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(result: Result, metric: Mapping[str, Any], best: float | None) -> str:
    entry = result["summary"].get(metric["key"], {})
    mean, low, high = (entry.get(key) for key in ("mean", "low", "high"))
    if mean is None:
        return "<td>–</td>"

    def shown(value: float) -> str:
        return f"{value:.{metric['digits']}f}".replace("-", "−")

    lines = []
    if low is not None and high is not None:
        lines.append(f"{shown(low)} – {shown(high)}")
    if entry.get("n") != result["counts"]["scored"]:
        lines.append(f"n = {entry.get('n')}")
    ranges = "".join(f'<span class="range">{line}</span>' for line in lines)
    mark = ' class="best"' if mean == best else ""
    return f"<td{mark}>{shown(mean)}{ranges}</td>"


def terms(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Returns a definition of each metric."""
    return "".join(
        f"<dt>{escape(metric['name'])}</dt><dd>{escape(metric['text'])}</dd>" for metric in metrics
    )


# ---------------------------------------------------------------- text


def writable(value: Any) -> str:
    """Returns the text as valid UTF-8; file names may hold lone surrogates."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def escape(value: Any) -> str:
    """Returns the text escaped for HTML, inside quotes too."""
    return html.escape(writable(value))


def data(value: Any) -> str:
    """Returns JSON in ASCII that cannot end a script element, nor begin another or a comment."""
    # JSON.parse knows no NaN
    return json.dumps(value, allow_nan=False).replace("<", r"\u003c")


def filled(template: str, values: Mapping[str, Any]) -> str:
    """Returns a template with each {{name}} replaced by its value."""
    # in one pass, so that braces inside a value are not replaced
    return re.sub(r"{{(\w+)}}", lambda found: str(values[found[1]]), template)


def script_hash(script: str) -> str:
    """Returns the source by which a page's policy admits this script, and no other."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def picture(key: str, array: np.ndarray, quality: int | None) -> str:
    """Returns uint8 [H, W, 3] as an element with a data URI that nothing decodes yet.

    Args:
        key: id of the element.
        quality: of the WebP, 0 to 100; None: without loss.
    """
    # a WebP has at most 16,383 pixels a side
    kind = "WEBP" if max(array.shape) <= MAX_SIDE["WEBP"] else "PNG"
    options: dict[str, Any] = {"lossless": True} if quality is None else {"quality": quality}
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **(options if kind == "WEBP" else {}))
    data = base64.b64encode(buffer.getbuffer()).decode()
    return (
        f'<script type="text/plain" id="{key}">data:image/{kind.lower()};base64,{data}</script>\n'
    )
