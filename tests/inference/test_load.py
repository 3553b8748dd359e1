"""maskgit_sr.load and inference.models: bundles by path and by name, devices and options."""

import jax
import numpy as np
import pytest
from PIL import Image

import maskgit_sr
from data.sources import PairedFolder
from maskgit_sr import bundles, metrics
from maskgit_sr.errors import UserError


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
    assert list(shipped) == ["realsrt-nano", "realsrt-small"]
    assert maskgit_sr.DEFAULT_MODEL == "realsrt-small"
    for name, millions in (("realsrt-nano", 4), ("realsrt-small", 8)):
        model = shipped[name]
        assert model.method == "realsrt" and model.scale == 4
        assert model.parameters <= millions * 1e6 and model.size_bytes <= 2.1e6 * millions
        assert model.licence and model.card.startswith(f"# {name}")
        # bicubic has 0.452 and 0.458
        assert model.scores["realsr/lpips_alex"] < 0.42
        assert model.scores["drealsr/lpips_alex"] < 0.42
    for kind in ("realsr", "drealsr"):
        small, nano = (shipped[f"realsrt-{size}"].scores for size in ("small", "nano"))
        assert small[f"{kind}/lpips_alex"] < nano[f"{kind}/lpips_alex"]


@pytest.mark.parametrize("kind", ["realsr", "drealsr"])
def test_the_default_model_is_perceptually_closer_than_bicubic(shared, kind):
    """Whole pipeline on tiles all through the set: mean LPIPS below the enlarged inputs'."""
    lpips = metrics.create(["lpips_alex"], assets=shared / "metrics")["lpips_alex"]
    pairs = PairedFolder(shared / "data" / "val" / kind)
    upscaler = maskgit_sr.load()
    distances = []
    for index in range(len(pairs) // 16, len(pairs), len(pairs) // 8):
        pair = pairs[index]
        low, high = pair["lr"][32:96, 32:96], pair["hr"][128:384, 128:384]
        enlarged = Image.fromarray(low).resize(high.shape[1::-1], Image.Resampling.BICUBIC)
        outputs = (high, upscaler(low, confidence=False).image, enlarged)
        target, *found = (np.asarray(x, np.float32)[None] / 255 for x in outputs)
        distances.append([float(lpips(image, target)[0]) for image in found])
    ours, bicubic = np.mean(distances, axis=0)
    assert len(distances) >= 8 and ours < bicubic - 0.02, distances


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
