"""perceptual.distances and losses.perceptual: topology on random weights, gradients, files.

Agreement of the published weights with official scores is in tests/metrics/test_calibration.py.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.errors import UserError
from maskgit_sr.losses.perceptual import build_perceptual, perceptual_loss
from maskgit_sr.perceptual import distances as P
from tests.perceptual.perceptual_nets import ALEX_LINS, SQUEEZE_LINS, vgg_codes, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("assets")
    write(path)
    return path


@pytest.fixture(scope="module")
def models(folder) -> dict[str, P.Perceptual]:
    return {
        "lpips_alex": P.load_lpips("alex", folder),
        "lpips_squeeze": P.load_lpips("squeeze", folder),
        "vgg19": P.load_vgg19(folder),
    }


@pytest.fixture(scope="module")
def slopes(models):
    """Per model, compiled once: (params, x, y) -> ((sum, [B]), gradient for x)."""

    def slope(model):
        def total(params, x, y):
            distance = model.apply(params, x, y)
            return distance.sum(), distance

        return jax.jit(jax.value_and_grad(total, argnums=1, has_aux=True))

    return {name: slope(model) for name, model in models.items()}


NAMES = ("lpips_alex", "lpips_squeeze", "vgg19")
SIZES = {"lpips_alex": 31, "lpips_squeeze": 17, "vgg19": 16}


def images(seed=0, shape=(2, 33, 37, 3)):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, shape).astype(np.float32)
    y = np.clip(x + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(y)


def struct(height, width):
    return jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)


@pytest.mark.parametrize(
    ("net", "size", "sides"),
    [  # as torchvision's own networks give
        ("alex", 224, (55, 27, 13, 13, 13)),
        ("alex", 31, (7, 3, 1, 1, 1)),
        ("squeeze", 224, (111, 55, 27, 13, 13, 13, 13)),
        ("squeeze", 65, (32, 16, 8, 4, 4, 4, 4)),
        ("squeeze", 17, (8, 4, 2, 1, 1, 1, 1)),
    ],
)
def test_lpips_feature_shapes(models, net, size, sides):
    features = P.alex_features if net == "alex" else P.squeeze_features
    widths = ALEX_LINS if net == "alex" else SQUEEZE_LINS
    found = jax.eval_shape(features, models[f"lpips_{net}"].params, struct(size, size + 1))
    assert [(f.shape[1], f.shape[3]) for f in found] == list(zip(sides, widths, strict=True))


def test_vgg_feature_shapes(models):
    found = jax.eval_shape(P.vgg19_features, models["vgg19"].params, struct(65, 33))
    assert {name: f.shape[1:] for name, f in found.items()} == {
        "conv1_2": (65, 33, 64),
        "conv2_2": (32, 16, 128),
        "conv3_4": (16, 8, 256),
        "conv4_4": (8, 4, 512),
        "conv5_4": (4, 2, 512),
    }


def test_vgg_input_and_activation(models):
    params, x = models["vgg19"].params, images()[0]
    kernel, bias = params["conv1_1"]["kernel"], params["conv1_1"]["bias"]
    patch = 255 * np.asarray(x)[0, 3:6, 4:7, ::-1] - np.array([103.939, 116.779, 123.68])
    expected = (np.einsum("hwi,hwio->o", patch, kernel) + bias) / (255 * 0.225)
    linear = P.vgg19_features(params, x, layers=("conv1_1",))["conv1_1"]
    np.testing.assert_allclose(linear[0, 4, 5], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="conv9_9"):
        P.vgg19_features(params, x, layers=("conv9_9",))


def test_vgg_codes_are_dequantised(models):
    codes, found = vgg_codes(), models["vgg19"].params["conv3_1"]["kernel"]
    scale, minimum = codes["conv3_1/kernel/affine"]
    expected = codes["conv3_1/kernel"] * scale + minimum
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_lpips_is_its_definition(models, slopes):
    """Equation 1 of the paper in NumPy, from the features."""
    model, (x, y) = models["lpips_alex"], images()
    features = jax.jit(P.alex_features)
    shift, scale = np.array(P.LPIPS_SHIFT), np.array(P.LPIPS_SCALE)
    stacks = []
    for z in (x, y):
        normal = jnp.asarray((2 * np.asarray(z) - 1 - shift) / scale, jnp.float32)
        stacks.append([np.asarray(f, np.float64) for f in features(model.params, normal)])
    expected = np.zeros(2)
    for i, (a, b) in enumerate(zip(*stacks, strict=True)):
        a, b = (f / (np.sqrt((f**2).sum(-1, keepdims=True)) + 1e-10) for f in (a, b))
        expected += ((a - b) ** 2 @ np.ravel(model.params[f"lin{i}"]["kernel"])).mean((1, 2))
    (_, found), _ = slopes["lpips_alex"](model.params, x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_vgg_distance_is_its_definition(models, slopes):
    model, (x, y) = models["vgg19"], images()
    features = jax.jit(P.vgg19_features)
    fx, fy = (features(model.params, z) for z in (x, y))
    weights = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}
    expected = sum(w * np.abs(fx[k] - fy[k]).mean((1, 2, 3)) for k, w in weights.items())
    (_, found), _ = slopes["vgg19"](model.params, x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_distance_and_gradient(models, slopes, name):
    params, (x, y) = models[name].params, images()
    (_, forth), at_other = slopes[name](params, x, y)
    (_, back), _ = slopes[name](params, y, x)
    (_, same), at_same = slopes[name](params, x, x)
    assert forth.shape == (2,) and forth.dtype == jnp.float32 and (forth > 1e-3).all()
    np.testing.assert_allclose(forth, back, rtol=1e-4)
    np.testing.assert_allclose(same, 0, atol=1e-6)
    assert jnp.linalg.norm(at_other) > 1e-4
    assert jnp.isfinite(at_other).all() and jnp.isfinite(at_same).all()
    (_, swapped), _ = slopes[name](params, x[::-1], y[::-1])  # the images of a batch do not mix
    np.testing.assert_allclose(forth[::-1], swapped, rtol=1e-4)
    dead = jax.tree.map(jnp.zeros_like, params)
    (_, distance), gradient = slopes[name](dead, x, y)
    np.testing.assert_array_equal(distance, 0)
    assert jnp.isfinite(gradient).all()


def test_gradient_is_the_slope(models, slopes):
    params, (x, y) = models["lpips_alex"].params, images()
    slope = partial(slopes["lpips_alex"], params)
    _, gradient = slope(x, y)
    norm, step = jnp.linalg.norm(gradient), 3e-2
    (above, _), _ = slope(x + step * gradient / norm, y)
    (below, _), _ = slope(x - step * gradient / norm, y)
    np.testing.assert_allclose((above - below) / (2 * step), norm, rtol=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_smallest_size(models, name):
    model, size = models[name], SIZES[name]
    apply = partial(jax.eval_shape, model.apply, model.params)
    fits, small = struct(size, size), struct(size, size - 1)
    assert apply(fits, fits).shape == (1,)
    with pytest.raises(ValueError, match="too small"):
        apply(small, small)
    with pytest.raises(ValueError, match="one shape"):
        apply(fits, small)


def test_params_are_not_embedded(models):
    """The program of a jitted loss holds no weights when the model is an argument."""
    x, y = images()
    text = jax.jit(perceptual_loss).lower(models["lpips_squeeze"], x, y).as_text()
    assert len(text) < 300_000  # 0.7 M weights would be megabytes


@pytest.mark.parametrize("name", NAMES)
def test_build_by_name(models, folder, name, monkeypatch):
    monkeypatch.setenv("MASKGIT_SR_ASSETS", str(folder))
    model = build_perceptual(name)
    assert model.name == name
    assert jax.tree.all(jax.tree.map(jnp.array_equal, model.params, models[name].params))


def test_loss_is_the_mean_also_of_bfloat16(models, slopes):
    model, (x, y) = models["lpips_alex"], images()
    loss = jax.jit(perceptual_loss)
    (total, _), _ = slopes["lpips_alex"](model.params, x, y)
    np.testing.assert_allclose(loss(model, x, y), total / 2, rtol=1e-4)
    half = loss(model, x.astype(jnp.bfloat16), y)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, total / 2, rtol=0.05)


def test_loss_gradient_reaches_the_output_only(models):
    gradient = partial(jax.eval_shape, jax.grad(perceptual_loss, argnums=1))
    assert gradient(models["lpips_squeeze"], *images()).shape == (2, 33, 37, 3)
    zero = jax.jit(jax.grad(perceptual_loss))(models["lpips_alex"], *images()).params
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(zero))


def test_no_loss():
    x, y = images()
    loss, gradient = jax.value_and_grad(perceptual_loss, argnums=1)(build_perceptual("none"), x, y)
    assert loss == 0 and (gradient == 0).all()
    with pytest.raises(UserError, match="lpips_squeeze"):
        build_perceptual("lpips")


def test_wrong_files_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="lpips_alex.safetensors: not the expected network"):
        P.load_lpips("squeeze", folder / "lpips_alex.safetensors")
    broken = tmp_path / "vgg19_uint8.npz"
    broken.write_bytes(b"not an archive")
    with pytest.raises(UserError, match="vgg19_uint8.npz: not the expected network"):
        P.load_vgg19(broken)
    with pytest.raises(UserError, match="no such file"):
        P.load_lpips("alex", tmp_path)
    with pytest.raises(UserError, match="expected alex, squeeze or vgg"):
        P.load_lpips("vgg19")
