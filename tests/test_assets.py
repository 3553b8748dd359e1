"""assets: where files are looked for, and what is said when they are absent."""

import functools
import hashlib
import http.server
import json
import resource
import threading

import pytest

from maskgit_sr import assets
from maskgit_sr.errors import UserError

NAME = "lpips_alex.safetensors"


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No file is found outside tmp_path."""
    monkeypatch.delenv(assets.ENV, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "site-packages/maskgit_sr/assets.py"))


def put(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_bytes(b"")
    return folder / NAME


def checkout(tmp_path, monkeypatch):
    """The library lies in a source checkout beside `shared`."""
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/pyproject.toml").touch()
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "checkout/maskgit_sr/assets.py"))


def test_order(tmp_path, monkeypatch):
    cached = put(tmp_path / "cache/maskgit_sr")
    assert assets.find(NAME) == cached
    checkout(tmp_path, monkeypatch)
    assert assets.find(NAME) == cached
    shared = put(tmp_path / "shared/metrics")
    assert assets.find(NAME) == shared
    monkeypatch.setenv(assets.ENV, str(tmp_path / "env"))
    assert assets.find(NAME) == shared
    from_env = put(tmp_path / "env")
    assert assets.find(NAME) == from_env
    explicit = put(tmp_path / "explicit")
    assert assets.find(NAME, tmp_path / "explicit") == explicit
    assert assets.find(NAME, str(explicit)) == explicit


def test_absent_is_one_helpful_line(tmp_path):
    put(tmp_path / "shared/metrics")  # an installed library ignores its neighbours
    with pytest.raises(UserError) as error:
        assets.find(NAME)
    text = str(error.value)
    assert "\n" not in text and NAME in text and assets.ENV in text and "cache" in text


def test_explicit_path_is_the_only_one(tmp_path):
    put(tmp_path / "cache/maskgit_sr")
    with pytest.raises(UserError, match="gone: no such file"):
        assets.find(NAME, tmp_path / "gone")


def test_known_files_say_where_they_come_from(tmp_path):
    for name, asset in assets.KNOWN.items():
        assert asset.what and asset.source
        assert asset.sha256 is None or len(asset.sha256) == 64
        with pytest.raises(UserError) as error:
            assets.find(name, tmp_path)
        assert name in str(error.value) and asset.source in str(error.value)


def test_digest(tmp_path):
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert assets.digest(put(tmp_path)) == empty


def test_pinned_digests_are_those_of_the_files_on_hand(shared):
    folder = shared / "metrics"
    for name, asset in assets.KNOWN.items():
        if (folder / name).is_file():
            assert assets.digest(folder / name) == asset.sha256


def test_a_folder_that_is_named_twice_keeps_its_first_place(tmp_path, monkeypatch):
    checkout(tmp_path, monkeypatch)
    shared, cache = tmp_path / "shared/metrics", assets.cache_dir()
    assert assets.search_path() == [shared, cache]
    for first, expected in ((cache, [cache, shared]), (shared, [shared, cache])):
        monkeypatch.setenv(assets.ENV, str(first))
        assert assets.search_path() == expected


class Publisher(http.server.BaseHTTPRequestHandler):
    """Sends the entry of `files` that the path names: (status, type, body, length that it says)."""

    def do_GET(self):
        status, kind, body, length = self.server.files.get(
            self.path, (404, "text/html", b"<html>gone", None)
        )
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Writes nothing."""


