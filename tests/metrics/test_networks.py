"""metrics.networks: Inception, CLIP and MUSIQ against PyTorch's outputs on random weights.

How the expected values came about is in `tests.perceptual.published`. The published weights are not
on hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from maskgit_sr.errors import UserError
from maskgit_sr.metrics.networks import clip, inception, musiq
from maskgit_sr.perceptual import published, vgg16
from tests.perceptual.published import REFERENCE, close, image


@pytest.fixture(scope="module")
def stored(assets):
    """Files by network, as a user has them, but narrower."""
    names = ("inception_fid.safetensors", "clip_rn50.safetensors", "koniq_ckpt.npz")
    return {n: assets / name for n, name in zip(("inception", "clip", "musiq"), names, strict=True)}


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
    for i, j in np.ndindex(rows, columns):
        down = np.array([weight(i, rows, k, h) for k in range(h)])
        across = np.array([weight(j, columns, k, w) for k in range(w)])
        expected[i, j] = (down / down.sum()) @ x[0, :, :, 0] @ (across / across.sum())
    found = musiq.gaussian_resize(jnp.asarray(x, jnp.float32), rows, columns)
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "trace", "shape", "words"),
    [
        (inception, inception.trunk, (1, 74, 90, 3), "too small"),
        (musiq, musiq.quality, (1, 40, 31, 3), "at least 32"),
        (musiq, musiq.quality, (1, 40, 40, 1), "B,H,W,3"),
    ],
)
def test_images_are_checked(stored, module, trace, shape, words):
    params = module.read(stored[module.__name__.rpartition(".")[2]])
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(trace, params, jnp.zeros(shape))


@pytest.mark.parametrize(
    ("read", "trace", "wrong"),
    [
        (inception.read, inception.features, "clip"),
        (clip.read, clip.image_features, "inception"),
        (musiq.read, musiq.quality, "clip"),
        (vgg16.read, vgg16.features, "clip"),
    ],
)
def test_wrong_files_are_named(stored, read, trace, wrong):
    with pytest.raises(UserError, match=f"{stored[wrong].name}: not the expected network"):
        published.load(stored[wrong], read, trace, images=1)
