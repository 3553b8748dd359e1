"""data.degrade: test sets that can be made again to the byte, and input that cannot be used."""

import functools
import json
import operator
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import degrade
from data.chain import Degradation
from maskgit_sr import paths
from maskgit_sr.images.decode import rgb8
from tests.data.pictures import photo
from tests.data.prepared import contents, save, stops

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"a.png": (50, 61), "sub/b.jpg": (48, 41), "sub/deep/c.BMP": (37, 64)}
WRITTEN = {"a.png": "a.png", "sub/b.jpg": "sub/b.png", "sub/deep/c.BMP": "sub/deep/c.png"}


def command(hr, lr, *more):
    return degrade.main(["--input", str(hr), "--output", str(lr), *map(str, more)])


def read(path):
    return rgb8(path.read_bytes(), str(path))


def records(folder):
    return json.loads((folder / "degradations.json").read_text())


def refused(capsys, hr, lr, *more):
    return stops(capsys, degrade, "--input", hr, "--output", lr, *more)


@pytest.fixture(scope="module")
def hr(tmp_path_factory):
    root = tmp_path_factory.mktemp("input") / "hr"
    for i, (name, size) in enumerate(SIZES.items()):
        save(root / name, photo(*size, seed=i))
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture(scope="module")
def made(hr, tmp_path_factory):
    """A test set of the default settings."""
    lr = tmp_path_factory.mktemp("output") / "lr"
    assert command(hr, lr) == 0
    return lr


# what is written


@pytest.mark.parametrize("preset", ["realesrgan", "bsrgan"])
def test_equal_seeds_give_equal_bytes(hr, tmp_path, preset):
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        assert command(hr, tmp_path / name, "--seed", seed, "--preset", preset) == 0
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one.keys() == {*WRITTEN.values(), "degradations.json"}
    assert one == two
    assert other.keys() == one.keys()
    assert all(one[name] != other[name] for name in one)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("preset", ["realesrgan", "bicubic"])
def test_lr_is_the_record_applied_to_the_hr_image(hr, tmp_path, scale, preset):
    lr, cut = tmp_path / "lr", tmp_path / "cut"
    more = ("--scale", scale, "--preset", preset, "--hr-output", cut, "--seed", 3)
    assert command(hr, lr, *more) == 0
    said = records(lr)
    settings = {"version": 1, "preset": preset, "seed": 3, "scale": scale}
    assert said == {**settings, "images": said["images"]}
    assert said["images"].keys() == SIZES.keys()
    assert contents(cut).keys() == set(WRITTEN.values())
    for name, (height, width) in SIZES.items():
        rows, columns = height // scale, width // scale
        used = read(cut / WRITTEN[name])
        np.testing.assert_array_equal(used, read(hr / name)[: rows * scale, : columns * scale])
        record = Degradation.from_dict(said["images"][name])
        assert (record.height, record.width, record.scale) == (*used.shape[:2], scale)
        small = read(lr / WRITTEN[name])
        assert small.shape == (rows, columns, 3)
        np.testing.assert_array_equal(small, record.apply(used))


def test_records_give_the_same_bytes_again(hr, made, tmp_path):
    # The file decides, whatever the options say.
    more = ("--records", made / "degradations.json", "--preset", "bicubic", "--scale", 2)
    assert command(hr, tmp_path / "lr", *more, "--seed", 99) == 0
    assert contents(tmp_path / "lr") == contents(made)


def test_an_image_depends_neither_on_its_folder_nor_on_other_files(hr, made, tmp_path):
    copy, before = tmp_path / "copy", contents(made)
    for name in reversed(SIZES):  # the order on disk is another one
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((hr / name).read_bytes())
    assert command(copy, tmp_path / "lr") == 0
    assert contents(tmp_path / "lr") == before
    save(copy / "0 first.png", photo(40, 40, 9))
    save(copy / "sub/z last.png", photo(40, 40, 10))
    (copy / "a.png").unlink()
    assert command(copy, tmp_path / "more") == 0
    more = contents(tmp_path / "more")
    assert more.keys() ^ before.keys() == {"0 first.png", "sub/z last.png", "a.png"}
    for name in ("sub/b.jpg", "sub/deep/c.BMP"):
        assert more[WRITTEN[name]] == before[WRITTEN[name]]
        assert records(tmp_path / "more")["images"][name] == records(made)["images"][name]


def test_each_image_has_a_draw_of_its_own(tmp_path):
    for i in range(6):
        save(tmp_path / f"hr/{i}.png", photo(32, 32))
    assert command(tmp_path / "hr", tmp_path / "lr") == 0
    files = contents(tmp_path / "lr")
    del files["degradations.json"]
    assert len(files) == len(set(files.values())) == 6


# what is refused


def test_names_that_would_clash(tmp_path):
    save(tmp_path / "hr/sub/a.png", photo(32, 32))
    save(tmp_path / "hr/sub/a.jpg", photo(32, 32))
    with pytest.raises(ValueError, match=r"several HR images would give sub/a\.png"):
        command(tmp_path / "hr", tmp_path / "lr")
    assert not (tmp_path / "lr").exists()


