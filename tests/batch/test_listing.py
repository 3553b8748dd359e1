"""batch.listing: names of outputs, and contradictions before anything runs."""

from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="needs apache-beam")

from maskgit_sr.batch import listing
from maskgit_sr.errors import UserError
from maskgit_sr.images import files


def names(plan, folder):
    return sorted(Path(task.target).relative_to(folder).as_posix() for task in plan.todo)


def planned(inputs, output, **changes):
    options = {"format": "png", "suffix": None, "scale": 4.0, "overwrite": False, **changes}
    return listing.plan([str(text) for text in inputs], str(output), **options)


def test_outputs_are_named_as_by_the_command_line(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.jpg", "sub/b.png", ".hidden.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    output = tmp_path / "out"
    assert names(planned([folder], output), output) == ["a.png", "sub/b.png"]
    assert names(planned([folder, folder / "a.jpg"], output), output) == ["a.png", "sub/b.png"]
    assert names(planned([f"{folder}/*"], output, suffix="_x"), output) == ["a_x.png"]
    assert names(planned([folder / "notes.txt"], output, format="webp"), output) == ["notes.webp"]
    assert names(planned([folder], folder, scale=2.5), folder) == ["a_x2.5.png", "sub/b_x2.5.png"]
    inside = folder / "restored"  # where an earlier run put what is no input of the next
    inside.mkdir()
    (inside / "a.png").touch()
    found = planned([folder], inside)
    assert names(found, inside) == ["sub/b.png"] and found.skipped == 1


def test_twins_and_links_are_those_of_the_command_line(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for name in ("1.jpg", "1.png", "2.tif", "real/3.png", "w.psd", "v.cr2"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "album").symlink_to("real")
    (folder / "loop").symlink_to(".")
    expected = ["1.jpg.png", "1.png.png", "2.png", "real/3.png"]
    passed = listing.PassedOver()
    assert names(planned([folder], output, passed=passed), output) == expected
    assert passed.lines() == ["passed over 2 files of formats that are not read: 1 .cr2, 1 .psd"]
    assert names(planned([folder / "1.png"], output), output) == ["1.png.png"]
    jobs = files.plan([str(folder)], str(output), scale=lambda: 4.0)
    assert sorted(str(job.target.relative_to(output)) for job in jobs) == expected


@pytest.mark.parametrize(
    ("inputs", "changes", "message"),
    [
        (["in", "more"], {}, "out/a.png: output of both .*in/a.png and .*more/a.jpg"),
        (["in/a.png"], {"output": "in", "suffix": ""}, "in/a.png: output of .*, but also an input"),
        (["none"], {}, "none: no such file or folder"),
        (["out"], {}, "out: no pictures in this folder"),
        (["in"], {"output": "in/a.png"}, "--output: expected a folder, found a file: in/a.png"),
        (["hdfs2://in"], {}, r"hdfs2://in: no file system for hdfs2:// here"),
        (["in"], {"format": "gif"}, "expected one of png, jpg, webp, avif, tif, found 'gif'"),
        (["in"], {"suffix": "a/b"}, "--suffix: expected part of a file name, found 'a/b'"),
    ],
)
def test_contradictions_are_found_before_anything_runs(
    tmp_path, monkeypatch, inputs, changes, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "more/a.jpg", "out/notes.txt"):
        Path(name).parent.mkdir()
        Path(name).touch()
    changes = {"output": "out", **changes}
    with pytest.raises(UserError, match=message):
        planned(inputs, **changes)
