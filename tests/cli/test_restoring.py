"""cli.restoring: what `upscale` tells before and while it works, and the quality of its outputs."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from maskgit_sr import cli
from maskgit_sr.cli import restoring
from tests.cli.commands import picture, refuses, run, told
from tests.evaluation.reports import Page


def test_lengths_of_time():
    found = [restoring.duration(seconds) for seconds in (0.4, 119, 121, 7199, 7200, 100_000)]
    assert found == ["0 s", "119 s", "2 min", "120 min", "2 h", "28 h"]


def test_a_batch_is_announced_by_its_size(fake, monkeypatch):
    names = [picture(f"{n}.png", (640, 500)) for n in range(5)]
    first = run("upscale", *names, "-o", "out").stderr.splitlines()[0]
    assert first == "maskgit-sr: 5 images, 1.6 megapixels, on cpu"
    monkeypatch.setattr(restoring, "_LOOKED_AT", 2)  # the first and the fourth
    first = run("upscale", *names, "-o", "out", "--overwrite").stderr.splitlines()[0]
    assert first == "maskgit-sr: 5 images, about 1.6 megapixels, on cpu"
    with open("0.png", "wb") as file:
        file.write(b"not a picture")
    result = run("upscale", *names, "-o", "new", code=1)
    assert result.stderr.startswith("maskgit-sr: 5 images, about 0.8 megapixels")


def test_a_large_image_is_announced_and_a_small_one_is_not(fake):
    assert run("upscale", picture("small.png", (999, 1000))).stderr == ""
    large = run("upscale", picture("large.png", (1000, 1000)))
    assert large.stderr == "maskgit-sr: 1 image, 1.0 megapixels, on cpu\n"


def test_the_rest_is_estimated_once_from_what_was_done(fake, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    restore = fake.restore

    def slow(given, **options):
        nonlocal now
        now += 30
        return restore(given, **options)

    monkeypatch.setattr(fake, "restore", slow)
    names = [picture(f"{n}.png", (40, 30)) for n in range(4)]
    lines, _ = told(run("upscale", *names, "-o", "out"))
    # half of the first of four took 30 s
    assert lines == ["maskgit-sr: about 4 min to go"]


def test_a_long_compilation_is_told(fake, monkeypatch):
    monkeypatch.setattr(restoring, "_SOON", 0.01)
    monkeypatch.setattr(fake, "compile", lambda side, options: time.sleep(0.2))
    side = fake.method.tile.side(6, 8)
    expected = f"maskgit-sr: compiling for windows of {side}x{side}\n"
    assert run("upscale", picture("a.png")).stderr == expected
    lines = run("upscale", "a.png", "-o", "b.png", "-v").stderr.splitlines()
    assert lines[1].startswith(f"maskgit-sr: compiled for windows of {side}x{side} in 0.")
    assert lines[2].startswith(f"maskgit-sr: a.png: 8x6, 1 {side}x{side} windows, read 0.")


def test_quality_is_that_of_the_file(fake, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save("a.png")
    for suffix in ("jpg", "webp", "avif"):
        sizes = []
        for quality in (20, 90):
            name = f"{quality}.{suffix}"
            run("upscale", "a.png", "-o", name, "--quality", quality)
            sizes.append((tmp_path / name).stat().st_size)
        run("upscale", "a.png", "-o", f"default.{suffix}")
        assert sizes[0] < sizes[1] < (tmp_path / f"default.{suffix}").stat().st_size
    refuses("--quality: expected 1 to 100, found 101", "upscale", "a.png", "--quality", 101)
    told = "--quality: expected outputs of jpg, webp or avif, found png"
    refuses(told, "upscale", "a.png", "--quality", 90)


@pytest.mark.parametrize("count", [1, 2])
def test_a_terminal_gets_no_lines_between_the_bars(fake, monkeypatch, count):
    shown = io.StringIO()
    shown.isatty = lambda: True
    names = [picture(f"{n}.png") for n in range(count)]
    monkeypatch.setattr("sys.stdout", shown)
    cli.app(["upscale", *names, "-o", "out"], standalone_mode=False)
    assert shown.getvalue() == ("out/0.png\n" if count == 1 else "")


def test_a_page_of_before_and_after(fake, tmp_path):
    names = [picture(f"in_{n}.png", (40, 30)) for n in range(3)]
    words = ("upscale", *names[:2], "-o", "out", "--compare")
    assert run(*words).stderr.splitlines()[1] == "maskgit-sr: out/compare.html: before and after"
    words = ("upscale", *names, "-o", "out", "--compare", "--skip-existing", "--confidence")
    assert len(Page(tmp_path / "out/compare.html").json("data")["images"]) == 2
    run(*words)
    page = Page(tmp_path / "out/compare.html")
    assert [one["name"] for one in page.json("data")["images"]] == names
    assert [one["label"] for one in page.json("views-2")["pictures"]] == [
        *("input", "restored", "confidence")
    ]
    run("upscale", names[0], "--compare")
    (tmp_path / "in_0_x4.png").unlink()
    refuses("in_0_x4_compare.html: exists already", "upscale", names[0], "--compare")
    assert not (tmp_path / "in_0_x4.png").exists()
