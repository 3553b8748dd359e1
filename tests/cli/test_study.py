"""`maskgit-sr study` and `fool-rate` as they are typed."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import refuses, run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Two scenes, two systems, and answers to a study of them."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for i in range(2):
        for kind, side in (("hr", 16), ("lr", 4), ("one", 16), ("sub/one", 16), ("two", 16)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{i}.png")
    head = "study,subject,trial,task,seconds,image,system,reference_side,answer\n"
    for name in "ab":
        lines = [
            f"s,{name},{i},2,3,{i},sr3,left,{'right' if i < 3 else 'left'}\n" for i in range(8)
        ]
        (folder / f"{name}.csv").write_text(head + "".join(lines))
    return folder


def test_a_page(base, tmp_path):
    command = ("study", base / "one", base / "two", "--hr", base / "hr", "-o", tmp_path / "page")
    found = run(*command, "--lr", base / "lr")
    assert "task 1, Which of the two images is a better high quality version" in found.stdout
    assert "2 scenes, of which a subject sees 2 once for 3 s" in found.stdout
    assert "beside an output of one or two" in found.stdout
    assert '"systems": ["one", "two"]' in (tmp_path / "page" / "index.html").read_text()
    found = run(*command, "--seconds", 0.5, "--trials", 1)
    assert "task 2, Which image would you guess is from a camera?" in found.stdout
    assert "sees 1 once for 0.5 s" in found.stdout
    assert "a subject sees fewer scenes (1) than there are systems (2)" in found.stderr
    run(*command, "--lr", base / "lr", "--task", 2, "--limit", 1, "--crop", 8)
    page = (tmp_path / "page" / "index.html").read_text()
    assert '"task": 2' in page and '"width": 8' in page and "s1-hr" not in page


def test_a_scene_without_an_output_costs_exit_code_1(base, tmp_path):
    (tmp_path / "less").mkdir()
    (tmp_path / "less" / "1.png").write_bytes((base / "one" / "1.png").read_bytes())
    command = ("study", base / "two", tmp_path / "less", "--hr", base / "hr", "-o", tmp_path / "p")
    found = run(*command, code=1)
    assert "0.png: no single partner in --sr" in found.stderr
    assert "1 scene, of which" in found.stdout


def test_fool_rates(base, tmp_path):
    found = run("fool-rate", base / "a.csv", base / "b.csv", "-o", tmp_path / "r.json")
    row = next(line for line in found.stdout.splitlines() if line.startswith("sr3"))
    # Wilson's interval of 6 in 16
    assert row.split() == "sr3 2 3 37.5% 18.5% – 61.4% 16 2 37.5% 62.5%".split()
    (rate,) = json.loads((tmp_path / "r.json").read_text())["rates"]
    assert rate["rate"] == 0.375 and rate["images"]["2"] == [2, 2]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("study one --hr hr -o p --task 3", "--task: expected 1 or 2, found 3"),
        ("study one --hr hr -o p --task 1", "--task 1: needs --lr"),
        ("study one --hr hr -o p --seconds 0", "--seconds: expected 0.05 to 3600, found 0"),
        ("study one --hr hr -o p --seconds nan", "--seconds: expected 0.05 to 3600, found nan"),
        ("study one --hr hr -o p --trials 0", "--trials: expected at least 1"),
        ("study one --hr hr -o p --crop 17", "no scene can be used: 0: 16x16 is smaller"),
        ("study one sub/one --hr hr -o p", "expected folders of different names, found 'one'"),
        ("study gone --hr hr -o p", "gone: no such file or folder"),
        ("study one --hr gone -o p", "gone: no such file or folder"),
        ("fool-rate gone.csv", "gone.csv: No such file"),
        ("fool-rate a.csv a.csv", "a.csv: line 2: subject 'a' has answered trial 0 in a.csv"),
    ],
)
def test_mistakes_are_one_line(base, monkeypatch, command, message):
    monkeypatch.chdir(base)
    refuses(message, *command.split())
    assert not (base / "p").exists() or not [*(base / "p").iterdir()]
