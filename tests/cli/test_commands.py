"""The command line against a library that only enlarges: options, messages and exit codes."""

import io
import os
import subprocess
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import maskgit_sr
from maskgit_sr import bundles
from maskgit_sr.cli import messages
from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.structure import Structure, StructureMethodConfig
from maskgit_sr.models.structure import StructureConfig
from tests.cli.commands import picture, refuses, run, told
from tests.methods import small


def opened(name):
    with Image.open(name) as image:
        return image.mode, image.size, np.asarray(image)


# ------------------------------------------------------------------ upscale


def test_single_picture_with_defaults(fake):
    result = run("upscale", picture("a.jpg"))
    assert result.stdout == "a_x4.png\n" and result.stderr == ""
    defaults = {"batch": None, "device": None, "dtype": None}
    assert fake.loaded == [(maskgit_sr.DEFAULT_MODEL, defaults)]
    assert fake.calls == [{"scale": None, "seed": 0, "confidence": False}]
    assert opened("a_x4.png")[1] == (32, 24)


def test_every_option_reaches_the_library(fake):
    options = "-m other --scale 2.5 --steps 3 --seed 7 --temperature 0.5 --color-fix wavelet"
    options += " --batch 8 --device cpu --dtype bfloat16"
    options += " --option rule=confidence --option control=false"
    run("upscale", picture("a.png"), "-o", "out/b.webp", *options.split())
    assert fake.loaded == [("other", {"batch": 8, "device": "cpu", "dtype": "bfloat16"})]
    call = {"scale": 2.5, "steps": 3, "seed": 7, "temperature": 0.5, "color_fix": "wavelet"}
    call |= {"rule": "confidence", "control": False}
    assert fake.calls == [call | {"confidence": False}]
    assert opened("out/b.webp")[1] == (20, 15)


def test_confidence_map_has_the_size_of_the_output(fake):
    run("upscale", picture("a.png"), "-o", "b.jpg", "--confidence")
    mode, size, sure = opened("b_confidence.png")
    assert (mode, size) == ("L", (32, 24))
    assert sure[0, 0] == 0 and sure[-1, -1] == 255  # bright where sure


def test_notes_are_shown(fake):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    assert run("upscale", "a.gif").stderr == "maskgit-sr: a.gif: animated: first frame used\n"


def test_batch_goes_on_after_failures_and_reports(fake, tmp_path):
    (tmp_path / "in").mkdir()
    for name, width in (("a", 8), ("b", 13), ("c", 14), ("e", 8)):
        picture(f"in/{name}.png", size=(width, 6))
    (tmp_path / "in/d.png").write_text("not a picture")
    result = run("upscale", "in", "-o", "out", code=1)
    assert result.stdout == "out/a.png\nout/e.png\n"
    lines, counts = told(result)
    assert counts == "2 restored, 3 failed"
    assert lines[:2] == [
        "maskgit-sr: in/b.png: expected a luckier picture",
        "maskgit-sr: tiles.tmp: No space left on device",
    ]
    assert lines[2].startswith("maskgit-sr: in/d.png: not a picture") and len(lines) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "e.png"]


def test_skip_existing_and_overwrite(fake):
    both = ("upscale", picture("a.png"), picture("b.png"), "-o", "out")
    outputs = "out/a.png\nout/b.png\n"
    result = run(*both)
    assert result.stdout == outputs and told(result) == ([], "2 restored, 0 failed")
    refuses("exists already", *both)
    result = run(*both, "--skip-existing")
    assert result.stdout == outputs  # a line for every output that is there
    assert result.stderr == "maskgit-sr: 0 restored, 0 failed, 2 skipped\n"
    assert len(fake.loaded) == 1  # nothing to do: the model is not loaded
    result = run("upscale", "a.png", "-o", "out", "--skip-existing")
    assert result.stdout == "out/a.png\n" and result.stderr.endswith("1 skipped\n")
    run(*both, "--overwrite")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("13.png", "13.png: expected a luckier picture"),
        ("14.png", "tiles.tmp: No space left on device"),
        ("gone.png", "gone.png: no such file or folder"),
        ("8.png -m mine", "model: expected a path or one of realsrt"),
        ("8.png -o b.png -m nonsense", "model: expected another name"),
        ("8.png -o b.jpg", "JPEG cannot hold transparency"),
    ],
)
def test_single_failure_is_one_line(fake, command, message):
    name = command.split()[0]
    if name != "gone.png":
        picture(name, (int(name[:-4]), 6), "RGBA")
    refuses(message, "upscale", *command.split())
    assert len(fake.calls) == (name[0] == "1") and os.listdir() == [name] * (name != "gone.png")


