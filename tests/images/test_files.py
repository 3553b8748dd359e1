"""Which output an input gets, and every command line that is refused before anything runs."""

import functools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgit_sr.errors import UserError
from maskgit_sr.images import files
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
        ("out.v2", {}, "out.v2/one.png"),
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


def test_inputs_that_are_refused(tree):
    refuses("INPUT: expected a file", [], "out")
    refuses("INPUT: no such file or folder", [""], "out")
    refuses("gone.png: no such file or folder", ["one.jpg", "gone.png"], "out")
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
    refuses("--output: expected a file or folder, found an empty name", ["one.jpg"], "")
    refuses("notes.txt/: expected an output folder, found a file", ["one.jpg"], "notes.txt/")
    (tree / "out" / "one.png").mkdir(parents=True)
    refuses("out/one.png: expected an output file, found a folder", ["one.jpg"], "out")


def test_options_that_are_refused(tree):
    refuses("--format: expected one of png, jpg, webp, tif", ["one.jpg"], "out", format="gif")
    refuses("--format jpg: contradicts the output name x.png", ["one.jpg"], "x.png", format="jpg")
    refuses("--suffix _r: cannot be used with", ["one.jpg"], "x.png", suffix="_r")
    refuses("--suffix: expected part of a file name", ["one.jpg"], "out", suffix="../x")
    refuses("found both", ["one.jpg"], "out", skip_existing=True, overwrite=True)


@pytest.mark.parametrize("output", ["two.PNG", "./two.PNG", "in/../two.PNG"])
def test_output_that_is_the_input(tree, output):
    refuses("but also an input", ["two.PNG"], output, overwrite=True)


def test_output_of_two_inputs_or_that_is_another_input_or_a_link_to_one(tree):
    (tree / "in" / "a.jpg").touch()
    refuses("out/a.png: output of both in/a.jpg and in/a.png", ["in"], "out")
    (tree / "empty" / "one.png").touch()
    same_name = ["one.jpg", "empty/one.png"]
    refuses("out/one.png: output of both one.jpg and empty/one.png", same_name, "out")
    (tree / "one.png").touch()
    both = ["one.jpg", "one.png"]
    refuses("one.png: output of one.jpg, but also an input", both, ".", suffix="", overwrite=True)
    (tree / "link.png").symlink_to("one.jpg")
    refuses("link.png: output of one.jpg, but also an input", ["one.jpg"], "link.png")


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
