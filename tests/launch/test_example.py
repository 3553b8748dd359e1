"""The worked example method from photographs to a server, through nothing that knows its name."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import maskgit_sr
from launch import settings, train
from maskgit_sr import bundles, cli
from maskgit_sr.errors import UserError
from maskgit_sr.models.functional import flatten

STEPS = 12


@pytest.fixture(scope="module")
def config(photos):
    """A handful of steps of both stages."""
    config = settings.load("configs/subpixel.py")
    config.data.update(root=str(photos), threads=0)
    config.log_every = 1
    for stage in config.stages.values():
        stage.update(steps=STEPS, batch=8, crop=32, ema=0.5)
        stage.optimizer.update(learning_rate=3e-3, warmup=0)
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    """A run of both stages."""
    folder = tmp_path_factory.mktemp("example")
    assert "not finished" not in train.train(config, folder, float("inf"))
    return folder


@pytest.fixture(scope="module")
def bundle(workdir):
    return workdir / "subpixel.safetensors"


@pytest.fixture(scope="module")
def upscaler(bundle):
    return maskgit_sr.load(bundle)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def kernel(folder, stage):
    return flatten(bundles.read(folder / stage / "groups.safetensors")[0])["filter/kernel"]


def test_the_second_stage_goes_on_with_the_group_of_the_first(config, workdir, tmp_path):
    with pytest.raises(UserError, match="needs trained filter: run the earlier stages"):
        train.run_stage(config, "finetune", tmp_path, 0.0)
    shutil.copytree(workdir / "pretrain", tmp_path / "pretrain")
    assert train.run_stage(config, "finetune", tmp_path, 0.0).step == 0
    np.testing.assert_array_equal(kernel(tmp_path, "finetune"), kernel(tmp_path, "pretrain"))
    assert (kernel(workdir, "finetune") != kernel(workdir, "pretrain")).mean() > 0.9


def test_the_bundle_says_what_it_is(bundle):
    metadata = bundles.read_metadata(bundle)
    assert (metadata.method, metadata.scale) == ("subpixel", 2)
    assert set(metadata.config) == {"tile"} and list(metadata.training) == ["finetune", "pretrain"]


@pytest.mark.parametrize(("height", "width"), [(20, 20), (1, 1), (7, 70), (130, 33)])
def test_any_size_doubles(upscaler, height, width):
    result = upscaler(picture(height, width))
    assert result.image.shape == (2 * height, 2 * width, 3)
    assert result.confidence is None and result.tokens is None


def test_windows_are_blended_without_a_seam(upscaler):
    """A linear filter gives the same in windows as in one piece, but for the borders."""
    image = picture(100, 90)
    whole = upscaler.method.enlarge(upscaler.params, image[None] / np.float32(255))[0]
    found = upscaler(image).image / 255.0
    inner = slice(4, -4), slice(4, -4)
    # within the overlap a window sees its own padding one pixel deep
    assert np.abs(found - np.clip(whole, 0, 1))[inner].mean() < 0.01


def test_its_own_options(upscaler):
    image = picture(20, 20)
    flat = upscaler(image, strength=0.0).image
    np.testing.assert_array_equal(flat, image.repeat(2, 0).repeat(2, 1))
    one, two, again = (upscaler(image, noise=0.1, seed=s).image for s in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != two).mean() > 0.9
    for given, message in (
        ({"alpha": 1}, "alpha: subpixel has no such option; expected one of .*strength, noise"),
        ({"steps": 4}, "steps: subpixel has no such option"),
        ({"confidence": True}, "confidence: subpixel has none"),
        ({"noise": -1.0}, "noise: expected 0 or more"),
    ):
        with pytest.raises(UserError, match=message):
            upscaler(image, **given)


def test_the_command_line(bundle, tmp_path):
    Image.fromarray(picture(20, 20)).save(tmp_path / "a.png")
    done = run("upscale", tmp_path / "a.png", "--model", bundle, "--option", "strength=0")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "a_x2.png") as doubled:
        assert doubled.size == (40, 40)
    for words, message in (
        (["--steps", "4"], "steps: subpixel has no such option; expected one of color_fix, "),
        (["--confidence"], "confidence: subpixel has none"),
        (["--option", "alpha=1"], "alpha: subpixel has no such option"),
    ):
        done = run(
            "upscale", tmp_path / "a.png", "--model", bundle, "-o", tmp_path / "b.png", *words
        )
        assert done.exit_code == 2 and message in done.output.replace("\n", " "), done.output
        assert not (tmp_path / "b.png").exists()


def test_scores_of_pairs_of_its_scale(bundle, tmp_path):
    for folder, side in (("lr", 24), ("hr", 48)):
        (tmp_path / folder).mkdir()
        y, x = np.mgrid[:side, :side] / side
        waves = np.stack([np.sin(9 * x + 5 * y), np.cos(7 * y), x * y], -1) * 100 + 128
        Image.fromarray(waves.clip(0, 255).astype(np.uint8)).save(tmp_path / folder / "a.png")
    done = run(
        "evaluate", "--lr", tmp_path / "lr", "--hr", tmp_path / "hr", "--model", bundle,
        "--metrics", "psnr_rgb,lr_psnr", "--output", tmp_path / "scores.json",
        "--report", tmp_path / "page",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "scores.json").read_text())["summary"]
    assert 20 < summary["psnr_rgb"]["mean"] < 60 and summary["lr_psnr"]["mean"] > 20


def test_it_is_exported_with_a_seed_where_it_draws(bundle, tmp_path):
    pytest.importorskip("flatbuffers")
    from maskgit_sr.export.artifact import export

    plain = export(bundle, "stablehlo", tmp_path / "plain")
    assert plain["scale"] == 2 and plain["checked"]
    noisy = export(bundle, "stablehlo", tmp_path / "noisy", options={"noise": 0.1})
    assert noisy["checked"]


def test_it_is_served(upscaler):
    pytest.importorskip("fastapi")
    from tests.serving.serving import serve

    buffer = io.BytesIO()
    image = picture(20, 20)
    Image.fromarray(image).save(buffer, "PNG")
    with serve(upscaler) as served:
        found = served.upscale(buffer.getvalue())
        assert found.status_code == 200
        pixels = np.asarray(Image.open(io.BytesIO(found.content)))
        np.testing.assert_array_equal(pixels, upscaler(image).image)
        found = served.upscale(buffer.getvalue(), strength=0)
        pixels = np.asarray(Image.open(io.BytesIO(found.content)))
        np.testing.assert_array_equal(pixels, image.repeat(2, 0).repeat(2, 1))
        refused = served.upscale(buffer.getvalue(), steps=4)
        assert 400 <= refused.status_code < 500 and "steps" in refused.text
