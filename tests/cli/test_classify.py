"""`maskgit-sr classify` as it is typed, with a ResNet of random weights."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from maskgit_sr.perceptual import resnet
from tests.cli.commands import refuses, run
from tests.perceptual.published import weights


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Three photographs of three classes, and a network of six."""
    folder = tmp_path_factory.mktemp("classify")
    save_file(weights(resnet.shapes((1, 1, 1, 1), 2, 6)), folder / "net.safetensors")
    rng = np.random.default_rng(0)
    for label in (0, 3, 5):
        (folder / "set" / str(label)).mkdir(parents=True)
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((260, 230)).save(folder / "set" / f"{label}/{label}.png")
    save_file({"fc.bias": np.zeros(6, np.float32)}, folder / "other.safetensors")
    return folder


def test_a_folder_and_what_a_model_makes_of_it(base, subpixel, tmp_path):
    command = ("classify", base / "set", "--classifier", base / "net.safetensors")
    found = run(*command, "-o", tmp_path / "a.json")
    assert "3 of 3 pictures classified" in found.stdout and "top-5 error" in found.stdout
    assert "centre 224x224 after the shorter side was resized to 256" in found.stdout
    alone = json.loads((tmp_path / "a.json").read_text())
    assert list(alone["summary"]) == ["pictures"] and len(alone["classifier"]["sha256"]) == 64
    run(*command, "-m", subpixel, "--option", "strength=0", "-o", tmp_path / "b.json")
    both = json.loads((tmp_path / "b.json").read_text())
    assert list(both["summary"]) == ["photographs", "bicubic", "subpixel"]
    for row, other in zip(alone["images"], both["images"], strict=True):
        assert row["label"] == other["label"] == int(row["name"][0])
        assert row["ranks"]["pictures"] == other["ranks"]["photographs"] < 6
    assert both["source"]["strength"] == 0
    found = run(*command, "--limit", 2)
    assert "2 of 2 pictures classified" in found.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("gone", "gone: no such folder"),
        ("set --steps 3", "steps: an option of --model"),
        ("set --limit 0", "--limit: expected at least 1"),
        ("set --classifier gone", "gone: no such file (expected resnet50.safetensors"),
        ("set --classifier other.safetensors", "not the expected network"),
        ("set/3 --classifier net.safetensors", "expected sub-folders named by class index, or 6"),
        ("set --classifier net.safetensors --labels no.csv", "no.csv: No such file"),
        ("set --classifier net.safetensors -m gone", "gone"),
    ],
)
def test_mistakes_are_one_line(base, monkeypatch, command, message):
    monkeypatch.chdir(base)
    refuses(message, "classify", *command.split())
