"""data.prepare: crops, shards, pairs, and runs that are cut short or refused.

What is left out, and why, licences and data sets: test_data_quality.
"""

import json
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import prepare, records
from data.records import RecordFolder
from data.shards import Shards
from maskgit_sr import paths
from tests.data.prepared import (
    SMALL,
    command,
    contents,
    examples,
    killed,
    manifest,
    save,
    scene,
    stops,
)

SHARDS = ("--shard-mb", "0.03", "--drop-near-duplicates")  # about three pictures of `many` in one
COUNT = 11  # pictures in that folder


def kill(monkeypatch, module, function, dies, output, *inputs, more=SHARDS):
    """Runs the command, whose process ends at the first call for which `dies` says so."""
    with killed(monkeypatch, module, function, dies):
        command(*inputs, output=output, more=more)


def picture(at):
    """Where `kill` ends the process: at the inspection of that picture."""
    return prepare, "inspect", lambda folder, index, *more: index == at


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("input") / "photos"
    save(root / "a.png", scene(70, 100, 1))
    save(root / "b/c.png", scene(40, 44, 2))
    save(root / "d.webp", scene(96, 48, 3), lossless=True)
    return root


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Pictures good and bad; the last two repeat early ones, which a resumed run must remember."""
    root = tmp_path_factory.mktemp("input") / "many"
    for i in range(COUNT):
        save(root / f"{i:02}.png", scene(60 + 4 * i, 70, i))
    (root / "01.png").write_bytes(b"broken")
    save(root / "04.png", np.full((64, 64, 3), 90, np.uint8))
    save(root / "09.png", scene(60, 70, 0))
    save(root / "10.png", np.asarray(Image.fromarray(scene(68, 70, 2)).resize((90, 80))))
    (root / "MANIFEST.csv").write_text("file,licence\n02.png,CC0\n07.png,CC BY\n")
    return root


@pytest.fixture(scope="module")
def finished(many, tmp_path_factory):
    """Files of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("output")
    assert command(many, output=output, more=SHARDS) == 0
    reasons = ("unreadable", "flat", "duplicate", "near duplicate")
    assert manifest(output)["left_out"] == dict.fromkeys(reasons, 1)
    assert len(manifest(output)["shards"]) >= 3
    return contents(output)