@pytest.fixture
def publisher(monkeypatch):
    """A server whose file /w.bin is the asset w.bin, of no known digest; the server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Publisher)
    server.files = {"/w.bin": (200, "application/octet-stream", b"weights", None)}
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.asset = functools.partial(assets.Asset, "w", "tests", "MIT", converted=False)
    server.url = f"http://127.0.0.1:{server.server_port}/w.bin"
    monkeypatch.setitem(assets.KNOWN, "w.bin", server.asset((assets.Source(server.url),)))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def no_conversion(sources, target):
    raise AssertionError("nothing to convert")


def test_get_downloads_once_and_records_the_digest(tmp_path, publisher):
    folder, told = tmp_path / "cache/maskgit_sr", []
    path, made = assets.get("w.bin", no_conversion, lambda *what: told.append(what))
    assert made and path == folder / "w.bin" == assets.find("w.bin")
    assert path.read_bytes() == b"weights" and told == [("w.bin", 7, 7)]
    digest = hashlib.sha256(b"weights").hexdigest()
    recorded = {"w.bin": digest, publisher.url: digest}
    assert json.loads((folder / assets.DIGESTS).read_text()) == recorded
    publisher.files.clear()
    assert assets.get("w.bin", no_conversion) == (path, False)
    assert {entry.name for entry in folder.iterdir()} == {"w.bin", assets.DIGESTS}
    # from now on another file is refused, here and at the publisher
    path.write_bytes(b"changed")
    with pytest.raises(UserError, match=f"w.bin: expected SHA-256 {digest}, found .*delete it"):
        assets.get("w.bin", no_conversion)
    path.unlink()
    publisher.files["/w.bin"] = (200, "application/octet-stream", b"changed", None)
    with pytest.raises(UserError, match=f"w.bin: expected SHA-256 {digest}, found"):
        assets.get("w.bin", no_conversion)
    assert not path.exists()


def test_get_converts_what_lies_in_the_cache_already(tmp_path, publisher, monkeypatch):
    """The publisher's file, brought by hand; a part of its digest is in its name."""
    data = b"brought"
    start = hashlib.sha256(data).hexdigest()[:8]
    source = assets.Source("http://127.0.0.1:9/b.bin", start)
    publisher.asset = functools.partial(publisher.asset, converted=True)
    known = publisher.asset((source, assets.Source(publisher.url)))
    monkeypatch.setitem(assets.KNOWN, "w.safetensors", known)
    folder = tmp_path / "cache/maskgit_sr"
    folder.mkdir(parents=True)
    (folder / "b.bin").write_bytes(data)

    def join(sources, target):
        target.write_bytes(b"+".join(path.read_bytes() for path in sources))

    path, made = assets.get("w.safetensors", join)
    assert made and path.read_bytes() == b"brought+weights"
    names = {"w.safetensors", "b.bin", assets.DIGESTS}
    assert {entry.name for entry in folder.iterdir()} == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((404, "text/plain", b"no", None), r"cannot be downloaded \(404 Not Found\): fetch http"),
        ((200, "text/html; charset=utf-8", b"<html>", None), "found a web page instead of the"),
        ((200, "application/octet-stream", b"weig", 7), "cut off .4 of 7 bytes"),
        ((200, "application/octet-stream", b"others!", None), "expected SHA-256 00ff, found"),
    ],
)
def test_a_download_that_fails_leaves_nothing(tmp_path, publisher, monkeypatch, change, message):
    known = publisher.asset((assets.Source(publisher.url, "00ff"),))
    monkeypatch.setitem(assets.KNOWN, "w.bin", known)
    publisher.files["/w.bin"] = change
    with pytest.raises(UserError, match=message) as error:
        assets.get("w.bin", no_conversion)
    assert "\n" not in str(error.value) and publisher.url in str(error.value)
    assert list((tmp_path / "cache/maskgit_sr").iterdir()) == []


def test_without_network_address_and_folder_are_told(tmp_path, publisher, monkeypatch):
    source = assets.Source("http://127.0.0.1:9/w.bin")
    monkeypatch.setitem(assets.KNOWN, "w.bin", publisher.asset((source,)))
    with pytest.raises(UserError, match=f"fetch {source.url} by other .* {assets.cache_dir()}"):
        assets.get("w.bin", no_conversion)
    with pytest.raises(UserError, match="expected one of lpips_alex.*, found 'w'"):
        assets.get("w", no_conversion)
    with pytest.raises(UserError, match="nobody offers it for download"):
        assets.get("vgg19_uint8.npz", no_conversion)


def test_no_room_is_one_line(tmp_path, publisher):
    publisher.files["/w.bin"] = (200, "application/octet-stream", bytes(2**16), None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, hard))
    try:
        with pytest.raises(UserError, match=r"w\.bin: cannot be written .File too large"):
            assets.get("w.bin", no_conversion)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache/maskgit_sr").iterdir()) == []


def test_the_linear_layers_of_lpips_are_the_publishers(shared, tmp_path):
    """What `get` makes has the pinned bytes, if it is made of the same arrays."""
    pytest.importorskip("torch", reason="needs PyTorch")
    import torch
    from safetensors.numpy import load_file

    from maskgit_sr.convert import networks

    arrays = load_file(shared / "metrics" / NAME)
    parts = {"a.pth": {"classifier.1.bias": torch.ones(3)}, "b.pth": {}}
    for name, array in arrays.items():
        lin = name.startswith("lin")
        name = name.replace(".weight", ".model.1.weight") if lin else name
        parts["b.pth" if lin else "a.pth"][name] = torch.from_numpy(array)
    for name, state in parts.items():
        torch.save(state, tmp_path / name)
    networks.convert([tmp_path / name for name in parts], tmp_path / NAME)
    assert assets.digest(tmp_path / NAME) == assets.KNOWN[NAME].sha256
