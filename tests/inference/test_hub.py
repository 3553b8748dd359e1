"""inference.hub: bundles of a Hugging Face hub, which is a small server here."""

import hashlib
import http.server
import importlib
import json
import re
import sys
import threading

import numpy as np
import pytest

import maskgit_sr
from maskgit_sr.errors import UserError
from maskgit_sr.inference import hub as ours
from tests.cli.commands import refuses

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
constants = importlib.import_module("huggingface_hub.constants")
COMMITS = {"main": "1" * 40, "v2": "2" * 40}


class Hub(http.server.ThreadingHTTPServer):
    """The endpoints that are used; `files` has {(repository, revision): {path: bytes}}."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Requests)
        self.files, self.asked = {}, []


class Requests(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        listing = re.fullmatch(r"/api/models/(\w+/\w+)(?:/revision/(\w+))?", self.path)
        content = re.fullmatch(r"/(\w+/\w+)/resolve/(\w+)/(.+)", self.path)
        repository, revision, *path = (listing or content).groups()
        revision = revision or "main"
        known = self.server.files.get((repository, revision))
        if known is None:
            there = repository in {name for name, _ in self.server.files}
            return self.reply(404, "RevisionNotFound" if there else "RepoNotFound")
        if listing:
            siblings = [{"rfilename": name} for name in known]
            facts = {"id": repository, "sha": COMMITS[revision], "siblings": siblings}
            return self.reply(200, body=json.dumps(facts).encode())
        if path[0] not in known:
            return self.reply(404, "EntryNotFound", COMMITS[revision])
        return self.reply(200, commit=COMMITS[revision], body=known[path[0]])

    def reply(self, status, error=None, commit=None, body=b""):
        self.send_response(status)
        for name, value in (("X-Error-Code", error), ("X-Repo-Commit", commit)):
            if value:
                self.send_header(name, value)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        """Writes nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A running hub without files, and an empty cache."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def stop(monkeypatch):
    """Puts the hub out of reach."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_the_only_bundle_is_loaded_and_cached(server, subpixel, monkeypatch):
    data = subpixel.read_bytes()
    server.files["me/sharp", "main"] = {"README.md": b"#", "weights/x2.safetensors": data}
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    wanted = maskgit_sr.load(subpixel, device="cpu")(image).image
    found = maskgit_sr.load("hf://me/sharp", device="cpu")(image).image
    np.testing.assert_array_equal(found, wanted)
    path = ours.download("hf://me/sharp")
    assert path.read_bytes() == data and path.name == "x2.safetensors"
    gets = [asked for asked in server.asked if asked[0] == "GET" and "/resolve/" in asked[1]]
    assert len(gets) == 1

    stop(monkeypatch)
    assert ours.download("hf://me/sharp") == path
    assert ours.download("hf://me/sharp/weights/x2.safetensors") == path
    for address in ("hf://me/other", "hf://me/sharp@v2", "hf://me/sharp/no.safetensors"):
        with pytest.raises(UserError, match="out of reach") as error:
            ours.download(address)
        assert "\n" not in str(error.value)


def test_revisions_and_several_bundles(server):
    server.files["me/two", "main"] = {"a.safetensors": b"a", "b.safetensors": b"b"}
    server.files["me/two", "v2"] = {"b.safetensors": b"newer"}
    assert ours.download("hf://me/two/a.safetensors").read_bytes() == b"a"
    assert ours.download("hf://me/two@v2").read_bytes() == b"newer"
    assert ours.download("hf://me/two@v2/b.safetensors").read_bytes() == b"newer"
    with pytest.raises(UserError, match=r"name one of a\.safetensors, b\.safetensors"):
        ours.download("hf://me/two")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://me", "expected hf://OWNER/NAME"),
        ("hf://me/two/weights.pth", "expected hf://OWNER/NAME"),
        ("hf://me/--/a.safetensors", "hf://me/--"),
        ("hf://me/nothing", "no such repository, or no access"),
        ("hf://me/nothing/a.safetensors", "no such repository, or no access"),
        ("hf://me/two@v3", "no such revision: v3"),
        ("hf://me/two/c.safetensors", "no such file in the repository"),
        ("hf://me/none", "expected one .safetensors file in the repository: found none"),
    ],
)
def test_what_is_not_there_is_one_line(server, tmp_path, address, message):
    server.files["me/two", "main"] = {"a.safetensors": b"a", "b.safetensors": b"b"}
    server.files["me/none", "main"] = {"README.md": b"#"}
    refuses(message, "export", "-m", address, "-o", tmp_path / "out")


def test_a_file_that_is_no_bundle_is_named(server):
    server.files["me/bad", "main"] = {"a.safetensors": b"<html>"}
    with pytest.raises(UserError, match=r"a\.safetensors: "):
        maskgit_sr.load("hf://me/bad", device="cpu")


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub: pip install 'maskgit-sr\[hub\]'"):
        ours.download("hf://me/sharp")