def test_a_defect_is_told_by_its_type_in_a_batch_and_by_its_traceback_alone(fake):
    picture("a.png", size=(15, 6))
    picture("b.png")
    result = run("upscale", "a.png", "b.png", "-o", "out", code=1)
    expected = ["maskgit-sr: a.png: RuntimeError: a defect"], "1 restored, 1 failed"
    assert told(result) == expected
    assert result.stdout == "out/b.png\n" and os.listdir("out") == ["b.png"]
    with pytest.raises(RuntimeError, match="a defect"):
        run("upscale", "a.png", "-o", "out")


def test_interrupt(fake):
    result = run("upscale", picture("a.png", size=(16, 6)), code=130)
    assert result.stderr == "maskgit-sr: interrupted\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("--scale", value) for value in ("0", "-1", "nan", "inf", "16.5")],
        *[("--steps", value) for value in ("0", "-3")],
        *[("--temperature", value) for value in ("-0.1", "nan", "inf")],
        *[("--batch", "0"), ("--seed", "-1"), ("--seed", str(2**32))],
        *[("--color-fix", "blue"), ("--device", "abacus"), ("--dtype", "float8")],
        *[("--format", "gif"), ("--suffix", "a/b")],
        *[("--option", value) for value in ("steps", "=4", "a b=1")],
    ],
)
def test_invalid_options_are_refused_before_the_model_is_loaded(fake, option, value):
    refuses(f"{option}: expected ", "upscale", picture("a.png"), f"{option}={value}")
    assert fake.loaded == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("magic=3", "magic: realsrt has no such option; expected one of color_fix, "),
        ("seed=3", "seed: realsrt has no such option"),
        ("self=3", "self: realsrt has no such option"),
        ("confidence=true", "confidence: realsrt has no such option"),
        ("steps=many", "steps: expected a whole number, found 'many'"),
        ("steps=1.5", "steps: expected a whole number, found '1.5'"),
        ("steps=0", "steps: expected at least 1, found 0"),
        ("temperature=NaN", "temperature: expected 0 or more, found nan"),
        ("rule=luck", "rule: expected one of critic, confidence, found 'luck'"),
    ],
)
def test_an_option_that_the_method_lacks_is_refused_before_the_work(fake, option, message):
    Path("a.png").write_text("not a picture")
    refuses(message, "upscale", "a.png", "-o", "out/b.png", "--option", option)
    assert fake.calls == [] and not os.path.exists("out")


@pytest.mark.parametrize("args", [["--steps", "two"], ["--nonsense"], []])
def test_usage_errors(fake, args):
    run("upscale", *args, code=2)


def test_odd_file_names_stay_on_one_line_and_are_no_markup(fake, tmp_path):
    (tmp_path / "[red]a\nb\x1b[2J.png").write_text("x")
    result = refuses("[red]a?b?[2J.png: not a picture", "upscale", "[red]a\nb\x1b[2J.png")
    assert "\x1b" not in result.stderr


