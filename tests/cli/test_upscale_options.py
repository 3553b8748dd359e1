"""`maskgit-sr upscale --samples` and `--consistent` with a real model, as a user has them."""

import os

import numpy as np
import pytest

import maskgit_sr
from maskgit_sr import images
from maskgit_sr.images import Picture, colormaps
from maskgit_sr.ops.resize import downsample_bicubic
from tests.cli.commands import refuses, run
from tests.inference.pictures import noise


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images.write(Picture(noise(9, 8, 3) // 4 + 96), "in/a.png")
    images.write(Picture(noise(7, 12, 3, seed=1) // 4 + 96), "in/sub/b.png")
    return tmp_path


@pytest.fixture(scope="module")
def upscaler(subpixel):
    return maskgit_sr.load(subpixel)


def test_samples_are_the_runs_of_their_seeds_and_a_map(photos, subpixel, upscaler):
    words = ("upscale", "in", "-o", "out", "-m", subpixel, "--option", "noise=0.1", "--seed", 5)
    assert run(*words, "--samples", 3).stdout.splitlines() == [
        f"out/{name}_{number}.png" for name in ("a", "sub/b") for number in (1, 2, 3, "std")
    ]
    for name in ("a", "sub/b"):
        spread = []
        for number in range(3):
            found = images.read(f"out/{name}_{number + 1}.png").color
            picture = images.read(f"in/{name}.png")
            expected = upscaler.restore(picture, noise=0.1, seed=5 + number)
            np.testing.assert_array_equal(found, expected.picture.color)
            spread.append(found.astype(np.float64))
        levels = np.sqrt(np.stack(spread).var(0, ddof=1).mean(-1))
        shown = images.read(f"out/{name}_std.png").color
        assert shown.shape == spread[0].shape and levels.mean() > 10
        index = levels * (255 / colormaps.DEVIATION_PEAK)
        low, high = (
            colormaps.ERROR[np.clip(index + d, 0, 255).round().astype(int)] for d in (-1, 1)
        )
        assert (shown >= np.minimum(low, high)).all() and (shown <= np.maximum(low, high)).all()
    assert sorted(os.listdir("out")) == ["a_1.png", "a_2.png", "a_3.png", "a_std.png", "sub"]
    refuses("out/a_1.png: exists already", *words, "--samples", 3)
    os.remove("out/a_1.png")
    refuses("out/a_2.png: exists already", *words, "--samples", 2)
    # what is there stays, and what is missing is the same again
    before = images.read("out/a_2.png").color
    images.write(Picture(before // 2), "out/a_3.png")
    assert run(*words, "--samples", 3, "--skip-existing").stderr.endswith("1 skipped\n")
    np.testing.assert_array_equal(images.read("out/a_3.png").color, before // 2)
    one = upscaler.restore(images.read("in/a.png"), noise=0.1, seed=5).picture.color
    np.testing.assert_array_equal(images.read("out/a_1.png").color, one)


def test_a_single_input_names_all_its_outputs(photos, subpixel):
    words = ("upscale", "in/a.png", "-m", subpixel, "--option", "noise=0.1", "--samples", 2)
    expected = "in/a_x2_1.png\nin/a_x2_2.png\nin/a_x2_std.png\n"
    assert run(*words).stdout == expected
    assert run(*words, "--skip-existing").stdout == expected


def test_a_consistent_result_returns_the_input(photos, subpixel):
    words = ("upscale", "in/a.png", "-o", "a.png", "-m", subpixel, "--option", "noise=0.2")
    assert run(*words, "--consistent", 0.5).stderr == ""
    large = images.read("a.png").color.astype(np.float64)
    small = np.rint(downsample_bicubic(large[None], 2)[0])
    np.testing.assert_array_equal(small, images.read("in/a.png").color)
    # an edge from black to white within a pixel is no reduction of anything
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 255
    images.write(Picture(step), "step.png")
    told = run("upscale", "step.png", "-o", "b.png", "-m", subpixel, "--consistent", 1).stderr
    assert told.startswith("maskgit-sr: b.png: ") and "48 of 192 samples differ" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--consistent 0", "--consistent: expected more than 0 and at most 255, found 0"),
        ("--consistent nan", "--consistent: expected more than 0 and at most 255, found nan"),
        ("--consistent 256", "--consistent: expected more than 0 and at most 255, found 256"),
        ("--consistent 1 --scale 0.5", "--consistent: expected a --scale of at least 1, found 0.5"),
        ("--consistent 1 --format jpg", "which are lossless: out/a.jpg"),
        ("--consistent 1 --format webp", "which are lossless: out/a.webp"),
        ("--consistent 0.1", "in/a.png: consistent: expected 0.5 to 255 grey levels"),
        ("--samples 0", "--samples: expected 2 to 256, found 0"),
        ("--samples 1", "--samples: expected 2 to 256, found 1"),
        ("--samples 257", "--samples: expected 2 to 256, found 257"),
        ("--samples 9 --seed 4294967290", "--samples: expected 2 to 6, found 9"),
        ("--samples 2", "samples: subpixel draws nothing at random at strength 1, noise 0"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(photos, subpixel, words, message):
    refuses(message, "upscale", "in/a.png", "-o", "out", "-m", subpixel, *words.split())
    assert sorted(os.listdir()) == ["in"] and sorted(os.listdir("in")) == ["a.png", "sub"]
