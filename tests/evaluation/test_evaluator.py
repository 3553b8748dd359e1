"""evaluation.evaluator: what is scored, what is refused, and that the others still are."""

import dataclasses
import json

import numpy as np
import pytest

import maskgit_sr
from maskgit_sr import images, metrics
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import evaluator, restoring
from maskgit_sr.evaluation.evaluator import Sample
from maskgit_sr.images import pairing
from maskgit_sr.methods.subpixel import Subpixel
from maskgit_sr.metrics import protocols
from maskgit_sr.metrics.fid import FrechetDistance, frechet_distance
from maskgit_sr.metrics.inception_score import InceptionScore

PIXELS = protocols.find("classical").changed(metrics=("psnr_rgb", "psnr_y", "ssim_y"), border=0)


def picture(seed, height=48, width=64, dtype=np.uint8, channels=3):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16
    waves = 0.5 + 0.4 * np.sin(y[..., None] * rng.uniform(1, 3, channels) + x[..., None])
    noise = rng.normal(0, 0.02, (height, width, channels))
    unit = np.clip(waves + noise, 0, 1)
    return np.rint(unit * np.iinfo(dtype).max).astype(dtype)


def samples(*pairs):
    """One sample a pair of arrays (sr, hr, lr)."""
    made = [
        Sample(f"{i}", *(None if a is None else images.from_array(a) for a in pair))
        for i, pair in enumerate(pairs)
    ]
    return [sample.name for sample in made], lambda index: made[index]


def run(*pairs, protocol=PIXELS, given=("hr",), **more):
    names, read = samples(*pairs)
    return evaluator.evaluate(names, read, protocol, system="test", source={}, given=given, **more)


def test_scores_are_the_metrics_own():
    pairs = [(picture(i), picture(i + 10)) for i in range(3)]
    found = run(*pairs)
    assert found["counts"] == {"scored": 3, "of": 3} and found["problems"] == []
    for row, (sr, hr) in zip(found["images"], pairs, strict=True):
        assert (row["height"], row["width"]) == (48, 64)
        x, y = (a[None].astype(np.float32) / np.float32(255) for a in (sr, hr))
        for name, metric in metrics.create(PIXELS.metrics).items():
            assert row["scores"][name] == float(metric(x, y)[0])
    means = np.mean([row["scores"]["psnr_y"] for row in found["images"]])
    assert found["summary"]["psnr_y"]["mean"] == pytest.approx(means)
    assert found["summary"]["psnr_y"]["n"] == 3
    assert found["protocol"]["metrics"]["psnr_y"]["text"].endswith("higher is better")
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_one_bad_picture_costs_itself_only():
    good, grey = (picture(1), picture(2)), picture(3, channels=1)
    clear = np.dstack([picture(4), np.full((48, 64), 128, np.uint8)])
    opaque = np.dstack([picture(4), np.full((48, 64), 255, np.uint8)])
    found = run(
        good,
        (picture(1, 50, 64), picture(2)),
        (grey, picture(2)),
        (clear, picture(2)),
        (opaque, picture(2)),
        (np.repeat(grey, 3, -1), grey),
        good,
    )
    assert found["counts"] == {"scored": 5, "of": 7}
    assert found["problems"] == [
        "1: SR 64x50, HR 64x48: not the same size; --crop-to-min cuts both to the less",
        "3: SR is transparent in parts; scores are of opaque pictures",
    ]
    assert [row["name"] for row in found["images"]] == ["0", "2", "4", "5", "6"]
    assert found["images"][0]["scores"] == found["images"][4]["scores"]


def test_greyscale_is_three_equal_channels():
    """On either side, 8 or 16 bits, as BasicSR has it; a note tells of it where colour meets it."""
    grey, color = picture(3, channels=1), picture(2)
    three = np.repeat(grey, 3, -1)
    deep = three.astype(np.uint16) * 257
    found = run((color, grey), (color, three), (grey, color), (color, deep[..., :1]), (grey, three))
    scores = [row["scores"] for row in found["images"]]
    assert scores[0] == scores[1] and scores[3] == pytest.approx(scores[0], abs=1e-5)
    # the Y of equal channels is not their value: both sides are weighed alike
    error = (color.astype(np.float64) - three) / 255
    assert scores[0]["psnr_rgb"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-4)
    error = error @ [65.481, 128.553, 24.966] / 255
    assert scores[0]["psnr_y"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-4)
    assert scores[4]["psnr_y"] == 100
    notes = [row["notes"] for row in found["images"]]
    told = "HR is greyscale, scored as three equal channels"
    assert notes[:3] == [[told], [told], [told.replace("HR", "SR")]]
    assert notes[3] == [told, "HR has uint16 samples, scored as they are"] and notes[4] == []


