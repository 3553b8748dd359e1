"""inference.load: bundles by path and by name, devices and options."""

import copy
import dataclasses
import functools
import io
import time

import jax
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

import maskgit_sr
from data.sources import PairedFolder
from maskgit_sr import bundles, metrics
from maskgit_sr.errors import LONGEST, UserError
from maskgit_sr.inference import load


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def upscaler(bundle):
    return maskgit_sr.load(bundle, batch=2)


def test_a_bundle_from_a_path_restores(upscaler):
    result = upscaler(image(20, 11))
    assert result.image.shape == (80, 44, 3)
    assert result.confidence.shape == (20, 11)
    assert 0 <= result.confidence.min() <= result.confidence.max() <= 1
    assert result.tokens.shape == (2, 1, 8, 8)
    assert ((result.tokens >= 0) & (result.tokens < 16)).all()


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("tokens", {"steps": 1}),
        ("tokens", {"temperature": 1.0, "seed": 1}),
        ("confidence", {"rule": "confidence"}),
        ("image", {"control": False}),
        ("image", {"color_fix": "none"}),
    ],
)
def test_options_of_the_method_change_the_result(upscaler, field, options):
    base, changed = (
        upscaler(image(16, 16), steps=2),
        upscaler(image(16, 16), **{"steps": 2} | options),
    )
    assert (getattr(changed, field) != getattr(base, field)).any()


def test_batch_size_and_confidence_do_not_change_the_result(bundle, upscaler):
    one = maskgit_sr.load(bundle, batch=1)(image(40, 30), steps=2, confidence=False)
    many = upscaler(image(40, 30), steps=2)
    np.testing.assert_array_equal(one.tokens, many.tokens)
    assert np.abs(one.image.astype(int) - many.image).max() <= 1


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


def test_exact_groups_stay_float32(bundle, method, params, tmp_path):
    half = tmp_path / "half.safetensors"
    _, metadata = bundles.read(bundle)
    bundles.write(half, jax.device_get(params), metadata, ml_dtypes.bfloat16, method.exact)
    found = maskgit_sr.load(half).params
    embedding = found["codebook"]["embedding"]
    np.testing.assert_array_equal(embedding, params["codebook"]["embedding"])
    kernel = found["control"]["zero"]["kernel"]
    assert (np.asarray(kernel) != params["control"]["zero"]["kernel"]).any()


