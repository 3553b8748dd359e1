"""evaluation.calibration: its numbers on confidences that are known to mean much, or nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

import maskgit_sr
from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import calibration, plots
from maskgit_sr.images import pairing


def test_a_confidence_that_is_right():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 50_000)
    correct = rng.uniform(0, 1, 50_000) < confidence
    found = calibration.summarise(confidence, correct, 1 - confidence)
    assert found["expected_calibration_error"] < 0.01
    assert found["auroc_correct"] == pytest.approx(5 / 6, abs=0.01)  # ∫∫ of the two densities
    assert found["auroc_lpips"] == pytest.approx(1) and found["spearman_lpips"] == pytest.approx(-1)
    assert found["risk"]["lpips"] == pytest.approx(found["risk"]["best_lpips"])
    assert found["risk"]["wrong"][9] == pytest.approx(0.25, abs=0.01)  # the better half
    for mean, share, count in found["reliability"]:
        assert mean == pytest.approx(share, abs=0.03) and count > 4000


def test_a_confidence_that_says_nothing():
    rng = np.random.default_rng(1)
    confidence, correct, distance = rng.uniform(0, 1, (3, 20_000))
    found = calibration.summarise(confidence, correct < 0.2, distance)
    assert found["auroc_correct"] == pytest.approx(0.5, abs=0.02)
    assert found["spearman_lpips"] == pytest.approx(0, abs=0.03)
    assert found["expected_calibration_error"] == pytest.approx(0.34, abs=0.02)  # ∫|c - 0.2|
    assert found["risk"]["wrong"][0] == pytest.approx(0.8, abs=0.05)


def test_one_confidence_for_all_or_no_right_token():
    found = calibration.summarise(np.full(9, 0.5), np.zeros(9), np.arange(9.0))
    assert found["auroc_correct"] is None and found["spearman_lpips"] is None
    assert found["auroc_lpips"] == 0.5
    assert json.dumps(found, allow_nan=False)
    assert any("–" in line for line in calibration.lines(found))


def test_ties_count_half():
    assert calibration.auroc(np.array([1, 1, 2, 3.0]), np.array([0, 1, 0, 1], bool)) == 0.625


def test_tiles_are_cut_alike():
    lr, hr = np.zeros((63, 80, 3), np.uint8), np.zeros((252, 320, 3), np.uint8)
    with pytest.raises(UserError, match="smaller than a window of 64"):
        calibration.cut_pair(lr, hr, 64, 4)
    with pytest.raises(UserError, match="HR 320x250 is not 4 times LR 80x63"):
        calibration.cut_pair(lr, hr[:250], 64, 4)
    hr = np.random.default_rng(0).integers(0, 256, (40, 72, 3)).astype(np.uint8)
    lr, tiles = calibration.cut_pair(hr[::4, ::4], hr, 8, 4)
    assert lr.shape == (2, 8, 8, 3) and tiles.shape == (2, 32, 32, 3)
    np.testing.assert_allclose(tiles[1], hr[:32, 32:64] / 255, atol=1e-6)
    np.testing.assert_array_equal(tiles[:, ::4, ::4], lr)


def test_a_method_without_confidence_is_one_line(subpixel):
    entries = [pairing.Entry("gone", hr=Path("gone.png"), lr=Path("gone.png"))]
    with pytest.raises(UserError) as caught:  # and no file is read
        calibration.measure(maskgit_sr.load(subpixel), entries, {"seed": 0})
    assert str(caught.value) == "--calibration: subpixel provides no confidence and no tokens"


def test_shipped_model_on_photographs(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKGIT_SR_ASSETS", str(shared / "metrics"))
    folder = shared / "data/val/realsr"
    entries, _ = pairing.match(hr=str(folder / "hr"), lr=str(folder / "lr"))
    upscaler = maskgit_sr.load("realsrt-nano", batch=4)
    options = {"steps": 1, "seed": 0}
    broken = pairing.Entry("broken", hr=tmp_path / "no.png", lr=tmp_path / "no.png")
    found, problems = calibration.measure(upscaler, [*entries[:1], broken], options)
    assert found["tokens"] == 4 * 32 * 32 and len(problems) == 1 and "broken" in problems[0]
    assert 0.05 < found["accuracy"] < 0.6 and 0 < found["risk"]["lpips"][-1] < 1
    files = calibration.write(found, tmp_path / "out")
    assert json.loads(files[0].read_text()) == found
    plot = images.read(files[1]).color
    assert plot.shape[1] > 1200 and 20 < plot.std() < 100


def test_plots_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="plots need matplotlib"):
        plots.calibration(calibration.summarise(*np.full((3, 4), 0.5)), tmp_path / "x.png")
