"""The page that people see in a browser, and the description of the API for them.

Its files are sent as they are; by their Content-Security-Policy a browser loads nothing from
anywhere else and runs nothing but the page's own modules.
"""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from maskgit_sr.serving.page import reference

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:",
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def add(app: FastAPI) -> None:
    """Adds the routes to an application."""
    folder = resources.files("maskgit_sr.serving.page")
    files = {
        path.name: (path.read_bytes(), _KINDS[suffix])
        for path in folder.iterdir()
        if (suffix := path.name[path.name.rfind(".") :]) in _KINDS
    }
    html = (folder / "page.html").read_bytes()

    @app.get("/", response_class=HTMLResponse)
    async def home() -> Response:
        """The page for people."""
        return HTMLResponse(html, headers=HEADERS)

    @app.get("/docs", response_class=HTMLResponse)
    async def docs() -> Response:
        """This description, for people; /openapi.json is for programs."""
        return HTMLResponse(reference.html(app.openapi()), headers=HEADERS)

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "Not Found")
        data, kind = files[name]
        return Response(data, media_type=kind, headers=HEADERS)
