"""evaluation.study: the page of a study, its plan of trials, and the rates of its answers."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import statistics
from maskgit_sr.evaluation.study import answers, page
from maskgit_sr.images import pairing
from tests.evaluation.reports import NASTY, Page

SCRIPT = Path(page.__file__).with_name("study.js")


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def sets(tmp_path):
    """Three scenes: hr, lr of a quarter, and outputs of two systems."""
    rng = np.random.default_rng(0)
    for i in range(3):
        for kind, height, width in (("hr", 24, 32), ("lr", 6, 8), ("one", 24, 32), ("two", 24, 32)):
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            save(tmp_path / kind / f"{i}.png", pixels)
    return tmp_path


def entries(sets, *systems, lr=True):
    found = [str(sets / name) for name in systems]
    return pairing.match_samples(found, str(sets / "hr"), str(sets / "lr") if lr else None)[0]


def pictures(made):
    """Pixels of the page's elements by id."""
    found = {}
    for _, attributes, text in made.all("script", type="text/plain"):
        data = base64.b64decode(text.partition("base64,")[2])
        found[attributes["id"]] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return found


def data(made):
    return json.loads(made.all("script", id="data")[0][2])


# ------------------------------------------------------------------ the page


def test_page_holds_all_pictures_without_loss(sets):
    for i in range(3):
        save(sets / "lr" / f"{i}.png", np.full((6, 8, 3), 40 * i, np.uint8))
    path, scenes, problems = page.write(
        sets / "page", entries(sets, "one", "two"), ["one", "two"], task=1, trials=2
    )
    assert (path, scenes, problems) == (sets / "page" / "index.html", 3, [])
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    made = Page(path)
    found = pictures(made)
    assert sorted(found) == sorted(f"s{i}-{k}" for i in range(3) for k in ("0", "1", "hr", "lr"))
    for i in range(3):
        for key, kind in (("hr", "hr"), ("0", "one"), ("1", "two")):
            pixels = np.asarray(Image.open(sets / kind / f"{i}.png"))
            np.testing.assert_array_equal(found[f"s{i}-{key}"], pixels)
        np.testing.assert_array_equal(found[f"s{i}-lr"], np.full((24, 32, 3), 40 * i))
    study = data(made)
    assert study.pop("study").isalnum()
    assert study == {
        "task": 1,
        "seconds": 3,
        "trials": 2,
        "systems": ["one", "two"],
        "scenes": [{"name": str(i), "width": 32, "height": 24} for i in range(3)],
    }
    assert [text for tag, _, text in made.elements if tag == "h1"][:2] == [page.QUESTIONS[1]] * 2
    assert made.all("img", id="picture-middle")


def test_page_loads_nothing(sets):
    path, *_ = page.write(sets / "page", entries(sets, "one", lr=False), ["one"], task=2)
    made = Page(path)
    policy = made.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][1]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;") and "sha256-" in policy
    assert not re.search(r"https?:|\{\{", made.text)
    assert not made.all("img", id="picture-middle") and page.QUESTIONS[2] in made.text
    assert "s0-lr" not in pictures(made)


def test_a_study_is_named_by_what_it_shows(sets):
    def name(**changes):
        settings = {"task": 2, "seconds": 3, **changes}
        path, *_ = page.write(sets / "page", entries(sets, "one", lr=False), ["one"], **settings)
        return data(Page(path))["study"]

    assert name() == name() and len({name(), name(seconds=6), name(crop=8)}) == 3


def test_a_crop_from_the_centre(sets):
    path, *_ = page.write(sets / "page", entries(sets, "one"), ["one"], task=1, crop=16)
    found = pictures(Page(path))
    hr = np.asarray(Image.open(sets / "hr" / "0.png"))
    np.testing.assert_array_equal(found["s0-hr"], hr[4:20, 8:24])
    assert {picture.shape for picture in found.values()} == {(16, 16, 3)}


