"""`maskgit-sr models get`: where published weights are, and a tiny network's file kept."""

import functools

import pytest

import maskgit_sr
from maskgit_sr import assets
from maskgit_sr.convert import realsrt
from maskgit_sr.inference import library, load
from tests.cli.commands import picture, refuses, run
from tests.convert.test_realsrt import state, tiny_config  # noqa: F401


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the kept models, which is not there yet; commands run in tmp_path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache/maskgit_sr/models"


@pytest.fixture
def published(tmp_path, monkeypatch, state):  # noqa: F811
    """A file that is read as the published one, of tiny sizes."""
    tiny = functools.partial(realsrt.convert, config=tiny_config())
    monkeypatch.setattr(realsrt, "convert", tiny)
    monkeypatch.setattr(realsrt, "read_state", lambda source: state)
    (tmp_path / "net_g_80000.pth").write_bytes(b"published")
    return tmp_path / "net_g_80000.pth"


def test_without_a_file_the_page_is_told(folder):
    told = run("models", "get", "realsrt-base").stdout
    known = library.PUBLISHED["realsrt-base"]
    assert known.page in told and known.file == "net_g_80000.pth" and known.file in told
    assert not folder.exists()
    message = "realsrt-base is not here yet: 'maskgit-sr models get realsrt-base'"
    refuses(message, "export", "-m", "realsrt-base", "-o", "out")


def test_a_kept_model_is_found_by_its_name(folder, published):
    told = run("models", "get", "realsrt-base", published).stdout
    path = folder / "realsrt-base.safetensors"
    assert told.startswith(f"{path} (") and list(folder.iterdir()) == [path]
    assert load.resolve("realsrt-base") == path
    training = load.read_metadata("realsrt-base").training
    assert training["sha256"] == assets.digest(published)
    assert training["file"] == "net_g_80000.pth"
    kept = next(model for model in maskgit_sr.list_models() if model.name == "realsrt-base")
    assert f"({kept.parameters:,} parameters)" in told and kept.licence == "MIT"

    listed = run("models").stdout
    assert "realsrt-base" in listed and listed.index("srmap-nano") < listed.index("realsrt-base")
    card = run("models", "realsrt-base").stdout
    assert card.startswith("# realsrt-base\n") and training["sha256"] in card
    assert run("models", "realsrt-small").stdout.startswith("# realsrt-small")

    refuses("realsrt-base is kept already", "models", "get", "realsrt-base", published)
    path.write_bytes(b"older")
    run("models", "get", "realsrt-base", published, "--overwrite")
    assert path.stat().st_size == kept.size_bytes


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("realsrt-huge", "net_g_80000.pth", "expected one of realsrt-base, found 'realsrt-huge'"),
        ("realsrt-base", "gone.pth", "gone.pth: no such file; net_g_80000.pth is at https://"),
    ],
)
def test_mistakes(folder, published, name, file, message):
    refuses(message, "models", "get", name, file)
    assert not folder.exists()


def test_another_file_is_refused_and_nothing_kept(folder, published, state):  # noqa: F811
    del state["critic.to_logits.weight"]
    refuses("critic.to_logits.weight", "models", "get", "realsrt-base", published)
    assert library.kept() == {}


def test_help_and_unknown_names(folder):
    assert "get" in run("models", "--help").stdout
    refuses("models: expected one of realsrt-nano", "models", "other")
    picture("a.png")
    refuses("model: expected a path or one of", "upscale", "a.png", "-m", "other")
