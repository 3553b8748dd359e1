"""assets: where files are looked for, and what is said when they are absent."""

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
