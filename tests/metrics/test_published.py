"""Inception, CLIP, VGG16/DISTS and MUSIQ against PyTorch's outputs on random weights.

How the expected values came about is in `published.py`. The published weights are not on hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from maskgit_sr.errors import UserError
from maskgit_sr.metrics.networks import clip, inception, musiq
from maskgit_sr.perceptual import published, vgg16
from tests.metrics.published import REFERENCE, image, weights


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Files by network, as a user has them, but narrower."""
    folder = tmp_path_factory.mktemp("networks")
    files = {}
    for name, reference in REFERENCE.items():
        files[name] = folder / f"{name}.{'npz' if name == 'musiq' else 'safetensors'}"
        if name == "musiq":
            np.savez(files[name], **weights(reference["shapes"]))
        else:
            save_file(weights(reference["shapes"]), files[name])
    return files


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_inception(stored):
    params = inception.read(stored["inception"])
    trunk = jax.jit(inception.trunk)
    close(trunk(params, 2 * image(80, 91) - 1), REFERENCE["inception"]["trunk"])
    x = image(40, 61)
    resized = jax.image.resize(x, (2, 299, 299, 3), "linear", antialias=False)
    close(trunk(params, 2 * resized - 1), REFERENCE["inception"]["output"])
    whole = jax.eval_shape(inception.features, params, x)
    assert whole.shape == (2, 2048 // 16)


def test_inception_at_its_published_width(tmp_path):
    """Every convolution of the port has a place, and there are 2048 features."""

    def widen(name, shape):
        widths = 2 if len(shape) == 4 else 1
        wide = [16 * side for side in shape[:widths]] + shape[widths:]
        return [wide[0], 3, *wide[2:]] if name == "Conv2d_1a_3x3.conv.weight" else wide

    shapes = REFERENCE["inception"]["shapes"]
    tensors = {name: np.zeros(widen(name, shape), np.float32) for name, shape in shapes.items()}
    path = tmp_path / "inception.safetensors"
    save_file(tensors, path)
    params = inception.read(path)
    program = jax.make_jaxpr(inception.features)(params, jnp.zeros((1, 64, 64, 3)))
    assert program.out_avals[0].shape == (1, 2048)
    convolutions = [eqn for eqn in program.eqns if eqn.primitive.name == "conv_general_dilated"]
    assert len(convolutions) == sum(name.endswith("conv.weight") for name in shapes) == 94


def test_inception_too_small(stored):
    params = inception.read(stored["inception"])
    small = jax.ShapeDtypeStruct((1, 74, 90, 3), jnp.float32)
    with pytest.raises(ValueError, match="too small"):
        jax.eval_shape(inception.trunk, params, small)


def test_mean_pool_does_not_count_padding():
    x = jnp.ones((1, 4, 5, 2))
    np.testing.assert_allclose(inception._mean_pool(x), x, rtol=1e-6)


def test_clip(stored):
    reference, params = REFERENCE["clip"], clip.read(stored["clip"])
    tokens = reference["tokens"]
    text = jax.jit(lambda params: clip.text_features(params, tokens))(params)
    close(text[:, :8], reference["text"])
    visual = {"visual": params["visual"], "logit_scale": params["logit_scale"]}
    x = image(67, 100)
    close(jax.jit(clip.image_features)(visual, x)[:, :8], reference["image"])
    pairs = {"network": visual, "text": text.reshape(2, 2, -1)}
    close(jax.jit(clip.preference)(pairs, x), reference["preference"])


def test_dists(stored, tmp_path):
    tensors = weights(REFERENCE["dists"]["shapes"])
    vgg, alpha_beta = tmp_path / "vgg16.safetensors", tmp_path / "dists.safetensors"
    save_file({k: v for k, v in tensors.items() if k.startswith("features")}, vgg)
    save_file({k: v for k, v in tensors.items() if not k.startswith("features")}, alpha_beta)
    params = vgg16.read_dists(vgg, alpha_beta)
    apply = jax.jit(vgg16.dists_distance)
    x, y = image(37, 50), image(37, 50, seed=1)
    found = apply(params, x, (x + y) / 2)
    close(found, REFERENCE["dists"]["output"])
    assert (found > 0.04).all()
    np.testing.assert_allclose(apply(params, x, x), 0, atol=1e-6)
    slope = jax.jit(jax.grad(lambda z: vgg16.dists_distance(params, z, x).sum()))
    assert jnp.isfinite(slope(x)).all() and jnp.isfinite(slope(y)).all()
    wrong = params | {"alpha": params["alpha"][:-1]}
    with pytest.raises((ValueError, TypeError)):
        jax.eval_shape(vgg16.dists_distance, wrong, x, x)


@pytest.mark.parametrize("size", [(5, 8), (1, 3)])
def test_l2_pool(size):
    """Its definition, tap by tap."""
    x = np.random.default_rng(0).normal(size=(1, *size, 2))
    padded = np.pad(x**2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    window = np.outer([1, 2, 1], [1, 2, 1]) / 16
    out = np.zeros((1, -(-size[0] // 2), -(-size[1] // 2), 2))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            part = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            out[:, i, j] = np.sqrt(np.einsum("bhwc,hw->bc", part, window) + 1e-12)
    np.testing.assert_allclose(vgg16.halve_l2(jnp.asarray(x, jnp.float32)), out, rtol=1e-5)


def test_vgg16_layers_at_their_published_width():
    widths = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    params, before = {}, 3
    for index, width in zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), widths, strict=True):
        params[str(index)] = {
            "kernel": jax.ShapeDtypeStruct((3, 3, before, width), jnp.float32),
            "bias": jax.ShapeDtypeStruct((width,), jnp.float32),
        }
        before = width
    x = jax.ShapeDtypeStruct((1, 33, 65, 3), jnp.float32)
    for pool, last in ((vgg16.halve_max, (2, 4)), (vgg16.halve_l2, (3, 5))):
        found = jax.eval_shape(lambda p, x, pool=pool: vgg16.features(p, x, pool=pool), params, x)
        assert [f.shape[-1] for f in found] == [64, 128, 256, 512, 512]
        assert found[-1].shape[1:3] == last


def test_musiq(stored):
    params = musiq.read(stored["musiq"])
    pyramid = [
        2 * image(*size, seed=i) - 1 for i, size in enumerate([(33, 48), (50, 70), (65, 97)])
    ]
    close(jax.jit(musiq.score_pyramid)(params, pyramid), REFERENCE["musiq"]["output"])


def test_musiq_patches_and_positions():
    x = jnp.arange(33 * 70 * 3, dtype=jnp.float32).reshape(1, 33, 70, 3) + 1
    found = musiq.patches(x)
    assert found.shape == (1, 2 * 3, 32, 32, 3)
    # 31 rows and 26 columns are missing: 15 above and 16 below, 13 at either side
    np.testing.assert_array_equal(found[0, 0, 15:, 13:], x[0, :17, :19])
    assert not found[0, 0, :15].any() and not found[0, 0, :, :13].any()
    np.testing.assert_array_equal(found[0, 5, :16, :19], x[0, 17:, 51:])
    np.testing.assert_array_equal(musiq.positions(33, 70, 10), [0, 3, 6, 50, 53, 56])
    assert musiq.positions(32 * 25, 32, 10).max() == 90


@pytest.mark.parametrize("sizes", [((9, 7), (4, 3)), ((3, 4), (8, 9))])
def test_gaussian_resize(sizes):
    """As TensorFlow describes it: pixel centres, radius 1.5, deviation 0.5, normalised."""
    (h, w), (rows, columns) = sizes
    x = np.random.default_rng(0).random((1, h, w, 1))

    def weight(i, size, j, source):
        distance = abs(j + 0.5 - (i + 0.5) * source / size)
        return np.exp(-(distance**2) / (2 * 0.5**2)) if distance < 1.5 else 0.0

    expected = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            down = np.array([weight(i, rows, k, h) for k in range(h)])
            across = np.array([weight(j, columns, k, w) for k in range(w)])
            expected[i, j] = (down / down.sum()) @ x[0, :, :, 0] @ (across / across.sum())
    found = musiq.gaussian_resize(jnp.asarray(x, jnp.float32), rows, columns)
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("read", "trace", "images", "wrong"),
    [
        (inception.read, inception.features, 1, "clip"),
        (clip.read, clip.image_features, 1, "inception"),
        (musiq.read, musiq.quality, 1, "clip"),
        (vgg16.read, vgg16.features, 1, "clip"),
    ],
)
def test_wrong_files_are_named(stored, read, trace, images, wrong):
    with pytest.raises(UserError, match=rf"{wrong}\.\w+: not the expected network"):
        published.load(stored[wrong], read, trace, images=images)


def test_images_are_checked(stored):
    params = musiq.read(stored["musiq"])
    for shape, words in (((1, 40, 31, 3), "at least 32"), ((1, 40, 40, 1), "B,H,W,3")):
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(musiq.quality, params, jnp.zeros(shape))