def test_scenes_that_cannot_be_shown_are_told(sets):
    both = entries(sets, "one", "two", lr=False)
    save(sets / "two" / "0.png", np.zeros((24, 30, 3), np.uint8))
    (sets / "hr" / "2.png").write_bytes(b"no picture")
    path, scenes, problems = page.write(sets / "page", both, ["one", "two"], task=2)
    assert scenes == 1 and [scene["name"] for scene in data(Page(path))["scenes"]] == ["1"]
    assert sorted(pictures(Page(path))) == ["s0-0", "s0-1", "s0-hr"]
    assert problems[0] == "0: expected output and reference of one size, found 30x24 and 32x24"
    assert "2.png" in problems[1]
    with pytest.raises(UserError, match="no scene can be used: 1: 32x24 is smaller than the crop"):
        page.write(sets / "none", both[1:2], ["one", "two"], task=2, crop=25)
    assert not (sets / "none" / "index.html").exists()


def test_names_cannot_break_the_page(sets):
    path, *_ = page.write(sets / "page", entries(sets, "one"), [NASTY[0]], task=1)
    assert data(Page(path))["systems"] == [NASTY[0]] and NASTY[0] not in Page(path).text


# ------------------------------------------------------------------ the session


@pytest.fixture(scope="module")
def session():
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node on PATH")
    command = [node, str(Path(__file__).with_name("session.js")), str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_plan_of_trials(session):
    """Every scene once, every system equally often, the reference equally often on each side."""
    for plan in session["plans"]:
        assert len(plan) == 12 and len({trial["scene"] for trial in plan}) == 12
        assert Counter((t["system"], t["left"]) for t in plan) == {
            (system, left): 2 for system in range(3) for left in (True, False)
        }
    assert session["plans"][2] == session["again"]
    assert len({json.dumps(plan) for plan in session["plans"][1:]}) == 3
    assert sorted(trial["scene"] for trial in session["few"]) == [0, 1, 2]


def test_plans_favour_no_side_and_no_order(session):
    numbers = np.array(session["numbers"])
    assert numbers.min() >= 0 and numbers.max() < 1 and abs(numbers.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.05
    # 400 plans of 6 scenes: 5 standard deviations
    first_left = np.mean([plan[0]["left"] for plan in session["many"]])
    assert abs(first_left - 0.5) < 5 * np.sqrt(0.25 / 400)
    places = np.array([[trial["scene"] for trial in plan] for plan in session["many"]])
    for place in range(6):
        counts = np.bincount(places[:, place], minlength=6)
        assert (np.abs(counts - 400 / 6) < 5 * np.sqrt(400 * 5 / 36)).all()


def test_table_of_answers(session):
    head, row = list(csv.reader(io.StringIO(session["csv"], newline="")))
    assert set(answers.COLUMNS) <= set(head)
    assert row[head.index("image")] == 'a,"b"\nc' and row[head.index("trial")] == "1"


def test_a_subject_answers(session):
    """Keys count only once the pictures are gone; a trial that was not in sight comes again."""
    whole = session["whole"]
    rows = list(csv.DictReader(io.StringIO(whole["csv"], newline="")))
    assert whole["file"] == "answers-5tudy-Ann_s_.csv" and whole["count"] == "4 of 4"
    assert [row["trial"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["image"] for row in rows} == {"a", "b", "c", "d"}
    assert [row["answer"] for row in rows] == ["left", "right", "left", "right"]
    assert [row["subject"] for row in rows] == ["Ann's!"] * 4
    # the second of the five that were shown was hidden
    shown = whole["shown"]
    assert len(shown) == 5 and shown[1] == shown[4] and len(set(shown[:4])) == 4
    for row, pictures in zip(rows, [shown[0], *shown[2:]], strict=True):
        left, middle, right = pictures.split()
        scene, system = "abcd".index(row["image"]), ["one", "two"].index(row["system"])
        assert middle == f"s{scene}-lr"
        sides = {"left": left, "right": right}
        assert sides.pop(row["reference_side"]) == f"s{scene}-hr"
        assert [*sides.values()] == [f"s{scene}-{system}"]
    assert {row["shown_ms"] for row in rows} == {"3016"}  # 3 seconds and a frame
    # 300 pixels a side, three of them and four gaps of 24 in a window of 800, two dots a pixel
    assert float(rows[0]["scale"]) == pytest.approx(2 * (800 - 4 * 24) / 3 / 300, abs=1e-3)


def test_a_subject_ends_early(session):
    early = session["early"]
    rows = list(csv.DictReader(io.StringIO(early["csv"], newline="")))
    assert len(rows) == 2 and early["count"] == "2 of 4"
    assert rows[0]["subject"] == early["file"].removesuffix(".csv").split("-")[2] == "000000ff"
    assert session["none"]["csv"].count("\n") == 1 and session["none"]["hidden"] is True


# ------------------------------------------------------------------ the rates

HEAD = "study,subject,seed,trial,task,seconds,image,system,reference_side,answer,shown_ms\r\n"


def table(path, *rows, subject="a", study="s"):
    """Rows of (task, image, system, reference side, answer)."""
    lines = [
        f"{study},{subject},1,{i},{task},3,{image},{system},{side},{answer},3000\r\n"
        for i, (task, image, system, side, answer) in enumerate(rows, 1)
    ]
    path.write_text(HEAD + "".join(lines), encoding="utf-8", newline="")
    return path


def test_rates(tmp_path):
    wrong, right = ("left", "right"), ("right", "right")
    first = table(
        tmp_path / "a.csv",
        *((1, i, "sr3", *(wrong if i < 3 else right)) for i in range(5)),
        (1, 9, "regression", *right),
    )
    second = table(tmp_path / "b.csv", (1, 0, "sr3", *right), (2, 0, "sr3", *wrong), subject="b")
    found = answers.rates(answers.read([first, second]))
    assert found["studies"] == ["s"]
    one, two, three = found["rates"]
    assert [(r["task"], r["system"]) for r in (one, two, three)] == [
        *((1, "regression"), (1, "sr3"), (2, "sr3"))
    ]
    assert {key: two[key] for key in ("rate", "low", "high", "n")} == statistics.proportion(3, 6)
    assert two["rate"] == 0.5 and two["subjects"] == 2 and two["left"] == 0
    assert two["subject_mean"] == pytest.approx((3 / 5 + 0) / 2)
    assert two["images"]["0"] == [1, 2] and two["images"]["4"] == [0, 1]
    assert one["rate"] == 0 and one["low"] == 0 and 0.7 < one["high"] < 0.9
    answers.write(found, tmp_path / "rates.json")
    assert json.loads((tmp_path / "rates.json").read_text())["kind"] == answers.KIND


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column study"),
        ("study,subject\n", "no column trial"),
        (HEAD, "no answers"),
        (HEAD + "s,a,1,1,3,3,i,x,left,left,9\n", "line 2: task: expected 1 or 2, found '3'"),
        (
            HEAD + "s,a,1,1,1,3,i,x,left,up,9\n",
            "line 2: answer: expected left or right, found 'up'",
        ),
        (HEAD + "s,a,1,1,1,3,i,x,left\n", "line 2: expected 11 values"),
        (HEAD + "s,a,1,1,1,3,i,x,left,left,9,9\n", "line 2: expected 11 values"),
        (HEAD + 2 * "s,a,1,1,1,3,i,x,left,left,9\n", "line 3: subject 'a' has answered trial 1"),
        (b"\xff\xfe\x00", "not a text in UTF-8"),
        (HEAD + '"' + "x" * 200_000, "not a table: field larger"),
        (None, "No such file"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    path = tmp_path / "a.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        answers.read([path])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
