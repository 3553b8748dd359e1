"""launch.search_schedule: candidates that can be sampled from, going on, the best one."""

import json

import numpy as np
import pytest

from launch import search_schedule
from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.images import pairing
from maskgit_sr.inference.upscaler import Upscaler
from tests.methods.test_sr3 import known

GIVEN = dict(sampler="ddim", steps=8)


@pytest.fixture
def entries(tmp_path):
    for kind, side in (("lr", 8), ("hr", 16)):
        for name in "ab":
            values = np.random.default_rng(ord(name)).integers(0, 256, (side, side, 3), np.uint8)
            images.write(images.from_array(values), tmp_path / kind / f"{name}.png")
    return pairing.match(lr=str(tmp_path / "lr"), hr=str(tmp_path / "hr"))[0]


def test_candidates_can_be_sampled_from():
    upscaler = known()
    found = list(search_schedule.candidates(upscaler, ("linear", "cosine"), dict(steps=100)))
    assert found[0] == {"schedule": "respaced"} and {"schedule": "cosine"} in found
    linear = [row for row in found if row["schedule"] == "linear"]
    ends = {row["beta_end"] for row in linear if row["beta_start"] == 1e-6}
    # 0.188 fits; γ_T is 0.0056 at 0.1, and below what float32 takes at 0.5.
    assert ends == {0.0, 0.2, 0.3}
    for row in found:
        upscaler.options(**row, steps=100)
    with pytest.raises(UserError, match="schedule: expected one of respaced, .* found 'sine'"):
        list(search_schedule.candidates(upscaler, ("sine",), {}))


def test_a_search_goes_on_where_it_stopped(entries, tmp_path, monkeypatch):
    output, calls = tmp_path / "found.json", []
    restore = Upscaler.restore

    def counted(self, picture, **options):
        calls.append(options["schedule"])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return restore(self, picture, **options)

    monkeypatch.setattr(Upscaler, "restore", counted)
    monkeypatch.setattr(search_schedule, "STARTS", (1e-6,))
    monkeypatch.setattr(search_schedule, "DIGITS", (9,))
    arguments = (known(), entries, "psnr_rgb", ("linear", "cosine"), GIVEN, 0, output)
    with pytest.raises(KeyboardInterrupt):
        search_schedule.search(*arguments)
    assert len(json.loads(output.read_text())["rows"]) == 2
    calls[:] = ["again"] * 5
    best = search_schedule.search(*arguments)
    rows = json.loads(output.read_text())["rows"]
    kinds = [row["options"]["schedule"] for row in rows]
    assert kinds == ["respaced", "linear", "linear", "cosine"]
    assert calls[5:] == ["linear"] * 2 + ["cosine"] * 2  # two images for each
    assert best["score"] == max(row["score"] for row in rows)
    with pytest.raises(UserError, match="of a search with other metric; choose another name"):
        search_schedule.search(arguments[0], entries, "ssim_rgb", (), GIVEN, 0, output)


def test_what_is_refused(tmp_path, capsys, subpixel, entries):
    folder = ["--lr", str(tmp_path / "lr"), "--hr", str(tmp_path / "hr")]
    given = ["--model", str(subpixel), *folder, "--output", str(tmp_path / "found.json")]
    with pytest.raises(SystemExit, match="2"):
        search_schedule.main(given)
    assert "schedule: subpixel has no such option" in capsys.readouterr().err
    (tmp_path / "found.json").write_text("{}")
    with pytest.raises(UserError, match="not the scores of a search"):
        search_schedule.search(known(), entries, "psnr_rgb", (), {}, 0, tmp_path / "found.json")
