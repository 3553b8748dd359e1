"""The page of an evaluation: what it says, and that it is safe, whole and on its own."""

import base64
import hashlib
import re
import weakref

import numpy as np
import pytest

from maskgit_sr.errors import UserError
from maskgit_sr.evaluation.report import page as report
from maskgit_sr.images import colormaps
from tests.evaluation.reports import METRICS, NAMES, NASTY, result, views, written
from tests.inference.pictures import gradient, noise

# ------------------------------------------------------------------ what it says


def test_head_says_what_was_measured(tmp_path):
    page = written(tmp_path, result(problems=["x.png: cannot be read"]))
    assert page.all("h1")[0][2] == "ours"
    told = [text for _, _, text in page.all("dd")]
    assert told[:5] == [
        "realsrt (whole pictures, border of 4 px cut)",
        "3 of 4 scored",
        "sr runs/ours · hr hr",
        "cpu, 2 cores",
        "maskgit_sr 0.1.0 · jax 0.10.2",
    ]
    assert told[5:] == [metric["text"] for metric in METRICS.values()]
    assert [text for _, _, text in page.all("li")] == ["x.png: cannot be read"]
    assert "WebP, quality 90" in page.text and "scores are of the originals" in page.text


def test_summary_of_one_system(tmp_path):
    page = written(tmp_path)
    cells = [text.strip() for _, _, text in page.all("td")]
    assert cells == ["6.0000", "24.88", "0.2500", "80.00"]
    ranges = [text for _, _, text in page.all("span", **{"class": "range"})]
    assert ranges == ["5.0000 – 7.0000", "−1.50 – 27.00", "n = 1"]
    assert not page.all("td", **{"class": "best"})


def test_several_systems_and_the_best_of_each_metric(tmp_path):
    worse = result("<b>", psnr=(20.0,), counts={"scored": 3, "of": 3})
    worse["summary"]["niqe"]["mean"] = 4.5
    del worse["summary"]["fid"]
    worse["problems"] = ["dists: left out"]
    page = written(tmp_path, result(problems=["dists: left out", "a.png: damaged"]), worse)
    problems = [text for _, _, text in page.all("li")]
    assert problems == ["dists: left out", "ours: a.png: damaged"]  # what they share once
    assert [text for _, _, text in page.all("th", scope="row")] == ["ours", "<b>"]
    assert [text for _, _, text in page.all("td", **{"class": "best"})] == [
        *("24.88", "0.2500", "80.00"),
        *("4.5000", "0.2500"),  # two may be the best
    ]
    assert page.all("td")[-1][2] == "–"
    assert "beside &lt;b&gt;" in page.text
    told = [text for _, _, text in page.all("dd")]
    assert told[1:3] == ["ours: 3 of 4 scored", "<b>: 3 of 3 scored"]
    assert page.json("data")["systems"] == ["ours", "<b>"]


def test_rows_have_every_score(tmp_path):
    other = result("other", names=["two", "four"], psnr=(1.0,))
    other["images"][0]["notes"] = ["cut"]
    data = written(tmp_path, result(), other).json("data")
    assert [m["key"] for m in data["metrics"]] == ["niqe", "psnr_rgb", "lpips_alex"]  # no set
    assert [image["name"] for image in data["images"]] == [*NAMES, "four"]
    assert data["images"][0]["scores"] == [[5.0, 24.125, 0.25], [None, None, None]]
    assert data["images"][1]["scores"] == [[6.0, 30.0, None], [5.0, 1.0, 0.25]]
    assert data["images"][1]["notes"] == ["other: cut"]


def test_nothing_scored(tmp_path):
    page = written(tmp_path, result(names=[], summary={}, counts={"scored": 0, "of": 2}))
    assert {text for _, _, text in page.all("td")} == {"–"}
    assert page.json("data")["images"] == []


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "expected the scores of one system or more, found none"),
        ([result(), result()], "expected systems of different names, found 'ours' twice"),
        (
            [result(), result("b", protocol={**result()["protocol"], "crop": 512})],
            "'ours' was scored with crop 0, 'b' with crop 512",
        ),
    ],
)
def test_what_cannot_stand_in_one_table(tmp_path, results, message):
    with pytest.raises(UserError, match=message):
        report.write(tmp_path / "new", results, views)
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------ pictures


def test_pictures_and_error_maps(tmp_path):
    page = written(tmp_path)
    found = page.json("views-0")
    assert (found["width"], found["height"]) == (40, 24)
    shown = {one["label"]: one for one in found["pictures"]}
    assert [(label, one["kind"]) for label, one in shown.items()] == [
        *((label, "picture") for label in ("LR", "ours", "HR")),
        *(("error of ours", "error"), ("confidence", "map")),
    ]
    assert (shown["LR"]["width"], shown["LR"]["height"]) == (10, 6)

    given = views("one")
    copies = {label: page.picture(one["id"]).astype(int) for label, one in shown.items()}
    np.testing.assert_array_equal(copies["LR"], given["LR"])
    np.testing.assert_array_equal(copies["confidence"], colormaps.CONFIDENCE[given["confidence"]])
    assert np.abs(copies["HR"] - given["HR"]).mean() < 3
    error = colormaps.error(given["ours"], given["HR"])
    assert np.abs(copies["error of ours"] - error).mean() < 3


