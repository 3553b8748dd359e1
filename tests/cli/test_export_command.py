"""The export command: its options reach the library, mistakes are one line."""

import pytest

import maskgit_sr
from maskgit_sr.export import artifact as exporting
from tests.cli.commands import refuses, run


@pytest.fixture
def calls(monkeypatch):
    calls = []

    def export(model, format, output, *, progress, **options):
        calls.append((model, format, output, options))
        for stage in ("lowering", "writing", "checking"):
            progress(stage)
        output.mkdir()
        (output / "a").write_bytes(b"x" * 250_000)
        return {"checked": {"1x1": {"within_1": 0.9996, "tokens": 1.0}}}

    monkeypatch.setattr(exporting, "export", export)
    return calls


def test_defaults(calls, tmp_path):
    output = tmp_path / "model"
    result = run("export", "--output", output)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "1x1: 99.960% of samples within 1/255 of the upscaler's, 100.000% of tokens equal",
        f"{output} (0.2 MB)",
    ]
    options = {"options": {}, "dtype": "float32", "webp": True}
    limits = {"max_batch": exporting.MAX_BATCH, "max_pixels": exporting.MAX_PIXELS}
    assert calls == [(maskgit_sr.DEFAULT_MODEL, "savedmodel", output, options | limits)]


def test_every_option_reaches_the_library(calls, tmp_path):
    text = "--format stablehlo -m other --steps 3 --option a=0.5 --option b=c"
    text += " --dtype bfloat16 --max-batch 4 --max-pixels 99 --no-webp"
    run("export", "-o", tmp_path / "m", *text.split())
    options = {"dtype": "bfloat16", "max_batch": 4, "max_pixels": 99, "webp": False}
    options["options"] = {"steps": 3, "a": "0.5", "b": "c"}
    assert calls == [("other", "stablehlo", tmp_path / "m", options)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--format tf", "--format: expected one of savedmodel, stablehlo, onnx, found 'tf'"),
        ("--dtype float16", "--dtype: expected one of float32, bfloat16, found 'float16'"),
        ("--max-batch 0", "--max-batch: expected at least 1, found 0"),
        ("--max-pixels 0", "--max-pixels: expected at least 1, found 0"),
        ("--steps 0", "--steps: expected at least 1, found 0"),
        ("--option steps", "--option: expected NAME=VALUE, found 'steps'"),
        ("--steps 2 --option steps=2", "--option: expected steps once, found it twice"),
        ("--model none", "model: expected a path or one of realsrt"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: name)
    refuses(message, "export", "--output", tmp_path / "m", *options.split())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    refuses("expected an empty folder or none", "export", "--output", tmp_path)