def test_an_image_without_a_record(hr, made, tmp_path):
    said = records(made)
    del said["images"]["sub/b.jpg"]
    (tmp_path / "r.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"no record of sub/b\.jpg"):
        command(hr, tmp_path / "lr", "--records", tmp_path / "r.json")
    assert not (tmp_path / "lr").exists()


def test_a_test_set_is_not_overwritten_unasked(hr, tmp_path, capsys):
    lr = tmp_path / "lr"
    assert command(hr, lr) == 0
    before = contents(lr)
    error = refused(capsys, hr, lr, "--seed", 1)
    assert error == (
        f"data.degrade: --output: {lr}/degradations.json exists; --overwrite replaces a test set\n"
    )
    assert contents(lr) == before
    (lr / "degradations.json").unlink()
    assert ".png exists; --overwrite" in refused(capsys, hr, lr, "--seed", 1)
    (lr / "degradations.json").write_bytes(before["degradations.json"])
    (lr / "a.png").with_suffix(".jpg").write_bytes(b"mine")
    save(tmp_path / "hr/sub/b.jpg", photo(32, 32))  # fewer images than before
    assert command(tmp_path / "hr", lr, "--overwrite") == 0
    assert command(tmp_path / "hr", tmp_path / "fresh") == 0
    assert contents(lr) == {**contents(tmp_path / "fresh"), "a.jpg": b"mine"}


def test_a_killed_overwrite_does_not_leave_wrong_records(hr, tmp_path, monkeypatch):
    assert command(hr, tmp_path / "lr") == 0
    write = paths.write

    def dying(path, data):
        if path.name == "b.png":
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(paths, "write", dying)
        command(hr, tmp_path / "lr", "--seed", 1, "--overwrite")
    if (tmp_path / "lr/degradations.json").exists():
        record = Degradation.from_dict(records(tmp_path / "lr")["images"]["a.png"])
        used = read(hr / "a.png")[:48, :60]
        np.testing.assert_array_equal(read(tmp_path / "lr/a.png"), record.apply(used))


def test_folders_must_differ(hr, tmp_path, capsys):
    before = contents(hr)
    other = tmp_path / "other"
    link = tmp_path / "link"
    os.symlink(hr, link)
    for arguments in (
        (hr, hr),
        (hr, hr / "sub" / ".."),
        (hr, link),
        (link, hr),
        (hr, other, "--hr-output", hr),
        (hr, other, "--hr-output", other),
    ):
        assert "expected folders of their own" in refused(capsys, *arguments)
    assert contents(hr) == before and not other.exists()


SPOILED = [  # other values behind keys of the file; None: the key is missing
    (("version",), 2),
    (("version",), None),
    (("scale",), None),
    (("scale",), "four"),
    (("scale",), 0),
    (("images",), ["a.png"]),
    (("images", "a.png"), "sharp"),
    (("images", "a.png", "height"), "tall"),
    (("images", "a.png", "steps", 0), {"step": "crumple"}),
]


@pytest.mark.parametrize("spoiled", ["", "{", "[]", "null", *SPOILED], ids=str)
def test_a_broken_file_of_records(hr, made, tmp_path, spoiled):
    if not isinstance(spoiled, str):
        (*keys, last), value = spoiled
        said = records(made)
        inner = functools.reduce(operator.getitem, keys, said)
        inner[last] = value
        if value is None:
            del inner[last]
        spoiled = json.dumps(said)
    path = tmp_path / "r.json"
    path.write_text(spoiled)
    with pytest.raises(ValueError, match=r"r\.json: not a file of degradations") as error:
        command(hr, tmp_path / "lr", "--records", path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "lr").exists()


# images that cannot be used, and the command line


def test_bad_images_are_skipped_and_named(hr, made, tmp_path, capsys):
    shutil.copytree(hr, tmp_path / "hr")
    (tmp_path / "hr/bad.png").write_bytes(b"text")
    save(tmp_path / "hr/tiny.png", photo(40, 3))
    assert command(tmp_path / "hr", tmp_path / "lr") == 1
    out, error = capsys.readouterr()
    assert error.splitlines() == [
        f"data.degrade: skipped {tmp_path}/hr/bad.png: not a picture that can be decoded "
        "(PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, AVIF, HEIC, JPEG 2000, ICO or TGA)",
        "data.degrade: skipped tiny.png: image of 40x3 is smaller than the scale 4",
    ]
    assert out == f"3 images in {tmp_path}/lr, 2 skipped\n"
    assert contents(tmp_path / "lr") == contents(made)


def test_mistakes_are_one_line_and_exit_code_2(tmp_path):
    options = ["--input", tmp_path / "gone", "--output", tmp_path / "lr"]
    line = [sys.executable, "-m", "data.degrade", *map(str, options)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    line = f"data.degrade: image folder {str(tmp_path / 'gone')!r}: not found or not a folder\n"
    assert done.stderr == line
    assert not (tmp_path / "lr").exists()


def test_no_usable_image_at_all(tmp_path):
    (tmp_path / "hr").mkdir()
    (tmp_path / "hr/a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no usable image; .*a\.png: .*an empty file"):
        command(tmp_path / "hr", tmp_path / "lr")
    assert not (tmp_path / "lr").exists()


def test_a_record_of_another_size_is_skipped(hr, made, tmp_path, capsys):
    shutil.copytree(hr, tmp_path / "hr")
    save(tmp_path / "hr/a.png", photo(44, 60))
    assert command(tmp_path / "hr", tmp_path / "lr", "--records", made / "degradations.json") == 1
    line = "data.degrade: skipped a.png: degradation drawn for 48x60 RGB, got shape (44, 60, 3)\n"
    assert capsys.readouterr().err == line
    assert records(tmp_path / "lr")["images"].keys() == {"sub/b.jpg", "sub/deep/c.BMP"}
    assert not (tmp_path / "lr/a.png").exists()
