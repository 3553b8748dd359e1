"""perceptual.vgg16: VGG16 and DISTS against PyTorch's outputs on random weights.

How the expected values came about is in `published.py`. The published weights are not on hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from maskgit_sr.perceptual import vgg16
from tests.perceptual.published import REFERENCE, close, image, weights


def test_dists(tmp_path):
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
    for i, j in np.ndindex(out.shape[1:3]):
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