@pytest.mark.parametrize(
    ("hr", "lr", "part"),
    [
        ((125, 181), (31, 45), (124, 180)),  # LR rounded down
        ((127, 183), (31, 45), (124, 180)),
        ((125, 181), (32, 46), (124, 180)),  # and up, as MATLAB's imresize
        ((124, 180), (31, 45), (124, 180)),
    ],
)
def test_hr_whose_sides_are_no_multiples_of_the_scale(hr, lr, part):
    large, small = picture(1, *hr), picture(2, *lr)
    sr = small.repeat(4, 0).repeat(4, 1)
    protocol = PIXELS.changed(metrics=("psnr_rgb", "lr_psnr"))
    found = run((sr, large, small), protocol=protocol, given=("hr", "lr"))
    (row,) = found["images"]
    assert (row["height"], row["width"]) == part and found["problems"] == []
    sizes = f"SR {sr.shape[1]}x{sr.shape[0]}, HR {hr[1]}x{hr[0]}"
    cut = [] if hr == part else [f"{sizes}, both cut to {part[1]}x{part[0]}"]
    assert row["notes"] == cut
    height, width = part
    parts = (sr[:height, :width], large[:height, :width], small[: height // 4, : width // 4])
    alone = run(parts, protocol=protocol, given=("hr", "lr"))
    assert row["scores"] == alone["images"][0]["scores"]


@pytest.mark.parametrize("hr", [(128, 180), (124, 184), (120, 180), (180, 124), (31, 45)])
def test_a_pair_that_differs_by_the_scale_or_more_is_a_wrong_pair(hr):
    small = picture(2, 31, 45)
    pair = (small.repeat(4, 0).repeat(4, 1), picture(1, *hr), small)
    good = (pair[0], pair[0], small)
    found = run(pair, good, given=("hr", "lr"))
    assert found["counts"] == {"scored": 1, "of": 2}
    assert found["problems"][0].startswith(f"0: SR 180x124, HR {hr[1]}x{hr[0]}: not the same size")
    with pytest.raises(UserError, match="is not 4 times LR 45x31"):
        restoring.check_pair(small, pair[1], 4, short=True)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("broken"), RecursionError("deep")])
def test_whatever_goes_wrong_with_one_scene_costs_that_scene(error):
    names, read = samples((SR, HR), (SR, HR))

    def failing(index):
        if index == 0:
            raise error
        return read(index)

    found = evaluator.evaluate(names, failing, PIXELS, system="test", source={})
    assert found["counts"] == {"scored": 1, "of": 2}
    (line,) = found["problems"]
    assert line.startswith("0: ") and type(error).__name__ in line


@pytest.fixture
def means_for_features(monkeypatch):
    """FID and IS over the pictures' mean colours."""
    colours = lambda x: x.mean((1, 2))  # noqa: E731
    scores = {"fid": FrechetDistance(colours), "is": InceptionScore(colours)}

    def create(names, **_):
        return {name: metrics.SetMetric(metrics.SPECS[name], scores[name]) for name in names}

    monkeypatch.setattr(evaluator.metrics, "available", lambda *_: None)
    monkeypatch.setattr(evaluator.metrics, "create", create)
    return PIXELS.changed(metrics=("fid",))


def test_a_score_of_the_set_is_in_the_summary_alone(means_for_features):
    pairs = [(picture(i), picture(i + 10)) for i in range(4)]
    wrong = (picture(1, 50, 64), picture(2))
    found = run(*pairs, wrong, protocol=means_for_features)
    colours = [
        np.array([image.mean((0, 1)) / 255 for image in set]) for set in zip(*pairs, strict=True)
    ]
    moments = [moment for c in colours for moment in (c.mean(0), np.cov(c, rowvar=False))]
    assert found["summary"]["fid"]["mean"] == pytest.approx(frechet_distance(*moments), rel=1e-4)
    assert found["summary"]["fid"]["n"] == 4 and found["counts"] == {"scored": 4, "of": 5}
    assert [row["scores"] for row in found["images"]] == [{}] * 4