@pytest.mark.parametrize(
    ("views", "size", "labels"),
    [
        ({"LR": noise(6, 10, 3), "ours": gradient()}, (40, 24), ["LR", "ours"]),
        ({}, (0, 0), []),
    ],
)
def test_without_hr_the_largest_counts(tmp_path, views, size, labels):
    found = written(tmp_path, views=lambda name: views).json("views-2")
    assert (found["width"], found["height"]) == size
    assert [one["label"] for one in found["pictures"]] == labels


def test_longer_than_webp_allows(tmp_path):
    long = noise(1, 16384, 3)
    page = written(tmp_path, result(names=["one"]), views=lambda name: {"ours": long})
    np.testing.assert_array_equal(page.picture("p0-0"), long)


def test_quality(tmp_path):
    both = {"ours": noise(64, 64, 3), "HR": noise(64, 64, 3, seed=1)}
    sizes = [len(written(tmp_path, views=lambda _: both, quality=q).text) for q in (10, 95)]
    assert sizes[0] < 0.7 * sizes[1]
    assert "quality 95" in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("array", [noise(4, 4, 4), noise(4, 4, 3, np.uint16), np.zeros((0, 4, 3))])
def test_what_is_no_picture(tmp_path, array):
    with pytest.raises(ValueError, match="ours: expected uint8"):
        report.write(tmp_path, [result()], lambda name: {"ours": array})


# ------------------------------------------------------------------ safe, whole, alone


def test_names_are_harmless(tmp_path):
    ours = result(NASTY[0], names=NASTY, problems=NASTY, hardware=NASTY[1])
    ours["images"][0]["notes"] = NASTY
    page = written(tmp_path / "a", ours, views=lambda name: {name: gradient(), "HR": gradient()})
    shown = [name.encode("utf-8", "backslashreplace").decode() for name in NASTY]
    assert [image["name"] for image in page.json("data")["images"]] == shown
    assert page.json("data")["images"][0]["notes"] == shown
    assert page.json("views-1")["pictures"][0]["label"] == shown[1]
    assert [text for _, _, text in page.all("li")] == shown
    assert page.all("h1")[0][2] == shown[0]
    plain = result("s", names="abcd", problems=[*"abcd"], hardware="h")
    plain["images"][0]["notes"] = [*"abcd"]
    other = written(tmp_path / "b", plain, views=lambda name: {name: gradient(), "HR": gradient()})
    assert len(page.elements) == len(other.elements)


def test_it_needs_no_other_file(tmp_path):
    page = written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), tag
    assert "url(" not in page.text and "@import" not in page.text
    assert not re.search(r"https?://", page.text)


def test_only_its_own_script_may_run(tmp_path):
    page = written(tmp_path)
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][1]["content"]
    (script,) = [e[2] for e in page.all("script") if "type" not in e[1]]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not [n for _, attributes, _ in page.elements for n in attributes if n.startswith("on")]


def test_ids_are_unique_and_found(tmp_path):
    page = written(tmp_path)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [a.get("aria-labelledby") for _, a, _ in page.elements if "aria-labelledby" in a]
    assert labels and set(labels) <= set(ids)
    script = next(e[2] for e in page.all("script") if not e[1])
    assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= set(ids)


def test_one_image_at_a_time(tmp_path):
    called, alive = [], []

    def counting(name):
        assert not [one for one in alive if one() is not None]
        (part,) = tmp_path.glob(".*.part.html")
        assert not (tmp_path / "index.html").exists()
        made = views(name)
        alive.extend(weakref.ref(array) for array in made.values())
        called.append((name, part.stat().st_size))
        return made

    names = [f"image {i}" for i in range(40)]
    written(tmp_path, result(names=names), result("b", names=names[::-1]), views=counting)
    assert [name for name, _ in called] == names
    assert called[0][1] < called[20][1] < called[39][1]  # what came before is on the disk


@pytest.mark.parametrize("error", [UserError("x.png: damaged"), OSError(5, "disk on fire")])
def test_failing_views_leave_nothing_behind(tmp_path, error):
    def failing(name):
        if name == "three":
            raise error
        return views(name)

    with pytest.raises(type(error)) as caught:
        report.write(tmp_path / "new", [result()], failing)
    assert caught.value is error
    assert list((tmp_path / "new").iterdir()) == []

    old = report.write(tmp_path, [result()], views).read_bytes()
    with pytest.raises(type(error)):
        report.write(tmp_path, [result()], failing)
    assert (tmp_path / "index.html").read_bytes() == old
    assert {path.name for path in tmp_path.iterdir()} == {"new", "index.html"}


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="index.html: cannot be written"):
        report.write(tmp_path / "file", [result()], views)
