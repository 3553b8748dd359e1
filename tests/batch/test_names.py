"""launch.beam_upscale: names of any kind, and trouble with single images."""

import json
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="needs apache-beam")

from maskgit_sr.batch import stages
from tests.batch.folders import save, stamps
from tests.inference.pictures import gradient


def test_names_are_never_patterns(run, tmp_path):
    folder, output, other = (tmp_path / name for name in ("in [ab]*", "out [x] 1", "out x 1"))
    save(folder / "a.png", gradient(9, 9))
    save(folder / "[b]?.png", gradient(9, 9))
    save(tmp_path / "in a/c.png", gradient(9, 9))  # what the pattern would match
    other.mkdir()
    (other / ".b.12345678.part").write_bytes(b"of another run")
    (other / "failed.jsonl").write_bytes(b"its report")
    words = ("--input", folder, "--output", output)
    assert run(*words) == (0, "2 restored, 0 skipped, 0 failed\n", [])
    (output / ".a.png.0123abcd.part").write_bytes(b"of a run that was killed")
    (output / "failed.jsonl").write_bytes(b"out of date")
    assert run(*words) == (0, "0 restored, 2 skipped, 0 failed\n", [])
    assert stamps(output).keys() == {"a.png", "[b]?.png"}
    assert stamps(other).keys() == {".b.12345678.part", "failed.jsonl"}
    assert run("--input", folder / "[b]?.png", *words[2:])[1] == "0 restored, 1 skipped, 0 failed\n"


def test_any_bytes_may_be_a_name(run, tmp_path):
    """Of images, good and bad, and of the folders; the report is JSON of UTF-8 all the same."""
    folder, output = tmp_path / "in\udce9", tmp_path / "out\udce9"
    for name in ("caf\udce9.png", "a\nb.png", "c\u2028d.png"):
        save(folder / name, gradient(9, 9))
    bad = ["bad\udce9.png", "bad\u2028\x85.png", "b\u00e4d\n.png"]
    for name in bad:
        (folder / name).write_bytes(b"no picture")
    (folder / "w.psd").touch()
    for told in ("3 restored, 0 skipped, 3 failed\n", "0 restored, 3 skipped, 3 failed\n"):
        code, out, errors = run("--input", folder, "--output", output)
        assert (code, out) == (1, told) and len(errors) == 4, errors
        assert errors[0].endswith(": passed over 1 file of formats that are not read: 1 .psd")
    assert stamps(output).keys() == {"caf\udce9.png", "a\nb.png", "c\u2028d.png", "failed.jsonl"}
    lines = (output / "failed.jsonl").read_bytes().decode("utf-8").split("\n")[:-1]
    assert {Path(json.loads(line)["source"]).name for line in lines} == {*bad}
    assert any("b\u00e4d" in line for line in lines)  # readable where it can be


def test_an_image_that_cannot_be_restored_is_listed_and_the_run_goes_on(run, tmp_path, monkeypatch):
    """Also those that share its device calls, and whatever the trouble."""
    errors = {9: MemoryError(), 10: RuntimeError("broken"), 11: RecursionError("deep")}
    sound, read = stages.finish, stages.images.from_bytes

    def finish(picture, *others):
        if error := errors.get(picture.color.shape[1]):
            raise error
        return sound(picture, *others)

    def from_bytes(data, **limits):
        found = read(data, **limits)
        if found.color.shape[1] == 12:
            raise MemoryError
        return found

    monkeypatch.setattr(stages, "finish", finish)
    monkeypatch.setattr(stages.images, "from_bytes", from_bytes)
    for width in range(5, 15):
        save(tmp_path / f"in/{width}.png", gradient(7, width))
    save(tmp_path / f"in/{'x' * 251}.png", gradient(7, 7))
    words = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--suffix", "_x4")
    assert run(*words)[:2] == (1, "6 restored, 0 skipped, 5 failed\n")
    lines = (tmp_path / "out/failed.jsonl").read_text().splitlines()
    found = {Path(e["source"]).stem: e["reason"] for e in map(json.loads, lines)}
    assert found == {
        "9": "not enough memory (MemoryError)",
        "10": "RuntimeError: broken",
        "11": "RecursionError: deep",
        "12": "not enough memory (MemoryError)",
        "x" * 251: "cannot be written (File name too long)",
    }
