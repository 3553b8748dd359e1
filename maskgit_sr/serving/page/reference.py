"""The description of an API (OpenAPI 3.1) as a plain HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: API</title>
<link rel="icon" href="/page/icon.svg">
<link rel="stylesheet" href="/page/base.css">
</head>
<body class="reference">
<header><p><a href="/">The page</a> · <a href="/openapi.json">openapi.json</a></p>
<h1>{title}: API</h1>{lead}</header>
<main>
"""


def html(api: Mapping[str, Any]) -> str:
    """Returns the page of a description as `FastAPI.openapi` gives it."""
    info = api["info"]
    lead = "".join(f"<p>{_text(part)}</p>" for part in info.get("description", "").split("\n\n"))
    parts = [_HEAD.format(title=escape(info["title"]), lead=lead)]
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            parts += _route(method.upper(), path, route)
    return "".join([*parts, "</main>\n</body>\n</html>\n"])


def _route(method: str, path: str, route: Mapping[str, Any]) -> Iterator[str]:
    yield f"<section><h2><b>{method}</b> <code>{escape(path)}</code></h2>\n"
    for part in route.get("description", route.get("summary", "")).split("\n\n"):
        yield f"<p>{_text(part)}</p>\n"
    if body := route.get("requestBody"):
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in body["content"])
        yield f"<p>Body: {kinds}. {_text(body.get('description', ''))}</p>\n"
    if rows := [_parameter(one) for one in route.get("parameters", ())]:
        yield from _table("Parameters", ("name", "in", "values", "default"), rows)
    statuses = []
    for status, response in route.get("responses", {}).items():
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in response.get("content", {}))
        statuses.append((status, kinds, _text(response.get("description", ""))))
    yield from _table("Responses", ("status", "body", "when"), statuses)
    yield "</section>\n"


def _table(label: str, heads: tuple[str, ...], rows: list[Any]) -> Iterator[str]:
    yield f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table><thead><tr>'
    yield "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield "</tr></thead><tbody>\n"
    for first, *others in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        yield f'<tr><th scope="row">{first}</th>{cells}</tr>\n'
    yield "</tbody></table></div>\n"


def _parameter(given: Mapping[str, Any]) -> tuple[str, str, str, str]:
    schema = given.get("schema", {})
    default = schema.get("default")
    note = given.get("description", "")
    values = "; ".join(filter(None, (_values(schema), _text(note))))
    shown = "" if default in (None, "") else f"<code>{escape(str(default).lower())}</code>"
    return f"<code>{escape(given['name'])}</code>", escape(given["in"]), values, shown


def _values(schema: Mapping[str, Any]) -> str:
    for some in schema.get("anyOf", ()):
        if some.get("type") != "null":
            return _values(some)
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:.12g}" for key, sign in names.items() if key in schema]
    kind = escape(str(schema.get("type", "")))
    return ", ".join([kind, *map(escape, bounds)])


def _text(text: str) -> str:
    """Returns the HTML of a paragraph with `code` between backticks."""
    pieces = escape(" ".join(text.split())).split("`")
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(pieces))
