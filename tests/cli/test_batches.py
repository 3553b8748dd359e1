"""`maskgit-sr upscale` of many files: whatever one of them is, the others are restored."""

import os
import shutil
from pathlib import Path

import pytest

from maskgit_sr import images
from maskgit_sr.cli import messages
from tests.cli import commands
from tests.cli.commands import picture, refuses, run


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "in/a.png: not enough memory (MemoryError)"),
        (RecursionError("too deep"), "in/a.png: RecursionError: too deep"),
        (OSError("decoder"), "in/a.png: OSError: decoder"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), "in/a.png: not enough memory (RuntimeError: RE"),
    ],
)
def test_whatever_goes_wrong_with_one_file_costs_that_file(fake, monkeypatch, error, told):
    os.mkdir("in")
    for name in "abc":
        picture(f"in/{name}.png")
    read = images.read

    def failing(path):
        if path.name == "a.png":
            raise error
        return read(path)

    monkeypatch.setattr(images, "read", failing)
    result = run("upscale", "in", "-o", "out", code=1)
    assert result.stdout == "out/b.png\nout/c.png\n"
    assert sorted(os.listdir("out")) == ["b.png", "c.png"]
    [line], counts = commands.told(result)
    assert line.startswith(f"maskgit-sr: {told}") and counts == "2 restored, 1 failed"
    if "memory" in told:  # of the machine, not of the program
        refuses(told, "upscale", "in/a.png", "-o", "new.png")


def test_what_a_folder_run_passed_over_is_told(fake):
    os.mkdir("in")
    picture("in/a.png")
    for name in ("in/b.psd", "in/c.nef", "in/d.nef", "in/e.txt"):
        Path(name).touch()
    told = "maskgit-sr: passed over 3 files of formats that are not read: 2 .nef, 1 .psd\n"
    assert run("upscale", "in", "-o", "out").stderr == told
    Path("in/album").symlink_to("gone")  # what it would have held is not known
    result = run("upscale", "in", "-o", "new", code=1)
    assert result.stderr == f"maskgit-sr: in/album: broken link to gone\n{told}"


def test_names_that_are_not_utf8_or_too_long(fake, tmp_path):
    os.mkdir("in")
    picture("b.png")
    for name in ("caf\udce9.png", "x" * 251 + ".png", "a\nb.png"):
        shutil.copy("b.png", Path("in", name))
    result = run("upscale", "in", "-o", "out", "--suffix", "_x4", code=1)
    assert result.stdout_bytes == b"out/a\nb_x4.png\nout/caf\xe9_x4.png\n"
    assert sorted(os.listdir("out")) == ["a\nb_x4.png", "caf\udce9_x4.png"]
    [line], counts = commands.told(result)
    assert "_x4.png: cannot be written (File name too long)" in line
    assert len(fake.calls) == 2 and counts == "2 restored, 1 failed"  # told before the work
    result = run("upscale", "in/caf\udce9.png", "-o", "new")
    assert result.stdout_bytes == b"new/caf\xe9.png\n"


def test_libraries_add_no_lines_of_their_own(capfd):
    with messages.only_our_lines():
        os.write(2, b"ZIPDecode: Not enough data at scanline 0\n")
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"
