"""Which output an input gets, and every command line that is refused before anything runs."""

import functools
import os
import re
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgit_sr.errors import UserError
from maskgit_sr.images import files, inputs
from maskgit_sr.images.files import Job

plan = functools.partial(files.plan, scale=lambda: 4.0)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        *("one.jpg", "two.PNG", "notes.txt", ".hidden.png"),
        *("in/a.png", "in/sub/b.jpeg", "in/sub/deep/c.webp", "in/read.me"),
        *("in/.thumbs/d.png", "in/sub/._b.png", "empty/x.txt"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def pairs(jobs):
    return [(str(job.source), str(job.target)) for job in jobs]


def refuses(message, *args, **options):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        plan(*args, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, "one_x4.png"),
        ({"scale": lambda: 2.5}, "one_x2.5.png"),
        ({"format": "webp"}, "one_x4.webp"),
        ({"suffix": "-big"}, "one-big.png"),
        ({"suffix": ""}, "one.png"),
    ],
)
def test_without_output_it_goes_beside_the_input(tree, options, target):
    assert plan(["one.jpg"], None, **options) == [Job(Path("one.jpg"), Path(target))]


@pytest.mark.parametrize(
    ("output", "options", "target"),
    [
        ("x.png", {}, "x.png"),
        ("new/x.TIFF", {}, "new/x.TIFF"),
        ("x.jpeg", {"format": "jpg"}, "x.jpeg"),
        ("out", {}, "out/one.png"),
        ("out/", {"format": "jpg", "suffix": "_r"}, "out/one_r.jpg"),
        *((name, {}, f"{name}/one.png") for name in ("out.v2", "out.V12", "2024.06.01", "v1.0b")),
        *((name, {}, f"{name}/one.png") for name in ("scans.restored", "St. Moritz", "a.b c")),
        ("out.xyz/", {}, "out.xyz/one.png"),
        ("out.png/", {}, "out.png/one.png"),
        ("empty", {}, "empty/one.png"),
        (".", {}, "one_x4.png"),
        (".", {"suffix": "_y"}, "one_y.png"),
    ],
)
def test_output_is_a_name_or_a_folder(tree, output, options, target):
    assert pairs(plan(["one.jpg"], output, **options)) == [("one.jpg", target)]


SUB = ["in/a.png", "in/sub/b.jpeg", "in/sub/deep/c.webp"]


@pytest.mark.parametrize(
    ("inputs", "output", "sources", "targets"),
    [
        # a file that is named may have any suffix
        (["notes.txt", ".hidden.png"], "out", None, ["out/notes.png", "out/.hidden.png"]),
        (["a[1].png"], "out", None, ["out/a[1].png"]),  # it exists, so it is no pattern
        (["*.jpg"], "x.png", ["one.jpg"], ["x.png"]),  # one match may have an output name
        # a folder keeps its sub-folders, what is hidden is left out
        (["in"], "out", SUB, ["out/a.png", "out/sub/b.png", "out/sub/deep/c.png"]),
        # in the input folder outputs are told apart by their names
        (["in"], "in", SUB, ["in/a_x4.png", "in/sub/b_x4.png", "in/sub/deep/c_x4.png"]),
        # what is found twice is restored once
        (["in/a.png", "in", "./in/a.png", "in/*.png"], "out", SUB, None),
    ],
)
def test_what_becomes_of_inputs(tree, inputs, output, sources, targets):
    (tree / "a[1].png").touch()
    jobs = plan(inputs, output)
    assert [str(job.source) for job in jobs] == (sources or inputs)
    assert targets is None or [str(job.target) for job in jobs] == targets


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["one", "two"]),
        ("*.jpg", ["one"]),
        ("in/**/*", ["a", "sub/b", "sub/deep/c"]),
        ("in/**", ["a", "sub/b", "sub/deep/c"]),
        ("**/[bc].*", ["in/sub/b", "in/sub/deep/c"]),
        ("in/s?b/*.jpeg", ["sub/b"]),
    ],
)
def test_patterns(tree, pattern, expected):
    for prefix in ("", f"{tree}/"):
        jobs = plan([prefix + pattern], "out")
        assert [str(job.target) for job in jobs] == [f"out/{name}.png" for name in expected]


@pytest.mark.parametrize("source", ["in", "in/**/*"])
def test_outputs_below_the_input_are_not_inputs_of_the_next_run(tree, source):
    first = plan([source], "in/out")
    for job in first:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        job.target.touch()
    assert pairs(plan([source], "in/out", overwrite=True)) == pairs(first)


