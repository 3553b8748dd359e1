"""The table of metrics: what every one of them promises, on random weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr import assets as known
from maskgit_sr.errors import UserError
from maskgit_sr.metrics import SPECS, available, create, niqe, psnr, ssim
from tests.perceptual.published import image

SAME = {"psnr": 100, "ssim": 1, "ms": 1, "lpips": 0, "dists": 0}
SINGLE = [name for name, spec in SPECS.items() if not spec.of_set]
NETWORKS = {"lpips", "dists", "clipiqa", "musiq", "fid", "is", "diversity"}
NATURAL = {"niqe", "ma", "pi"}  # statistics of photographs, computed on the host


def kind(name):
    return name.partition("_")[0]


@pytest.fixture(scope="module")
def metrics(assets):
    return create(SPECS, assets=assets)


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """No file is found."""
    monkeypatch.delenv(known.ENV, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(known, "__file__", str(tmp_path / "site-packages/maskgit_sr/assets.py"))


def images(spec):
    """[5,H,W,3], and others: an ordinary pair, equal ones, flat ones, a NaN in x, one in another.

    x, the reference if it takes one, and LR if it takes that.
    """
    height = 96 if kind(spec.name) in ("niqe", "pi") else max(spec.min_size, 32)
    height += 2 * spec.border
    width = max(spec.min_size + 2 * spec.border, 32)
    x, y = image(height, width, batch=5), image(height, width, batch=5, seed=1)
    y[1] = x[1]
    x[2] = y[2] = 0.5
    x[3, -1, 0, 1] = np.nan
    y[4, 0, -1, 2] = np.inf
    if spec.of_samples:
        x = np.stack([x, x], axis=1)
        x[0, 1] = image(height, width, batch=1, seed=2)[0]
    lr = y[:, ::4, ::4].copy()
    lr[4, 0, -1, 2] = np.inf
    return x, *({"hr": y, "lr": lr}[kind] for kind in spec.images)


@pytest.mark.parametrize("name", SINGLE)
def test_special_images(metrics, name):
    spec = metrics[name].spec
    alone = not spec.images
    scores = metrics[name](*images(spec))
    ordinary, same, flat, broken, other = np.asarray(scores)
    assert np.isfinite(ordinary) and np.isnan(broken)
    assert np.isfinite(other) if alone else np.isnan(other)
    assert np.isnan(flat) if kind(name) in NATURAL else np.isfinite(flat)
    if spec.needs == "reference":
        np.testing.assert_allclose([same, flat], SAME[kind(name)], atol=1e-5)
        assert (ordinary < same) == (spec.better == "higher")


@pytest.mark.parametrize("name", SINGLE)
def test_smallest_size(metrics, name):
    """A square of that side is scored; what is too small is told, with the size that it takes."""
    score, side = metrics[name].score, SPECS[name].min_size + 2 * SPECS[name].border
    least = (side, side)
    if kind(name) == "niqe":  # the score itself ends on the host
        score, least = niqe.features, (96, 192)

    if kind(name) == "pi":
        least = (96 + 8, 192 + 8)

    def call(height, width):
        if kind(name) in ("ma", "pi"):
            return len(score(image(height, width, batch=1)))
        shape = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        several = jax.ShapeDtypeStruct((1, 2, height, width, 3), jnp.float32)
        first = several if SPECS[name].of_samples else shape
        return jax.eval_shape(score, first, *[shape] * len(SPECS[name].images)).shape[0]

    assert call(side, side) == call(*least) == 1
    if side > 1:
        with pytest.raises(ValueError, match="too small|at least|takes"):
            call(least[0], least[1] - 1)


def test_fid_of_sets(metrics):
    fid = metrics["fid"]
    x = image(32, 40, batch=4)
    for i in (0, 2):
        fid.add(x[i : i + 2], x[2 - i : 4 - i])
    np.testing.assert_allclose(fid.value(), 0, atol=1e-6)
    fid.add(x[:2] / 2, x[:2])
    assert 0 < fid.value() < np.inf
    fid.add(np.full_like(x[:2], np.nan), x[:2])
    assert np.isnan(fid.value())
    fid.clear()
    with pytest.raises(ValueError, match="at least 2 images a set, found 0"):
        fid.value()


def test_inception_score_of_a_set(metrics):
    """Random weights see four classes, in which ten equal images do not differ."""
    score = metrics["is"]
    x = image(32, 40, batch=10)
    score.add(np.repeat(x[:1], 10, axis=0))
    np.testing.assert_allclose(score.value(), 1, rtol=1e-6)
    score.clear()
    for i in range(0, 20, 5):
        score.add(x[i % 10 :][:5] * (1 - i / 40))
    assert 1 < score.value() <= 4
    with pytest.raises(TypeError):
        score.add(x, x)


@pytest.mark.parametrize("name", SPECS)
def test_specs(metrics, assets, name):
    spec = SPECS[name]
    assert spec.name == name and spec.reference and spec.color and spec.min_size >= 1
    assert bool(spec.weights) == (kind(name) in NETWORKS | NATURAL)
    assert all(known.KNOWN[file].sha256 == pin for file, pin in spec.weights.items())
    used = metrics[name].spec.weights
    assert used == {file: known.digest(assets / file) for file in spec.weights}
    assert spec.better in spec.protocol and "\n" not in spec.protocol
    assert json.loads(json.dumps(dataclasses.asdict(metrics[name].spec)))["weights"] == used
    assert isinstance(hash(spec), int)


@pytest.mark.parametrize("name", SPECS)
def test_available(nothing, assets, name):
    assert available(name, assets) is None
    missing = available(name)
    if not SPECS[name].weights:
        assert missing is None
        return
    assert missing is not None and "\n" not in missing
    assert next(iter(SPECS[name].weights)) in missing
    with pytest.raises(UserError, match="not found"):
        create([name])
    with pytest.raises(UserError, match="psnr_rgb"):
        available("psnr")


def test_create_by_name():
    x, y = image(24, 31), image(24, 31, seed=1)
    made = create(["ssim_rgb", "psnr_y", "lr_psnr"], border=2)
    assert list(made) == ["ssim_rgb", "psnr_y", "lr_psnr"]
    np.testing.assert_array_equal(made["psnr_y"](x, y), psnr(x, y, color="y", border=2))
    np.testing.assert_array_equal(made["ssim_rgb"](x, y), ssim(x, y, color="rgb", border=2))
    assert "border of 2 px cut" in made["psnr_y"].spec.protocol
    assert "no border cut" in made["lr_psnr"].spec.protocol
    assert "no border cut" in SPECS["psnr_y"].protocol
    assert "pixels in [0,1] (in [-1,1] it is four times" in SPECS["lr_consistency"].protocol
    with pytest.raises(UserError, match="psnr_rgb"):
        create(["psnr"])
    with pytest.raises(UserError, match="border -1"):
        create(["psnr_y"], border=-1)


def test_prompts_differ(metrics):
    (x,) = images(SPECS["clipiqa"])
    assert (metrics["clipiqa"](x) != metrics["clipiqa_pyiqa"](x)).all()
