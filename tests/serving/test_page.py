"""The page and the description of the API as they are sent: nothing from elsewhere, all there."""

import re
from html.parser import HTMLParser
from importlib import resources

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx")

from maskgit_sr.images import colormaps
from tests.serving.models import Watched
from tests.serving.serving import expect_error, serve

FILES = resources.files("maskgit_sr.serving.page")
SENT = sorted(path.name for path in FILES.iterdir() if path.name.endswith((".js", ".css", ".svg")))


@pytest.fixture(scope="module")
def client():
    with serve(Watched(batch=1), token="secret") as served:
        yield served.client


class Links(HTMLParser):
    """Attributes: links, what a page points at; tags, which it has; inline, styles and handlers."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.ids, self.inline = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append((tag, name))


@pytest.mark.parametrize("path", ["/", "/docs", *(f"/page/{name}" for name in SENT)])
def test_a_strict_policy_and_no_token(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_needs_nothing_from_elsewhere(client, path):
    answer = client.get(path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Links(answer.text)
    assert page.links and not page.inline and "style" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert client.get(link).status_code == 200, link


def test_modules_import_what_is_there_and_ids_exist(client):
    page = Links(client.get("/").text)
    for name in SENT:
        text = (FILES / name).read_text(encoding="utf-8")
        assert "//cdn" not in text and not re.search(r"url\((?!\$)", text), name
        for found in re.findall(r'from "([^"]+)"', text):
            assert client.get(found).headers["content-type"].startswith("text/javascript"), found
        for found in re.findall(r'\$\("([\w-]+)"\)', text):
            assert found in page.ids, (name, found)


@pytest.mark.parametrize("name", ["no.js", "__init__.py", "..%2fapp.py", "page.html", ""])
def test_no_other_file_is_sent(client, name):
    expect_error(client.get(f"/page/{name}"), 404, "Not Found")


def test_the_ramp_is_that_of_the_maps():
    style = (FILES / "page.css").read_text(encoding="utf-8")
    assert colormaps.css(colormaps.CONFIDENCE) in style


def test_the_description_has_every_route(client):
    api = client.get("/openapi.json").json()
    routes = {(method.upper(), path) for path, some in api["paths"].items() for method in some}
    assert routes == {
        ("POST", "/upscale"),
        ("POST", "/jobs"),
        ("GET", "/jobs/{id}"),
        ("DELETE", "/jobs/{id}"),
        ("GET", "/jobs/{id}/events"),
        ("GET", "/jobs/{id}/result"),
        ("GET", "/jobs/{id}/confidence"),
        ("GET", "/healthz"),
        ("GET", "/info"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/docs"),
    }
    begin = api["paths"]["/jobs"]["post"]
    assert {one["name"] for one in begin["parameters"]} == {
        *("scale", "seed", "format", "quality", "output", "confidence", "consistent"),
        "Idempotency-Key",
    }
    assert "image/*" in begin["requestBody"]["content"] and "422" in begin["responses"]
    text = client.get("/docs").text
    for method, path in routes:
        assert f"<b>{method}</b> <code>{path}</code>" in text
    assert "number, &gt; 0, ≤ 16" in text and "integer, ≥ 0, &lt; 4294967296" in text