def test_a_score_of_the_set_that_there_is_none_of_is_told(means_for_features):
    one = run((picture(1), picture(2)), protocol=means_for_features)
    assert one["summary"]["fid"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert one["problems"] == ["fid: FID: expected at least 2 images a set, found 1"]
    hole = picture(1).astype(np.float32) / 255
    hole[3, 4] = np.nan
    good = Sample("a", images.from_array(picture(1)), images.from_array(picture(2)))
    bad = Sample("b", dataclasses.replace(good.sr, color=hole), good.hr)
    read = [good, bad].__getitem__
    found = evaluator.evaluate("ab", read, means_for_features, system="test", source={})
    assert found["summary"]["fid"]["mean"] is None and found["problems"] == ["fid is nan"]
    json.dumps(found, allow_nan=False)


def test_a_score_of_the_outputs_alone_needs_no_other_set(means_for_features):
    protocol = means_for_features.changed(metrics=("is", "fid"))
    found = run(*((picture(i),) for i in range(11)), protocol=protocol, given=())
    assert found["problems"] == ["fid: left out, it needs --hr"]
    # parts of one or two images, which are all but alike
    assert found["summary"]["is"]["mean"] == pytest.approx(1, abs=0.01)
    assert found["summary"]["is"]["n"] == 11


SR, HR = picture(1, 64, 80), picture(2, 64, 80)


@pytest.mark.parametrize(
    ("pair", "changes", "options", "part", "notes"),
    [
        (
            *((SR, HR[:60, :78]), {}, {"crop_to_min": True}, (slice(60), slice(78))),
            ["SR 80x64, HR 78x60, both cut to 78x60"],
        ),
        (
            *((SR.astype(np.uint16) * 257, HR), {}, {}, ()),
            ["SR has uint16 samples, scored as they are"],
        ),
        ((SR, HR), {"crop": 32}, {}, (slice(16, 48), slice(24, 56)), []),
        ((SR, HR), {"metrics": ("psnr_rgb",), "border": 4}, {}, (slice(4, -4), slice(4, -4)), []),
    ],
)
def test_the_part_that_is_scored(pair, changes, options, part, notes):
    found = run(pair, protocol=PIXELS.changed(**changes), **options)
    (row,), (expected,) = found["images"], run((SR[part], HR[part]))["images"]
    assert row["notes"] == notes
    assert row["scores"] == pytest.approx(
        {name: expected["scores"][name] for name in row["scores"]}
    )
    assert found["protocol"]["crop"] == changes.get("crop", 0)
    assert found["protocol"]["name"] == ("custom" if changes else PIXELS.name)


def test_a_crop_larger_than_the_image_costs_the_image():
    found = run((SR, HR), protocol=PIXELS.changed(crop=72))
    assert found["problems"] == ["0: 80x64 is smaller than the crop of 72"]


def test_a_metric_that_needs_more_pixels_is_left_out_of_that_picture():
    found = run((picture(1), picture(2)), (picture(1, 8, 8), picture(2, 8, 8)))
    assert found["problems"] == ["1: ssim_y needs 11 pixels a side, found 8x8"]
    assert found["images"][1]["scores"]["ssim_y"] is None
    assert found["images"][1]["scores"]["psnr_y"] > 0
    assert (found["summary"]["ssim_y"]["n"], found["summary"]["psnr_y"]["n"]) == (1, 2)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_lr_metrics_compare_with_the_input(scale):
    hr = picture(2, 96, 96)
    side = 96 // scale
    lr = images.resize(hr, side, side)
    protocol = PIXELS.changed(metrics=("lr_psnr",))
    found = run((hr, hr, lr), (hr, hr, lr[:-1]), protocol=protocol, given=("hr", "lr"))
    assert found["images"][0]["scores"]["lr_psnr"] > 45  # but for rounding to 8 bits
    assert found["problems"] == [f"1: SR 96x96 is no multiple of LR {side}x{side - 1}"]


def test_what_cannot_be_measured_is_said_once(tmp_path):
    protocol = PIXELS.changed(metrics=("psnr_y", "lr_psnr", "musiq"))
    found = run((picture(1), picture(2)), protocol=protocol, assets=tmp_path)
    assert list(found["summary"]) == ["psnr_y"]
    assert found["problems"][0] == "lr_psnr: left out, it needs --lr"
    assert found["problems"][1].startswith("musiq: left out, ")
    assert found["counts"] == {"scored": 1, "of": 1}
    with pytest.raises(UserError, match="no metric can be measured: lr_psnr: left out"):
        run((picture(1), picture(2)), protocol=PIXELS.changed(metrics=("lr_psnr",)))
    with pytest.raises(UserError, match="--metrics: expected one of psnr_rgb, .*, found 'psnr'"):
        run((picture(1), picture(2)), protocol=PIXELS.changed(metrics=("psnr",)))


def test_files_and_what_is_wrong_with_them(tmp_path):
    for folder in ("sr", "hr"):
        for name in "abc":
            images.write(images.from_array(picture(ord(name))), tmp_path / folder / f"{name}.png")
    (tmp_path / "sr/b.png").write_bytes((tmp_path / "sr/b.png").read_bytes()[:300])
    (tmp_path / "hr/d.png").write_bytes(b"")
    entries, problems = pairing.match(str(tmp_path / "sr"), str(tmp_path / "hr"))
    names, read = [entry.name for entry in entries], evaluator.from_files(entries)
    more = {"system": "x", "source": {}, "problems": problems}
    found = evaluator.evaluate(names, read, PIXELS, **more)
    assert found["counts"] == {"scored": 2, "of": 4}
    assert len(found["problems"]) == 2 and "b.png" in found["problems"][1]
    assert all(row["scores"]["psnr_y"] == 100 for row in found["images"])
    evaluator.write(found, tmp_path / "out" / "scores.json")
    assert evaluator.load(tmp_path / "out" / "scores.json") == found


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "else"}', "\x00"])
def test_other_files_are_no_scores(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json: (not JSON|expected scores of format 1)"):
        evaluator.load(tmp_path / "x.json")
    with pytest.raises(UserError, match="gone: No such file"):
        evaluator.load(tmp_path / "gone")


def saved(folder, name, hr, scale):
    """An entry of files: hr, and lr made of it."""
    paths = {"hr": folder / f"{name}_hr.png", "lr": folder / f"{name}_lr.png"}
    lr = images.resize(hr, hr.shape[0] // scale, hr.shape[1] // scale)
    for kind, array in (("hr", hr), ("lr", lr)):
        images.write(images.from_array(array), paths[kind])
    return pairing.Entry(name, **paths)


def test_a_method_without_confidence_is_scored_kept_and_shown(tmp_path, subpixel):
    upscaler = maskgit_sr.load(subpixel)
    entries = [saved(tmp_path, "a", picture(1), 2), saved(tmp_path, "b", picture(2), 4)]
    read = restoring.from_model(upscaler, entries, {"seed": 0, "strength": 0.0}, tmp_path / "kept")
    protocol = PIXELS.changed(metrics=("psnr_rgb", "lr_psnr"))
    given = ("hr", "lr")
    found = evaluator.evaluate("ab", read, protocol, system="twice", source={}, given=given)
    assert found["problems"] == ["b: HR 64x48 is not 2 times LR 16x12"]
    # without the residual the output is the repeated input
    lr, hr = (images.read(path).color for path in (entries[0].lr, entries[0].hr))
    expected = run((lr.repeat(2, 0).repeat(2, 1), hr, lr), protocol=protocol, given=given)
    assert found["images"][0]["scores"] == expected["images"][0]["scores"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a.png"]
    views = restoring.views(entries[0], "twice", tmp_path / "kept", crop=16)
    assert {name: view.shape for name, view in views.items()} == {
        **{"LR": (8, 8, 3), "bicubic": (16, 16, 3), "twice": (16, 16, 3), "HR": (16, 16, 3)}
    }


def test_a_method_with_confidence_keeps_it(tmp_path, bundle):
    upscaler = maskgit_sr.load(bundle, batch=1)
    entry = saved(tmp_path, "a", picture(1, 64, 64), 4)
    restoring.from_model(upscaler, [entry], {"seed": 0, "steps": 1}, tmp_path / "kept")(0)
    views = restoring.views(entry, "tiny", tmp_path / "kept")
    assert list(views) == ["LR", "bicubic", "tiny", "HR", "confidence"]
    assert views["confidence"].shape == (16, 16)


def test_studies_are_the_methods_own(method):
    for name in ("parts", "steps"):
        runs = restoring.study(method, name)
        assert len({run for run, _ in runs}) == len(runs) > 2
        assert len({method.options(**options) for _, options in runs}) == len(runs)
    with pytest.raises(UserError, match="--ablation: expected one of parts, steps, found 'x'"):
        restoring.study(method, "x")
    with pytest.raises(UserError, match="--ablation: subpixel has no studies"):
        restoring.study(Subpixel(), "parts")


def test_views_are_the_part_that_was_scored(tmp_path):
    hr = picture(1, 64, 80)
    paths = {}
    for kind, array in (("sr", hr), ("hr", hr[:, :76]), ("lr", images.resize(hr, 16, 20))):
        paths[kind] = tmp_path / f"{kind}.png"
        images.write(images.from_array(array), paths[kind])
    entry = pairing.Entry("x", **paths)
    whole = restoring.views(entry, "tool")
    assert list(whole) == ["LR", "bicubic", "tool", "HR"]
    assert whole["tool"].shape == whole["HR"].shape == (64, 76, 3)
    inner = restoring.views(entry, "tool", crop=32)
    assert inner["LR"].shape == (8, 8, 3) and inner["bicubic"].shape == (32, 32, 3)
    np.testing.assert_array_equal(inner["tool"], hr[16:48, 20:52])
