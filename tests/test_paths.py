"""paths: files and folders that appear whole or not at all, on this machine and in a bucket."""

import os
from pathlib import Path

import pytest

from maskgit_sr import paths
from maskgit_sr.errors import UserError


@pytest.fixture(params=["folder", "bucket"])
def root(request, tmp_path):
    """A folder on this machine, and one in a bucket."""
    return tmp_path if request.param == "folder" else request.getfixturevalue("bucket")


def test_files_are_written_with_their_folders(root):
    path = root / "new" / "folder" / "a.txt"
    paths.write(path, "naïve\n")
    assert path.read_bytes() == b"na\xc3\xafve\n"
    paths.write(path, "\udce9")  # a byte of a file name that is no UTF-8
    assert path.read_bytes() == b"\xe9"
    paths.write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_folders_become_whole_at_once(root):
    with paths.whole(root / "export") as part:
        (part / "sub").mkdir(parents=True)
        (part / "a").write_bytes(b"1")
        (part / "sub" / "b").write_bytes(b"2")
        assert not (root / "export").exists()
    assert (root / "export" / "a").read_bytes() == b"1"
    assert (root / "export" / "sub" / "b").read_bytes() == b"2"
    assert [entry.name for entry in root.iterdir()] == ["export"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("name", ["file.png", "folder"])
def test_a_block_that_fails_leaves_what_was_there(root, error, folder, name):
    if name == "file.png":
        (root / name).write_bytes(b"old")
    with pytest.raises(type(error)) as caught, paths.whole(root / name) as part:
        if folder:
            part.mkdir()
        (part / "a" if folder else part).write_bytes(b"half")
        raise error
    assert caught.value is error
    if name == "file.png":
        assert (root / name).read_bytes() == b"old"
        (root / name).unlink()
    assert not root.exists() or list(root.iterdir()) == []


def test_the_temporary_path_is_hidden_and_keeps_its_suffix(tmp_path):
    with paths.whole(tmp_path / ("n" * 200 + ".array_record")) as part:
        assert part.parent == tmp_path and part.name.startswith(".n") and len(part.name) < 100
        assert part.suffix == ".array_record"
        part.touch()
    with paths.whole(tmp_path / "a.png") as one, paths.whole(tmp_path / "a.png") as other:
        assert one != other  # two processes may write the same file
        one.touch()
        other.touch()


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_bytes(before)

    def full(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(Path, "write_bytes", full)
        paths.write(path, b"new and longer")
    assert str(error.value) == f"{path}: cannot be written (No space left on device)"
    assert os.listdir(tmp_path) == (["a.txt"] if before else [])
    assert before is None or path.read_bytes() == before


def test_targets_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for target in (tmp_path / "folder", tmp_path / "file" / "a"):
        with pytest.raises(UserError, match=f"^{target}: cannot be written"):
            paths.write(target, b"data")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and (tmp_path / "folder").is_dir()


def test_an_error_about_something_else_passes(tmp_path):
    with pytest.raises(FileNotFoundError, match="source"), paths.whole(tmp_path / "a"):
        (tmp_path / "source").read_bytes()
    assert os.listdir(tmp_path) == []
