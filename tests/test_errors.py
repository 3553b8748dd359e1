"""errors: what ends a command in one line, and what keeps its traceback."""

import io
import sys

import pytest

from maskgit_sr.errors import LONGEST, UserError, failure, line, one_line, printable


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("--seed: expected 0, found 1"), 2, "--seed: expected 0, found 1"),
        (UserError("a\nb\x1b[2J.png: damaged"), 2, "a?b?[2J.png: damaged"),
        (FileNotFoundError(2, "No such file", "a.json"), 2, "a.json: No such file"),
        (OSError("unreachable"), 2, "unreachable"),
        (RuntimeError(), 1, "RuntimeError()"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(capsys, error, code, said):
    codes = {OSError: 2, RuntimeError: 1, KeyboardInterrupt: 130}
    with pytest.raises(SystemExit) as end, one_line("a.command", codes):
        raise error
    assert end.value.code == code
    assert capsys.readouterr() == ("", f"a.command: {said}\n")


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError("a defect"), SystemExit(3)])
def test_all_else_passes_through(capsys, error):
    with pytest.raises(type(error)) as caught, one_line("a.command"):
        raise error
    assert caught.value is error and capsys.readouterr() == ("", "")


def test_the_first_class_that_fits_decides():
    with pytest.raises(SystemExit) as end, one_line("c", {UserError: 3, ValueError: 4}):
        raise UserError("x")
    assert end.value.code == 3


@pytest.mark.parametrize("kind", [UserError, ValueError, lambda s: OSError(36, "too long", s)])
def test_a_long_line_is_cut_in_the_middle(kind):
    text = line(kind("begin" + "\n" * 100_000 + "end"))
    assert text.startswith("begin???") and text.endswith(("???end", "???end: too long"))
    assert " ... " in text and len(text) == LONGEST
    assert line(kind("x" * (LONGEST - 11))).count("x") == LONGEST - 11
    # An error that names a file around it is cut anew.
    assert len(str(UserError(f"file: {UserError('x' * 1000)}"))) == LONGEST


def test_a_long_failure_is_cut_too():
    for name, error in (("x" * 9000, ValueError("defect")), ("a.png", ValueError("defect " * 999))):
        text = failure(error, name)
        assert len(text) == LONGEST and "defect" in text and text.startswith(name[:99])


def test_lines_are_printable():
    assert printable("naïve 日本\t\udce9") == "naïve 日本??"
    assert line(ValueError()) == "ValueError()"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("cp1252", b"psnr ^ 1 \x96 2 \xe9 ? \xff\n"),
        ("ascii", b"psnr ^ 1 - 2 ? ? \xff\n"),
        ("utf-8", "psnr ↑ 1 – 2 é 日 ".encode() + b"\xff\n"),
    ],
)
def test_no_character_ends_a_command(monkeypatch, encoding, expected):
    """Plain ones where the encoding has no other; of a name that is not UTF-8 its own bytes."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with one_line("a.command"):
        for stream in streams:
            print("psnr ↑ 1 – 2 é 日 \udcff", file=stream, flush=True)
    assert [stream.buffer.getvalue() for stream in streams] == [expected, expected]


def test_the_failure_of_one_item_names_it_and_what_may_be_a_defect():
    assert failure(UserError("cut\nshort"), "a.png") == "a.png: cut?short"
    assert failure(UserError("a.png: cut short"), "a.png") == "a.png: cut short"
    assert failure(FileNotFoundError(2, "No such file", "b"), "a.png") == "b: No such file"
    assert failure(MemoryError(), "a.png") == "a.png: not enough memory (MemoryError)"
    assert failure(RuntimeError("a defect"), "a.png") == "a.png: RuntimeError: a defect"
    assert failure(OSError("a defect"), "a\n.png") == "a?.png: OSError: a defect"