def test_existing_outputs(tree):
    (tree / "out").mkdir()
    (tree / "out" / "one.png").touch()
    inputs = ["one.jpg", "two.PNG"]
    refuses("out/one.png: exists already; use --overwrite", inputs, "out")
    assert [job.skipped for job in plan(inputs, "out", skip_existing=True)] == [True, False]
    assert [job.skipped for job in plan(inputs, "out", overwrite=True)] == [False, False]


def test_existing_confidence_map_is_protected_as_well(tree):
    (tree / "x_confidence.png").touch()
    assert len(plan(["one.jpg"], "x.jpg")) == 1
    refuses("x_confidence.png: exists already", ["one.jpg"], "x.jpg", confidence=True)
    (tree / "in" / "a_confidence.png").touch()
    both = "out/a_confidence.png: output of both in/a.png and in/a_confidence.png"
    refuses(both, ["in"], "out", confidence=True)


def test_samples_and_their_map_are_outputs_as_well(tree):
    expected = ("out/one_1.png", "out/one_2.png", "out/one_std.png")
    assert tuple(map(str, files.outputs(Path("out/one.png"), 2))) == expected
    assert files.outputs(Path("one.tif")) == (Path("one.tif"),)
    assert str(files.outputs(Path("one.tif"), 2)[-1]) == "one_std.png"
    (tree / "x_2.jpg").touch()
    assert pairs(plan(["one.jpg"], "x.jpg", samples=1)) == [("one.jpg", "x.jpg")]
    refuses("x_2.jpg: exists already", ["one.jpg"], "x.jpg", samples=2)
    (tree / "x_1_confidence.png").touch()
    refuses("x_1_confidence.png: exists", ["one.jpg"], "x.jpg", samples=1, confidence=True)
    # skipped where all is there, not where some is
    for name in ("x_1.jpg", "x_std.png"):
        job = plan(["one.jpg"], "x.jpg", samples=2, skip_existing=True)
        assert not job[0].skipped
        (tree / name).touch()
    assert plan(["one.jpg"], "x.jpg", samples=2, skip_existing=True)[0].skipped
    (tree / "in" / "a_std.png").touch()
    refuses("in/a_std.png: output of in/a.png, but also", ["in"], "in", samples=2, suffix="")
    for name in ("in/b_1.png", "in/b_std.png"):
        (tree / name).touch()
    found = {str(f.source) for f in files.pictures("in")}
    assert "in/b_1.png" in found and "in/b_std.png" not in found and "in/a_std.png" in found


def test_inputs_that_are_refused(tree):
    refuses("INPUT: expected a file", [], "out")
    refuses("INPUT: no such file or folder", [""], "out")
    refuses("gone.png: no such file or folder", ["one.jpg", "gone.png"], "out")
    for address in ("https://x.org/a.png?size=2", "gs://bucket/photos"):
        told = f"image: expected a file on this machine, found the address {address}"
        refuses(told, ["one.jpg", address], "out")
    refuses("empty: no pictures in this folder", ["empty"], "out")
    refuses("*.gif: no pictures match this pattern", ["*.gif"], "out")


def test_outputs_that_are_refused(tree):
    refuses("--output: a folder is needed for 2 inputs", ["one.jpg", "two.PNG"], None)
    refuses("--output: a folder is needed for an input folder", ["in"], None)
    refuses("x.png: expected a folder for 2 inputs", ["one.jpg", "two.PNG"], "x.png")
    refuses("x.png: expected a folder for an input folder", ["in"], "x.png")
    refuses("notes.txt: expected an output suffix of .png", ["one.jpg"], "notes.txt")
    refuses("notes.txt: expected a folder for 2 inputs", ["one.jpg", "two.PNG"], "notes.txt")
    refuses("x.gif: expected an output suffix of .png", ["one.jpg"], "x.gif")
    for name in ("out.heic", "out.xyz", "out.JXL", "out.3fr", "a/out.v", "x.mp4", "out.json"):
        told = f"found '{Path(name).suffix}' (a new folder of this name is written {name}/)"
        refuses(told, ["one.jpg"], name)
        refuses(f"{name}: expected a folder for 2 inputs", ["one.jpg", "two.PNG"], name)
    refuses("--output: expected a file or folder, found an empty name", ["one.jpg"], "")
    refuses("notes.txt/: expected an output folder, found a file", ["one.jpg"], "notes.txt/")
    (tree / "out" / "one.png").mkdir(parents=True)
    refuses("out/one.png: expected an output file, found a folder", ["one.jpg"], "out")