# cut


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 150), st.data())
def test_crops_cover_the_picture(height, width, crop, data):
    few = min(crop, max(height, width) // 40)  # steps of a pixel would be too many crops to check
    stride = data.draw(st.integers(max(few, 1), max(crop, 1)))
    places = prepare.cut(height, width, crop, stride)
    assert len(set(places)) == len(places) and places == sorted(places)
    covered = np.zeros((height, width), bool)
    for top, left, tall, wide in places:
        assert 0 <= top <= height - tall and 0 <= left <= width - wide
        assert (tall, wide) == (min(height, crop or height), min(width, crop or width))
        covered[top : top + tall, left : left + wide] = True
    assert covered.all()
    for side in (0, 1):
        starts = sorted({place[side] for place in places})
        assert all(0 < b - a <= stride for a, b in pairwise(starts))


# shards


def test_shards_hold_the_crops_of_the_pictures(photos, tmp_path, capsys):
    output = tmp_path / "new" / "shards"
    assert command(photos, output=output) == 0
    found, rows = RecordFolder(output), examples(output)
    pictures = {
        "photos/a.png": scene(70, 100, 1),
        "photos/b/c.png": scene(40, 44, 2),
        "photos/d.webp": scene(96, 48, 3),
    }
    corners = [(0, 0), (0, 32), (0, 52), (22, 0), (22, 32), (22, 52)]
    expected = [f"photos/a.png@{top},{left}" for top, left in corners]
    expected += ["photos/b/c.png", "photos/d.webp@0,0", "photos/d.webp@32,0", "photos/d.webp@48,0"]
    assert [row["id"] for row in rows] == expected
    assert [found[i]["id"] for i in range(len(found))] == expected
    for i, row in enumerate(rows):
        part = pictures[row["source"]][row["top"] :, row["left"] :]
        part = part[: row["height"], : row["width"]]
        assert part.shape == (row["height"], row["width"], 3)
        np.testing.assert_array_equal(found[i]["image"], part)
    said = manifest(output)
    assert (said["pictures"], said["examples"], said["left_out"]) == (3, 10, {})
    assert said["near_duplicates"] == 0 and said["licences"] == {"unknown": 10}
    (described,) = said["inputs"]
    assert len(described.pop("names")) == 64  # a digest, which tells other files apart
    assert described == {"folder": str(photos), "label": "photos", "pictures": 3}
    assert said["settings"]["crop"] == 48 and said["settings"]["jpeg"] == 0
    assert sum(shard["examples"] for shard in said["shards"]) == 10
    for shard in said["shards"]:
        assert shard["bytes"] == (output / shard["file"]).stat().st_size
    files = {"manifest.json", "examples.jsonl", "report.csv", *(s["file"] for s in said["shards"])}
    assert set(contents(output)) == files
    assert capsys.readouterr().out.startswith("3 pictures, 10 examples in 1 shards")


def test_whole_pictures_as_jpeg(photos, tmp_path):
    assert command(photos, output=tmp_path, more=("--crop", "0", "--jpeg", "95")) == 0
    found = RecordFolder(tmp_path)
    assert [found[i]["image"].shape for i in range(3)] == [(70, 100, 3), (40, 44, 3), (96, 48, 3)]
    shard = (tmp_path / manifest(tmp_path)["shards"][0]["file"]).read_bytes()
    assert shard.count(b"\xff\xd8\xff") == 3 and b"\x89PNG" not in shard
    error = np.abs(found[0]["image"].astype(int) - scene(70, 100, 1))
    assert 0 < error.mean() < 4


def test_ids_of_folders_of_one_name_differ(tmp_path):
    for i in (1, 2):
        save(tmp_path / f"{i}/hr/0001.png", scene(48, 48, i))
    assert command(tmp_path / "1/hr", tmp_path / "2/hr", output=tmp_path / "s") == 0
    assert len({row["id"] for row in examples(tmp_path / "s")}) == 2


def test_a_name_that_is_not_utf8_does_not_end_the_run(tmp_path):
    save(tmp_path / "p/a.png", scene(48, 48))
    save(tmp_path / "p/b.png", scene(48, 48, 1)).rename(tmp_path / "p" / os.fsdecode(b"\xe9.png"))
    assert command(tmp_path / "p", output=tmp_path / "s") == 0
    assert "p/a.png" in {row["id"] for row in examples(tmp_path / "s")}


# killed and resumed


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_killed_run_goes_on_where_it_was(many, finished, tmp_path, monkeypatch, workers):
    more = (*SHARDS, "--workers", workers)
    kill(monkeypatch, *picture(7), tmp_path, many, more=more)
    assert (tmp_path / "settings.json").exists() and not (tmp_path / "manifest.json").exists()
    parts = [json.loads(path.read_text()) for path in tmp_path.glob("part-*.json")]
    done = sum(len(part["pictures"]) for part in parts)
    assert 0 < done <= 7
    inspect, inspected = prepare.inspect, []
    note = lambda folder, i, *more: inspected.append(i) or inspect(folder, i, *more)  # noqa: E731
    monkeypatch.setattr(prepare, "inspect", note)
    assert command(many, output=tmp_path, more=more) == 0
    assert sorted(inspected) == list(range(done, COUNT))
    assert contents(tmp_path) == finished


def test_a_run_that_is_killed_at_every_picture(many, finished, tmp_path, monkeypatch):
    for at in range(COUNT):
        kill(monkeypatch, *picture(at), tmp_path, many)
    assert command(many, output=tmp_path, more=SHARDS) == 0
    assert contents(tmp_path) == finished


def leave_half(path, packed):
    """What a process leaves that is killed while it writes the second shard."""
    half = path.with_name(f".{path.stem}.0123abcd.part.array_record")
    return path.name == "shard-00001.array_record" and half.write_bytes(b"half")


@pytest.mark.parametrize(
    ("module", "function", "dies"),
    [
        *[
            pytest.param(paths, "write", lambda path, data, name=name: path.name == name, id=name)
            for name in ("part-00001.json", "examples.jsonl", "report.csv", "manifest.json")
        ],
        pytest.param(Shards, "_clear", lambda shards: True, id="after the manifest"),
        pytest.param(records, "write_shard", leave_half, id="within a shard"),
    ],
)
def test_a_run_killed_between_two_files(
    many, finished, tmp_path, monkeypatch, module, function, dies
):
    kill(monkeypatch, module, function, dies, tmp_path, many)
    assert command(many, output=tmp_path, more=SHARDS) == 0
    assert contents(tmp_path) == finished


def test_a_finished_folder_is_left_alone(photos, tmp_path, monkeypatch, capsys):
    assert command(photos, output=tmp_path) == 0
    before, times = contents(tmp_path), {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    monkeypatch.setattr(prepare, "inspect", None)
    capsys.readouterr()
    assert command(photos, output=tmp_path) == 0
    assert "finished already; nothing to do" in capsys.readouterr().out
    assert contents(tmp_path) == before
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == times


# what is refused


@pytest.mark.parametrize("more", [["--stride", "40"], ["--jpeg", "90"], ["--drop-near-duplicates"]])
@pytest.mark.parametrize("done", [False, True])
def test_a_folder_begun_with_other_settings_or_input_is_refused(
    photos, many, tmp_path, monkeypatch, capsys, more, done
):
    small = ("--shard-mb", "0.03")
    if done:
        command(many, output=tmp_path, more=small)
    else:
        kill(monkeypatch, *picture(7), tmp_path, many, more=small)
    before = contents(tmp_path)
    assert len(before) >= 3  # settings, a shard, its rows
    for inputs, options in (
        ([many], more),
        ([photos], ()),
        ([many, photos], ()),
        ([photos, many], ()),
    ):
        line = ["--input", *inputs, "--output", tmp_path, *SMALL, *small, *options]
        error = stops(capsys, prepare, *line)
        assert f"{tmp_path}: was begun with other settings or input" in error
        assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["holiday.png", "manifest.txt", "shard-00000.array_record"])
def test_a_folder_of_something_else_is_refused(photos, tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match="expected an empty folder"):
        command(photos, output=tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_nothing_usable_leaves_no_folder(tmp_path):
    save(tmp_path / "p/a.png", np.full((64, 64, 3), 7, np.uint8))
    (tmp_path / "p/b.png").write_bytes(b"text")
    with pytest.raises(ValueError, match="no usable picture among 2: 1 flat, 1 unreadable"):
        command(tmp_path / "p", output=tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


# pairs


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_pairs_are_cut_alike(tmp_path, scale):
    pictures = {}
    for i, (height, width) in enumerate([(33, 41), (20, 12)]):
        hr = scene(height * scale, width * scale, i)
        save(tmp_path / f"p/test_HR/{i}.png", hr)
        save(tmp_path / f"p/test_LR/{i}x{scale}.png", np.ascontiguousarray(hr[::scale, ::scale]))
        pictures[f"p/test_HR/{i}.png"] = hr
    more = ("--pairs", "--crop", "50", "--stride", "30", "--least", "8")
    assert command(tmp_path / "p", output=tmp_path / "s", more=more) == 0
    found, rows = RecordFolder(tmp_path / "s"), examples(tmp_path / "s")
    assert len(found) == len(rows) and {row["source"] for row in rows} == pictures.keys()
    covered = {name: np.zeros(hr.shape[:2], bool) for name, hr in pictures.items()}
    for i, row in enumerate(rows):
        top, left, height, width = (row[key] for key in ("top", "left", "height", "width"))
        assert not any(number % scale for number in (top, left, height, width))
        assert max(height, width) <= 50
        hr, lr = found[i]["hr"], found[i]["lr"]
        here = slice(top, top + height), slice(left, left + width)
        np.testing.assert_array_equal(hr, pictures[row["source"]][here])
        np.testing.assert_array_equal(lr, hr[::scale, ::scale])  # LR has every n-th pixel of HR
        covered[row["source"]][here] = True
    assert all(mask.all() for mask in covered.values())


def test_pairs_need_lr_images(tmp_path):
    save(tmp_path / "p/hr/a.png", scene(64, 64))
    with pytest.raises(ValueError, match="holds no LR images"):
        command(tmp_path / "p", output=tmp_path / "s", more=("--pairs",))
    assert not (tmp_path / "s").exists()