def test_progress_bar_on_a_terminal(fake, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(messages, "_errors", Console(file=terminal, force_terminal=True, width=120))
    picture("a.png")
    picture("b.png", size=(13, 6))
    run("upscale", "a.png", "b.png", "-o", "out", code=1)
    shown = terminal.getvalue()
    assert "windows/s" in shown and "2/2" in shown
    assert "maskgit-sr: b.png: expected a luckier picture" in shown


def test_a_method_of_scale_2_without_confidence(subpixel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("upscale", picture("a.png", (20, 20)), "-m", subpixel)
    refuses("confidence: subpixel has none", *command, "--confidence")
    refuses("steps: subpixel has no such option", *command, "--steps", 4)
    assert os.listdir() == ["a.png"]
    assert run(*command).stdout == "a_x2.png\n"
    assert opened("a_x2.png")[1] == (40, 40)
    run(*command, "--option", "strength=0", "-o", "plain.png", "--color-fix", "adain")
    np.testing.assert_array_equal(opened("plain.png")[2], np.zeros((40, 40, 3)))
    assert run(*command, "--scale", 3).stdout == "a_x3.png\n"
    assert opened("a_x3.png")[1] == (60, 60)


@pytest.fixture(scope="module")
def structure(tmp_path_factory):
    """A bundle with the option strength, without confidence and tokens."""
    method = Structure(StructureMethodConfig(TileSpec((16,), 4), StructureConfig(width=8, depth=1)))
    path = tmp_path_factory.mktemp("structure") / "structure.safetensors"
    metadata = bundles.Metadata(method.name, method.describe(), method.scale)
    bundles.write(path, small.random_params(method), metadata)
    return path


def test_strength_and_what_a_model_has_not(structure, bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_text("not a picture")  # all of these are told before it is read
    command = ("upscale", "a.png", "-o", "out/b.png", "-m")
    for strength in ("2", "-0.1", "nan"):
        told = f"--strength: expected 0 to 1, found {strength}"
        refuses(told, *command, structure, f"--strength={strength}")
    told = "strength: expected 0 to 1, found 2"
    refuses(told, *command, structure, "--option", "strength=2")
    refuses("confidence: structure has none", *command, structure, "--confidence")
    refuses("steps: structure has no such option", *command, structure, "--steps", 4)
    refuses("strength: realsrt has no such option", *command, bundle, "--strength", 0.5)
    assert os.listdir() == ["a.png"]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)).save("a.png")
    for name, given in (("none", ()), ("one", (1,)), ("half", (0.5,))):
        words = [word for value in given for word in ("--strength", value)]
        run("upscale", "a.png", "-m", structure, "-o", f"{name}.png", *words)
    none, one, half = (opened(f"{name}.png")[2] for name in ("none", "one", "half"))
    np.testing.assert_array_equal(none, one)  # the default
    assert none.shape == (36, 48, 3) and (none != half).any()


# ------------------------------------------------------------------ models, convert, start


def test_models(monkeypatch):
    info = types.SimpleNamespace(
        **{"name": "realsrt-nano", "path": "x", "method": "realsrt", "scale": 4},
        **{"provides": ("confidence", "tokens")},
        **{"parameters": 5_600_000, "size_bytes": 11_200_000, "licence": "Apache-2.0"},
        **{"scores": {"LPIPS": 0.31234}, "card": "# RealSRT [nano]\nTrained on photographs.\n"},
    )
    monkeypatch.setattr(maskgit_sr, "list_models", lambda: [info], raising=False)
    table = run("models").stdout
    cells = ("realsrt-nano", "x4", "confidence, tokens", "5.6 M", "11.2 MB", "Apache-2.0")
    assert all(cell in table for cell in (*cells, "LPIPS", "0.3123"))
    assert run("models", "realsrt-nano").stdout == info.card
    refuses("models: expected one of realsrt-nano, found 'other'", "models", "other")


def test_convert_realsrt(tmp_path, monkeypatch):
    calls = []

    def convert(source, target, *, overwrite):
        calls.append((source.name, target.name, overwrite))
        return {"parameters": 12, "groups": {"tokenizer": 5, "generator": 7}}

    module = types.ModuleType("maskgit_sr.convert.realsrt")
    module.convert = convert
    monkeypatch.setitem(sys.modules, "maskgit_sr.convert.realsrt", module)
    monkeypatch.setattr("maskgit_sr.convert.realsrt", module, raising=False)
    source, target = tmp_path / "a.pth", tmp_path / "b.safetensors"
    refuses("a.pth: no such file", "convert", "realsrt", source, target)
    source.touch()
    result = run("convert", "realsrt", source, target)
    assert result.stdout == "parameters: 12\ngroups: tokenizer 5, generator 7\n"
    target.touch()
    refuses("b.safetensors: exists already", "convert", "realsrt", source, target)
    run("convert", "realsrt", source, target, "--overwrite")
    assert calls == [("a.pth", "b.safetensors", False), ("a.pth", "b.safetensors", True)]


def test_convert_maskgit(tmp_path, monkeypatch):
    from maskgit_sr.convert import maskgit

    calls = []

    def convert(*files, method, sizes, overwrite):
        calls.append((*(f.name for f in files), method, sizes.transformer.positions, overwrite))
        return {"parameters": 12, "groups": {"tokenizer": 5, "transformer": 7}}

    monkeypatch.setattr(maskgit, "convert", convert)
    files = [tmp_path / name for name in ("a", "b", "c.safetensors")]
    files[0].touch()
    refuses("b: no such file", "convert", "maskgit", *files)
    files[1].touch()
    result = run("convert", "maskgit", *files)
    assert result.stdout == "parameters: 12\ngroups: tokenizer 5, transformer 7\n"
    run("convert", "maskgit", *files, "--method", "sr_maskgit_correction", "--grid", "16")
    refuses("grid: expected 1 to 128", "convert", "maskgit", *files, "--grid", "0")
    files[2].touch()
    refuses("c.safetensors: exists already", "convert", "maskgit", *files)
    run("convert", "maskgit", *files, "--overwrite")
    names = ("a", "b", "c.safetensors")
    assert calls == [
        (*names, "sr_maskgit_inpainting", 1025, False),
        (*names, "sr_maskgit_correction", 257, False),
        (*names, "sr_maskgit_inpainting", 1025, True),
    ]


def test_help_needs_none_of_the_heavy_libraries():
    code = (
        "import sys; from maskgit_sr.cli import app\n"
        "try: app(['upscale', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'jax', 'flax', 'cv2', 'PIL', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--color-fix" in done.stdout


def test_version():
    assert run("--version").stdout == f"maskgit-sr {maskgit_sr.__version__}\n"
    assert version("maskgit-sr") == maskgit_sr.__version__


def test_module_entry_point_reports_in_one_line(tmp_path):
    command = [sys.executable, "-m", "maskgit_sr", "upscale", str(tmp_path / "gone.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"maskgit-sr: {tmp_path / 'gone.png'}: no such file or folder\n"
