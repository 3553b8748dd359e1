"""data.preview: what a contact sheet shows; data.commands: what the data commands share."""

import io
import os
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from data import commands, degradations, degrade, prepare, preview
from tests.data.pictures import photo
from tests.data.prepared import save, stops

TEXT, GAP, LINE = 330, 8, 17


def command(photos, output, *more):
    return preview.main(["--input", str(photos), "--output", str(output), *map(str, more)])


def read(path):
    return np.asarray(Image.open(path))


# the sheet


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_sheet_shows_crops_and_their_lr_images(tmp_path, scale):
    paths = [save(tmp_path / f"p/{i}.png", photo(48, 60, i)) for i in range(3)]
    output = tmp_path / "new" / "sheet.PNG"
    more = ("--crop", 48, "--count", 4, "--scale", scale, "--preset", "bicubic")
    assert command(tmp_path / "p", output, *more) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    sheet = read(output)
    assert sheet.shape == (4 * 48 + 3 * GAP, 2 * 48 + 2 * GAP + TEXT, 3)
    crops = {read(path)[:, x : x + 48].tobytes(): (path, x) for path in paths for x in range(13)}
    shown = []
    for i in range(4):
        row = sheet[i * (48 + GAP) :][:48]
        hr, large = row[:, :48], row[:, 48 + GAP : 96 + GAP]
        shown.append(crops[hr.tobytes()])
        # This preset draws nothing, so that its LR image is known.
        record = degradations.draw(np.random.default_rng(0), "bicubic", 48, 48, scale)
        lr = record.apply(np.ascontiguousarray(hr))
        np.testing.assert_array_equal(large, lr.repeat(scale, 0).repeat(scale, 1))
        assert (row[:, 48 : 48 + GAP] == 255).all() and (row[:, 96 + GAP :][:, :GAP] == 255).all()
        assert (row[:, 96 + 2 * GAP :] < 100).any()  # the text
        if i:
            assert (sheet[i * (48 + GAP) - GAP :][:GAP] == 255).all()
    assert min(map(len, map(set, zip(*shown, strict=True)))) > 1  # any place of any picture


def test_sheets_are_drawn_from_the_seed(tmp_path):
    for i in range(3):
        save(tmp_path / f"p/{i}.png", photo(40, 50, i))
    for name, seed in (("a.png", 5), ("b.png", 5), ("c.png", 6)):
        more = ("--seed", seed, "--count", 2, "--crop", 32)
        assert command(tmp_path / "p", tmp_path / name, *more) == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c
    # A longer sheet starts with the same rows.
    assert command(tmp_path / "p", tmp_path / "d.png", "--seed", 5, "--count", 3, "--crop", 32) == 0
    short, long = read(tmp_path / "a.png"), read(tmp_path / "d.png")
    assert len(long) > len(short)
    np.testing.assert_array_equal(long[: len(short)], short)


def test_small_and_bad_pictures(tmp_path, capsys):
    image = read(save(tmp_path / "p/small.png", photo(20, 24)))
    (tmp_path / "p/bad.png").write_bytes(b"text")
    more = ("--crop", 32, "--count", 6, "--preset", "bicubic")
    assert command(tmp_path / "p", tmp_path / "s.png", *more) == 0
    np.testing.assert_array_equal(read(tmp_path / "s.png")[:20, :24], image)
    assert capsys.readouterr().out.splitlines() == [
        f"skipped {tmp_path}/p/bad.png: not a picture that can be decoded "
        "(PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, AVIF, HEIC, JPEG 2000, ICO or TGA)",
        f"6 rows in {tmp_path}/s.png",
    ]


# the text


@settings(max_examples=20)
@given(st.lists(st.lists(st.text("abcWM01.x", min_size=1, max_size=20), min_size=1), min_size=1))
def test_text_is_wrapped_within_its_width(steps):
    font = ImageFont.load_default(13)
    lines = preview._wrapped(" | ".join(map(" ".join, steps)), font)
    assert max(map(font.getlength, lines)) <= TEXT
    assert " ".join(lines).split() == [word for step in steps for word in step]
    starts = [i for i, line in enumerate(lines) if not line.startswith("   ")]
    assert len(starts) == len(steps)  # what goes on is indented
    for first, second in pairwise(lines):
        if second.startswith("   "):  # broken only where one word more would not fit
            assert font.getlength(f"{first} {second.split()[0]}") > TEXT
    path = preview._wrapped("photographs/" * 8 + "a.png | blur", font)  # longer than a line
    assert max(map(font.getlength, path)) <= TEXT


def test_many_lines_make_a_row_taller():
    hr, lr = np.zeros((32, 32, 3), np.uint8), np.full((8, 8, 3), 60, np.uint8)
    for count, height in ((1, 32), (2, 2 * LINE), (9, 9 * LINE)):
        picture = np.asarray(preview.row(hr, lr, " | ".join(["step"] * count)))
        assert picture.shape == (height, 64 + 2 * GAP + TEXT, 3)
        assert (picture[:32, :32] == 0).all() and (picture[:32, 32 + GAP : 64 + GAP] == 60).all()
        assert (picture[32:, : 64 + 2 * GAP] == 255).all()
        text = picture[:, 64 + 2 * GAP :]
        for i in range(count):
            assert (text[i * LINE : (i + 1) * LINE] < 128).any()
        assert (text[count * LINE :] == 255).all()


# data.commands


OPTIONS = {
    preview: "--output=sheet.jpg --output=sheet --count=0 --count=many --crop=42 --crop=0"
    " --seed=-1 --preset=none --colour=red",
    degrade: "--seed=-1 --seed=x --scale=5 --preset=worst",
    prepare: "--crop=-1 --stride=0 --stride=513 --jpeg=101 --workers=0 --shard-mb=0"
    " --dataset=imagenet --input=nowhere",
}


@pytest.mark.parametrize(
    ("module", "option"),
    [(module, option) for module, options in OPTIONS.items() for option in options.split()],
)
def test_options_that_make_no_sense(tmp_path, monkeypatch, capsys, module, option):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "p/a.png", photo(256, 256))
    error = stops(capsys, module, "--input", "p", "--output", "s.png", option)
    assert any(part in error for part in option.split("="))
    assert os.listdir(tmp_path) == ["p"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("wrong\nin many\nlines"), 2, "wrong"),
        (FileNotFoundError(2, "No such file", "a.json"), 2, "a.json: No such file"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_command_ends_with_one_line_and_a_code(capsys, error, code, line):
    def command(arguments):
        assert arguments is None  # those of the command line
        raise error

    with pytest.raises(SystemExit) as end:
        commands.run("data.thing", command)
    out, found = capsys.readouterr()
    assert end.value.code == code and out == ""
    assert found.startswith(f"data.thing: {line}") and found.count("\n") == 1


def test_other_ends_of_a_command(capsys):
    with pytest.raises(SystemExit, match="1"):
        commands.run("data.thing", lambda arguments: 1)
    with pytest.raises(ZeroDivisionError):  # a defect keeps its traceback
        commands.run("data.thing", lambda arguments: 1 // 0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_passes_things_on(monkeypatch, terminal):
    class Screen(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Screen())
    taken = []
    items = commands.progress((taken.append(i) or i for i in range(3, 9)), 9, "pictures", 3)
    assert next(items) == 3 and taken == [3]  # no sooner than they are asked for
    assert list(items) == [4, 5, 6, 7, 8]
    shown = sys.stderr.getvalue()
    assert ("pictures" in shown and "9/9" in shown) if terminal else shown == ""
