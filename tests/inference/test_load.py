"""inference.load: bundles by path and by name, devices and options."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

import maskgit_sr
from data.sources import PairedFolder
from maskgit_sr import bundles, metrics
from maskgit_sr.errors import UserError
from maskgit_sr.inference import load


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
    assert (upscaler(picture, rule="confidence").confidence != base.confidence).any()
    assert (upscaler(picture, control=False).image != base.image).any()
    assert (upscaler(picture, temperature=1.0, seed=1).tokens != base.tokens).any()
    assert (upscaler(picture, color_fix="none").image != base.image).any()


def test_a_method_of_scale_2_without_tokens_and_confidence(subpixel):
    assert load.read_metadata(subpixel).scale == 2
    upscaler = maskgit_sr.load(subpixel)
    result = upscaler(image(20, 20))
    assert result.image.shape == (40, 40, 3)
    assert result.confidence is None and result.tokens is None
    # the residual is small: the output is close to the repeated pixels
    assert np.abs(result.image.astype(int) - image(20, 20).repeat(2, 0).repeat(2, 1)).mean() < 20
    assert upscaler(image(20, 11), scale=3).image.shape == (60, 33, 3)
    assert (upscaler(image(20, 20), strength=0.0).image != result.image).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": True}, "confidence: subpixel has none"),
        ({"steps": 4}, "steps: subpixel has no such option; expected one of .*strength, noise"),
        ({"strength": "much"}, "strength: expected float, found 'much'"),
        ({"strength": True}, "strength: expected float, found True"),
        ({"strength": float("nan")}, "strength: expected 0 or more, found nan"),
        ({"color_fix": ["adain"]}, "color_fix: expected str"),
        ({"self": 1}, "self: subpixel has no such option"),
    ],
)
def test_options_that_a_method_lacks(subpixel, options, message):
    upscaler = maskgit_sr.load(subpixel)
    with pytest.raises(UserError, match=message) as caught:
        upscaler.options(**options)
    assert "\n" not in str(caught.value)


def test_options_take_numbers_of_any_kind(subpixel):
    upscaler = maskgit_sr.load(subpixel)
    assert upscaler.options(strength=1).strength == 1.0
    assert upscaler.options(strength=np.float32(0.5)).strength == 0.5
    assert upscaler.options(strength=None, noise=None) == upscaler.options()


def test_a_bundle_states_the_scale_of_its_method(subpixel, tmp_path):
    params, metadata = bundles.read(subpixel)
    other = tmp_path / "other.safetensors"
    bundles.write(other, params, dataclasses.replace(metadata, scale=4))
    with pytest.raises(UserError, match="scale: expected 2, found 4"):
        maskgit_sr.load(other)


def test_exact_groups_stay_float32(bundle, method, params, tmp_path):
    half = tmp_path / "half.safetensors"
    _, metadata = bundles.read(bundle)
    bundles.write(half, jax.device_get(params), metadata, ml_dtypes.bfloat16, method.exact)
    found = maskgit_sr.load(half).params
    embedding = found["codebook"]["embedding"]
    np.testing.assert_array_equal(embedding, params["codebook"]["embedding"])
    kernel = found["control"]["zero"]["kernel"]
    assert (np.asarray(kernel) != params["control"]["zero"]["kernel"]).any()


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
        assert model.method.startswith("realsrt") and model.scale == 4
        assert model.provides == ("confidence", "tokens")
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