def test_options_that_are_refused(tree):
    refuses("--format: expected one of png, jpg, webp, avif, tif", ["one.jpg"], "out", format="gif")
    refuses("--format jpg: contradicts the output name x.png", ["one.jpg"], "x.png", format="jpg")
    refuses("--suffix _r: cannot be used with", ["one.jpg"], "x.png", suffix="_r")
    refuses("--suffix: expected part of a file name", ["one.jpg"], "out", suffix="../x")
    refuses("found both", ["one.jpg"], "out", skip_existing=True, overwrite=True)


@pytest.mark.parametrize("output", ["two.PNG", "./two.PNG", "in/../two.PNG"])
def test_output_that_is_the_input(tree, output):
    refuses("but also an input", ["two.PNG"], output, overwrite=True)


def test_output_of_two_inputs_or_that_is_another_input_or_a_link_to_one(tree):
    (tree / "empty" / "one.png").touch()
    same_name = ["one.jpg", "empty/one.png"]
    refuses("out/one.png: output of both one.jpg and empty/one.png", same_name, "out")
    (tree / "one.png").touch()
    both = ["one.jpg", "one.png"]
    refuses("one.png: output of one.jpg, but also an input", both, ".", suffix="", overwrite=True)
    (tree / "link.png").symlink_to("one.jpg")
    refuses("link.png: output of one.jpg, but also an input", ["one.jpg"], "link.png")


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_that_differ_in_suffix_alone_keep_it(tmp_path, monkeypatch):
    """In every run alike, so that --skip-existing never takes one's output for the other's."""
    monkeypatch.chdir(tmp_path)
    names = ["1.jpg", "1.png", "2.jpg", "3.tif", "3.tiff", "4.png", "4.jpg.png", "4.jpg", "s/1.jpg"]
    touch(*(Path("in", name) for name in names), Path("in/2.txt"))
    expected = {f"in/{name}": f"out/{name}.png" for name in names}
    expected |= {"in/2.jpg": "out/2.png", "in/s/1.jpg": "out/s/1.png"}
    assert dict(pairs(plan(["in"], "out"))) == expected
    found = [*plan(["in/*.jpg"], "out"), *plan(["in/1.png", "in/3.tif"], "out")]
    assert dict(pairs(found)).items() <= (expected | {"in/s/1.jpg": None}).items()
    jobs = plan(["in"], "out", suffix="_x4", format="webp")
    assert str(jobs[0].target) == "out/1.jpg_x4.webp"
    touch(*(job.target for job in plan(["in/*.jpg"], "out")))
    again = plan(["in"], "out", skip_existing=True)
    skipped = {job.source.name for job in again if job.skipped}
    assert skipped == {"1.jpg", "2.jpg", "4.jpg"}
    # beside the inputs, too, where an earlier output is no twin of its input
    beside = dict(pairs(plan(["in/1.jpg", "in/2.jpg"], "in")))
    assert beside == {"in/1.jpg": "in/1.jpg_x4.png", "in/2.jpg": "in/2_x4.png"}
    touch(Path("in/2.png"))
    [job] = plan(["in/2.jpg"], "in", suffix="", skip_existing=True)
    assert job.target == Path("in/2.png") and job.skipped


def test_names_that_a_folder_without_capitals_would_take_for_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a.JPG", "a.jpg", "B.png", "b.png", "c.jpg", "C.png", "\u00e9.png", "e\u0301.png"]
    touch(*(Path("in", name) for name in names))
    targets = [job.target.name for job in plan(["in"], "out")]
    assert sorted(targets) == sorted(
        ["a.JPG.png", "a.jpg.png", "B.png", "b.png", "c.jpg.png", "C.png.png", *names[-2:]]
    )
    monkeypatch.setattr(files, "folds", lambda folder: True)
    targets = {job.source.name: job.target.name for job in plan(["in"], "out")}
    assert len({inputs.fold(name) for name in targets.values()}) == len(names)
    assert targets["a.jpg"] == f"a.jpg.{zlib.crc32(b'a.jpg'):08x}.png"
    assert targets["B.png"] == f"B.{zlib.crc32(b'B.png'):08x}.png"
    assert targets["c.jpg"] == "c.jpg.png"


def test_whether_a_folder_tells_capitals_apart(tmp_path, monkeypatch):
    (tmp_path / "name").touch()
    assert not files.folds(tmp_path / "new" / "folder")  # by where it will be made
    (tmp_path / "NAME").hardlink_to(tmp_path / "name")
    assert files.folds(tmp_path)


