"""maskgit_sr.load and inference.models: bundles by path and by name, devices and options."""

import jax
import numpy as np
import pytest
from PIL import Image

import maskgit_sr
from data.sources import PairedFolder
from maskgit_sr import bundles, metrics
from maskgit_sr.errors import UserError
from maskgit_sr.inference import models


@pytest.fixture(scope="module")
def bundle(method, params, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "tiny.safetensors"
    bundles.write(
        path, jax.device_get(params), bundles.Metadata("realsrt", method.describe(), method.scale)
    )
    return path


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_bundle_from_a_path_restores(bundle):
    upscaler = maskgit_sr.load(bundle, batch=2)
    result = upscaler(image(20, 11))
    assert result.image.shape == (80, 44, 3)
    assert result.confidence.shape == (20, 11)
    assert 0 <= result.confidence.min() <= result.confidence.max() <= 1
    assert result.tokens.shape == (2, 1, 8, 8)
    assert ((result.tokens >= 0) & (result.tokens < 16)).all()


def test_options_of_the_method_change_the_result(bundle):
    upscaler = maskgit_sr.load(bundle, batch=2)
    picture = image(16, 16)
    base = upscaler(picture)
    np.testing.assert_array_equal(base.image, upscaler(picture, confidence=False).image)
    assert (upscaler(picture, steps=1).tokens != base.tokens).any()
    assert (upscaler(picture, policy="generator").confidence != base.confidence).any()
    assert (upscaler(picture, temperature=1.0, seed=1).tokens != base.tokens).any()
    assert (upscaler(picture, color_fix="none").image != base.image).any()


def test_batch_size_does_not_change_the_result(bundle):
    picture = image(40, 30)
    one, many = (maskgit_sr.load(bundle, batch=b)(picture) for b in (1, 4))
    np.testing.assert_array_equal(one.tokens, many.tokens)
    assert np.abs(one.image.astype(int) - many.image).max() <= 1


def test_shipped_models_have_cards_and_fit_their_size():
    shipped = {model.name: model for model in maskgit_sr.list_models()}
    nano = shipped[models.DEFAULT]
    assert nano.method == "realsrt" and nano.scale == 4
    assert nano.parameters <= 4_000_000 and nano.size_bytes <= 8_000_000
    assert nano.licence and nano.card.startswith("# realsrt-nano")
    # bicubic has 0.452 and 0.458
    assert nano.scores["realsr/lpips_alex"] < 0.42
    assert nano.scores["drealsr/lpips_alex"] < 0.42


@pytest.mark.parametrize("kind", ["realsr", "drealsr"])
def test_the_shipped_model_is_perceptually_closer_than_bicubic(shared, kind):
    """Whole pipeline on photographs all through the set: mean LPIPS below the enlarged inputs'."""
    lpips = metrics.create(["lpips_alex"], assets=shared / "metrics")["lpips_alex"]
    pairs = PairedFolder(shared / "data" / "val" / kind)
    upscaler = maskgit_sr.load()
    distances = []
    for index in range(len(pairs) // 8, len(pairs), len(pairs) // 4):
        pair = pairs[index]
        low, high = pair["lr"], pair["hr"]
        enlarged = Image.fromarray(low).resize(high.shape[1::-1], Image.Resampling.BICUBIC)
        outputs = (high, upscaler(low, confidence=False).image, enlarged)
        target, *found = (np.asarray(x, np.float32)[None] / 255 for x in outputs)
        distances.append([float(lpips(image, target)[0]) for image in found])
    ours, bicubic = np.mean(distances, axis=0)
    assert len(distances) >= 4 and ours < bicubic - 0.02, distances


@pytest.mark.parametrize(
    ("name", "message"),
    [("realsrt-giant", "realsrt-nano"), ("no/such.safetensors", "no such bundle")],
)
def test_unknown_models_are_refused_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        maskgit_sr.load(name)
    assert "\n" not in str(caught.value)


def test_unknown_device_and_dtype_are_refused(bundle):
    with pytest.raises(UserError, match="device"):
        maskgit_sr.load(bundle, device="abacus")
    with pytest.raises(UserError, match="dtype"):
        maskgit_sr.load(bundle, dtype="float8")


def test_a_cut_bundle_is_refused(bundle, tmp_path):
    short = tmp_path / "short.safetensors"
    short.write_bytes(bundle.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"short\.safetensors"):
        maskgit_sr.load(short)


def test_a_bundle_of_another_method_is_refused(bundle, tmp_path):
    params, metadata = bundles.read(bundle)
    other = tmp_path / "other.safetensors"
    bundles.write(other, params, bundles.Metadata("sorcery", metadata.config, 4))
    with pytest.raises(UserError, match="method"):
        maskgit_sr.load(other)


def test_a_bundle_without_a_group_is_refused(bundle, tmp_path):
    params, metadata = bundles.read(bundle)
    del params["critic"]
    other = tmp_path / "part.safetensors"
    bundles.write(other, params, metadata)
    with pytest.raises(UserError, match="missing: critic/"):
        maskgit_sr.load(other)


def test_nan_weights_are_refused(bundle, tmp_path):
    params, metadata = bundles.read(bundle)
    params["codebook"]["embedding"][0, 0] = np.nan
    other = tmp_path / "nan.safetensors"
    bundles.write(other, params, metadata)
    with pytest.raises(UserError, match="codebook/embedding"):
        maskgit_sr.load(other)
