"""`maskgit-sr assets`: the list, names that stand for files, and a download."""

import importlib.util

import pytest

from maskgit_sr import assets
from tests.cli.commands import refuses, run


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No file is found outside tmp_path."""
    monkeypatch.delenv(assets.ENV, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "site-packages/maskgit_sr/assets.py"))


def offer(monkeypatch, tmp_path, *names):
    """These files of the table are at file:// addresses, and need no conversion."""
    for name in names:
        (tmp_path / f"published-{name}").write_bytes(name.encode() * 30_000)
        source = assets.Source((tmp_path / f"published-{name}").as_uri())
        asset = assets.Asset(name, "tests", "MIT", (source,), converted=False)
        monkeypatch.setitem(assets.KNOWN, name, asset)


def test_list(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "koniq_ckpt.npz").write_bytes(bytes(1_234_000))
    monkeypatch.setenv(assets.ENV, str(folder))
    told = run("assets").stdout
    for name, asset in assets.KNOWN.items():
        assert name in told and asset.use in told and asset.licence in told
        assert all(source.url in told for source in asset.sources)
    assert told.count("  absent\n") == len(assets.KNOWN) - 1
    assert f"1.2 MB  {folder}\n" in told and str(assets.cache_dir()) in told


def test_get(tmp_path, monkeypatch):
    offer(monkeypatch, tmp_path, *assets.DEFAULT, "koniq_ckpt.npz")
    told = run("assets", "get").stdout.splitlines()
    assert told == [
        f"{assets.cache_dir() / name} ({size} MB)"
        for name, size in zip(assets.DEFAULT, ("0.7", "0.5"), strict=True)
    ]
    assert all(assets.find(name).parent == assets.cache_dir() for name in assets.DEFAULT)
    told = run("assets", "get", "niqe", "musiq", "koniq_ckpt").stdout.splitlines()
    assert len(told) == 2 and told[0].endswith("MB, was there already)")
    assert assets.find("koniq_ckpt.npz").read_bytes().startswith(b"koniq")


def test_names_of_protocols_stand_for_all_their_files(tmp_path, monkeypatch):
    offer(monkeypatch, tmp_path, *assets.KNOWN)
    told = run("assets", "get", "realsrt").stdout
    names = ("lpips_alex", "vgg16", "dists_alpha_beta", "niqe_params", "clip_rn50")
    assert told.count("\n") == 5 and all(f"{name}." in told for name in names)
    assert run("assets", "get", "all").stdout.count("\n") == len(assets.KNOWN)


def test_mistakes_are_told_before_anything_is_fetched(tmp_path, monkeypatch):
    offer(monkeypatch, tmp_path, "niqe_params.npz")
    refuses("expected all, a metric, a protocol or one of lpips_alex", "assets", "get", "niqe", "x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = "is made of the publisher's file by PyTorch: pip install 'maskgit-sr[convert]'"
    refuses(f"vgg16.safetensors: {message}", "assets", "get", "niqe", "vgg16")
    assert not assets.cache_dir().exists()