def test_linked_folders_are_followed_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(*(Path(name) for name in ("real/sub/x.png", "real/y.png", "lib/z.png", "lib/in/w.png")))
    for link, target in {
        "lib/album": "../real",  # a folder elsewhere
        "lib/again": "../real",  # once more
        "lib/here": "in",  # one that is found without the link
        "lib/in/up": "..",  # loops
        "lib/self": ".",
        "lib/self2": ".",
        "lib/y.png": "../real/y.png",  # a file that is found twice
        "only": "lib/album",
    }.items():
        Path(link).symlink_to(target)
    expected = ["lib/again/sub/x.png", "lib/in/w.png", "lib/y.png", "lib/z.png"]
    for text in (
        "lib",
        "lib/**",
        "lib/**/*",
        "lib/**/**/*.png",
        f"{tmp_path}/lib",
        f"{tmp_path}/lib/**",
    ):
        found = [os.path.relpath(job.source) for job in plan([text], "out")]
        assert sorted(found) == expected, text
    assert len(plan(["**"], "out")) == 4
    assert [str(job.target) for job in plan(["only"], "out")] == ["out/y.png", "out/sub/x.png"]


def test_nothing_is_passed_over_in_silence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(*(Path("in", name) for name in ("a.png", "b.HEIC", "c.tga", "d.ico", "e.jfif", "notes")))
    touch(*(Path("in", name) for name in ("1.psd", "2.PSD", "s/3.cr2", "s/.hid.psd", "notes.txt")))
    Path("in/f.png").symlink_to("gone.png")
    Path("in/album").symlink_to("../gone")
    os.mkfifo("in/g.png")
    for text in ("in", "in/**"):
        passed = files.PassedOver()
        jobs = plan([text], "out", passed=passed)
        found = sorted(job.source.name for job in jobs)
        # what cannot be read is said where it is read
        assert found == ["a.png", "b.HEIC", "c.tga", "d.ico", "e.jfif", "f.png", "g.png"]
        assert passed.lines() == [
            "in/album: broken link to ../gone",
            "passed over 3 files of formats that are not read: 1 .cr2, 2 .psd",
        ]
    touch(Path("raw/1.nef"))
    refuses("raw: no pictures in this folder; passed over 1 file of formats that are", ["raw"], "o")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named_and_costs_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(Path("in/a.png"), Path("in/locked/b.png"))
    os.chmod("in/locked", 0)
    passed = files.PassedOver()
    assert len(plan(["in"], "out", passed=passed)) == 1
    assert passed.lines() == ["in/locked: cannot be read (Permission denied)"]
    refuses("in/locked: cannot be read (Permission denied)", ["in/locked"], "out")


def test_names_as_they_come(tmp_path, monkeypatch):
    """Not UTF-8, with line breaks, brackets, spaces at the end, and as long as a file's may be."""
    monkeypatch.chdir(tmp_path)
    odd = [
        "caf\udce9.png",
        "a\nb.png",
        "-x.png",
        "end .png",
        "[a].png",
        "*.png",
        "?",
        "x" * 251 + ".png",
    ]
    touch(*(Path("in [1]", name) for name in odd))
    jobs = plan(["in [1]"], "out [2]")
    assert {job.target.name for job in jobs} == {*odd} - {"?"}
    for name in odd:  # what exists is no pattern
        [job] = plan([f"in [1]/{name}"], "out [2]")
        assert job.source == Path("in [1]", name)
    Path("in [1]/*.png").unlink()
    for pattern in (
        "in [[]1[]]/*",
        "in [1]/*",
        "in [1]/**",
        f"{tmp_path}/in [1]/*.png",
        "i?*/*.png",
    ):
        assert len(plan([pattern], "out [2]")) == len(odd) - 2, pattern
    touch(Path("in [1]/e\u0301a.png"))  # as a Mac writes it
    assert len(plan(["in [[]1]/\u00e9*"], "out")) == 1


@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
def test_any_file_name_gets_its_own_output(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        (folder / f"{name}.png").touch()
    visible = [name for name in names if not name.startswith(".")]
    if not visible:
        refuses("no pictures", [str(folder)], str(folder / "out"))
        return
    jobs = plan([str(folder)], str(folder / "out"))
    assert sorted(job.target.name for job in jobs) == sorted(f"{name}.png" for name in visible)
    assert all(job.target.parent == folder / "out" for job in jobs)
