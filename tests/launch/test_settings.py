"""launch.settings: configs from the command line, their mistakes and their listing."""

import pathlib

import pytest
from absl import flags

from configs import common
from launch import settings
from maskgit_sr.errors import UserError

CONFIGS = sorted(pathlib.Path("configs").glob("*.py"))
NAMES = [str(path) for path in CONFIGS if path.stem not in ("__init__", "common", "hardware")]
NAMES += ["configs/realsrt.py:nano"]


def parse(*words):
    """The config that a command line gives."""
    values = flags.FlagValues()
    settings.parse(["launch.train", *words], values)
    return values.config


@pytest.mark.parametrize("words", ["--config=configs/subpixel.py", "--config configs/subpixel.py"])
def test_overrides_have_the_type_of_their_field(words):
    found = parse(
        *words.split(), "--config.stages.pretrain.steps=7", "--config.data.zoom=(1.5,2)",
                  "--config.model.tile.sides=(32,)")  # fmt: skip
    assert found.stages.pretrain.steps == 7 and found.stages.finetune.steps == 250
    assert found.data.zoom == (1.5, 2) and found.model.tile.sides == (32,)


def test_the_published_networks_are_there_in_full():
    found = parse("--config=configs/realsrt.py", "--config.model.generator.dim=512")
    assert found.model.generator.dim == 512 and found.model.tokenizer.codes == 512
    assert found.losses.perceptual == "vgg19"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config=configs/subpixel.py", "--config.stages.pretrain.stpes=3"],
            "--config.stages.pretrain.stpes: no such field; nearest: steps; "
            "config.stages.pretrain has accumulate, batch, crop, .*, steps",
        ),
        (
            ["--config=configs/subpixel.py", "--config.model.losses.second", "l1"],
            "--config.model.losses.second: no such field; config.model has tile",
        ),
        (
            ["--config=configs/subpixel.py", "--config.seed.x=1"],
            "--config.seed.x: no such field; config.seed has no fields",
        ),
        (["--config=configs/subpixel.py", "--config.seed=x"], "--config.seed=x: invalid literal"),
        (["--config=configs/none.py"], "--config: no such file: 'configs/none.py'"),
        (["--config"], "--config: expected FILE.py or FILE.py:ARGUMENT, found nothing"),
        (["--config=configs/realsrt.py:huge"], "realsrt.py:huge: size: expected one of base, "),
        (["--config=configs/realsrt.py:stage=gan"], "stage: expected one of tokenizer, .* 'gan'"),
        (["--config=configs/subpixel.py", "--bogus=1"], "Unknown command line flag 'bogus'"),
    ],
)
def test_a_mistake_names_what_there_is(words, message):
    with pytest.raises(UserError, match=message):
        parse(*words)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_listed_with_its_value_and_a_meaning(name):
    config = settings.load(name)
    lines = list(settings.listing(config))
    paths = [path for path, _ in settings.fields(config)]
    assert len(lines) == len(paths) > 60
    for line, path in zip(lines, paths, strict=True):
        head, _, meaning = line.partition("  # ")
        assert head.startswith(f"--config.{path}=") and "\n" not in line
        assert len(meaning.split()) >= 2, line


def test_every_meaning_is_of_a_field():
    config = settings.load("configs/realsrt.py:nano")
    paths = [path for path, _ in settings.fields(config)]
    for pattern in common.MEANINGS:
        assert any(settings.fnmatch.fnmatch(path, pattern) for path in paths), pattern