def test_shipped_models_have_cards_and_fit_their_size(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no models of the user's own
    shipped = {model.name: model for model in maskgit_sr.list_models()}
    assert list(shipped) == ["realsrt-nano", "realsrt-small", "sr3-nano", "srmap-nano"]
    assert maskgit_sr.DEFAULT_MODEL == "realsrt-small"
    sets = {"realsr": 0.42, "drealsr": 0.42}  # LPIPS; bicubic has 0.452 and 0.458
    methods = {
        "realsrt-nano": ("realsrt", ("confidence", "tokens"), 4e6, 8.4e6, sets),
        "realsrt-small": ("structure", (), 1.3e6, 5.2e6, sets),
        "sr3-nano": ("sr3", (), 1.2e6, 2.4e6, {"realsr-centres": 0.4}),  # bicubic 0.477
        # bicubic 0.428, its L1 net 0.300
        "srmap-nano": ("srmap", (), 3e5, 1.2e6, {"set14-centres": 0.26}),
    }
    for name, (method, provides, parameters, size, bounds) in methods.items():
        model = shipped[name]
        assert (model.method, model.provides, model.scale) == (method, provides, 4)
        assert model.parameters <= parameters and model.size_bytes <= size
        assert model.licence and model.card.startswith(f"# {name}")
        for kind, bound in bounds.items():
            assert model.scores[f"{kind}/lpips_alex"] < bound
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


def test_strength_removes_noise_and_keeps_edges():
    """A noisy step between two greys, as a JPEG file: what noise is left, the steepest slope."""
    rng = np.random.default_rng(0)
    step = np.where(np.arange(64) < 32, 76, 178)[None, :, None]
    noisy = np.rint(step + rng.normal(0, 10, (64, 64, 3))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=80)
    picture = np.asarray(Image.open(file))
    upscaler = maskgit_sr.load()
    noise, slopes = [], []
    for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
        output = upscaler(picture, strength=strength).image / np.float32(255)
        noise.append(output[32:224, 16:96].std((0, 1)).mean())
        slopes.append(np.abs(np.diff(output[32:224].mean((0, 2)))).max())
    assert (np.diff(noise) < 0).all(), noise
    assert noise[-1] < 0.5 * noise[0], noise
    assert min(slopes) > 0.75 * max(slopes), slopes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("realsrt-giant", {}, "realsrt-nano"),
        ("no/such.safetensors", {}, "no such bundle"),
        (None, {"device": "abacus"}, "device: expected cpu, gpu or tpu"),
        (None, {"dtype": "float8"}, "dtype"),
        (None, {"batch": 0}, "batch: expected at least 1"),
    ],
)
def test_models_and_options_that_do_not_exist(bundle, name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        maskgit_sr.load(name or bundle, **options)
    assert "\n" not in str(caught.value)


def test_a_cut_bundle_is_refused(bundle, tmp_path):
    short = tmp_path / "short.safetensors"
    short.write_bytes(bundle.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"short\.safetensors"):
        maskgit_sr.load(short)


def without_a_group(params):
    del params["critic"]


def with_a_number(number):
    def damage(params):
        params["codebook"]["embedding"][0, 0] = number

    return damage


def config(**changes):
    """Changes of parts of the configuration, by their paths with two underscores for a dot."""

    def change(metadata):
        for path, value in changes.items():
            *parts, last = path.split("__")
            functools.reduce(dict.__getitem__, parts, metadata.config)[last] = value

    return change


def test_fields_of_a_configuration_are_checked_before_anything_is_built(bundle, tmp_path):
    params, metadata = bundles.read(bundle)
    cases = {
        "model.generator.heads: expected 1 to 16384, found 0": config(generator__heads=0),
        "model.generator.decoder_depth: expected 0 to": config(generator__decoder_depth=10**6),
        "model: describes at least 9": config(generator__decoder_depth=500),
        "model: describes at least": config(tokenizer__channels=[32] * 1000),
        "tile.overlap: expected 0 to 15, found 16": config(tile__overlap=16),
        "model.steps: expected int, found 'x'": config(steps="x"),
        "model.steps: expected 1 to 1024, found 1000000": config(steps=10**6),
        "model.tile.sides.0.: expected 1 to 1024": config(tile__sides=[10**6]),
        "mask schedule: expected one of": config(schedule="quick"),
        "generator: expected grid": config(generator__outputs=17),
    }
    for message, change in cases.items():
        changed = copy.deepcopy(metadata)
        change(changed)
        other = tmp_path / "other.safetensors"
        bundles.write(other, params, changed)
        began = time.monotonic()
        with pytest.raises(UserError, match=message) as caught:
            maskgit_sr.load(other)
        assert str(caught.value).startswith(f"{other}: "), message
        assert time.monotonic() - began < 1, message


def test_a_name_of_any_length_is_told_in_a_line():
    for name in ("x" * 100_000, "x/" * 50_000 + ".safetensors", "a\0b", "\udcff.safetensors"):
        with pytest.raises(UserError, match="^model: ") as caught:
            maskgit_sr.load(name)
        assert len(str(caught.value)) <= LONGEST and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("damage", "changes", "message"),
    [
        (lambda params: None, {"scale": 2}, "scale: expected 4, found 2"),
        (lambda params: None, {"method": "sorcery"}, "method"),
        (without_a_group, {}, "missing: critic/"),
        *[
            (with_a_number(n), {}, "codebook/embedding: expected finite values of at most 1e.06")
            for n in (np.nan, -np.inf, 1e38, -1e7)
        ],
    ],
)
def test_bundles_that_are_not_of_the_method(bundle, tmp_path, damage, changes, message):
    params, metadata = bundles.read(bundle)
    damage(params)
    other = tmp_path / "other.safetensors"
    bundles.write(other, params, dataclasses.replace(metadata, **changes))
    with pytest.raises(UserError, match=message):
        maskgit_sr.load(other)
