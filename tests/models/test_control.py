"""models.control: a fresh module changes nothing; a trained one follows the LR image."""

import jax
import jax.numpy as jnp
import numpy as np

LATENT = jax.random.normal(jax.random.key(1), (2, 8, 8, 16))
UPSAMPLED = jax.random.uniform(jax.random.key(2), (2, 64, 64, 3))


def test_fresh_module_ends_in_zeros(method):
    zero = jax.jit(lambda key: method.control.init(key)["zero"])(jax.random.key(0))
    assert zero["kernel"].shape == (1, 1, 32, 16)
    assert not zero["kernel"].any() and not zero["bias"].any()


def test_zeros_are_identity_and_features_follow_both_inputs(method, params):
    params = params["control"] | {"zero": jax.tree.map(jnp.zeros_like, params["control"]["zero"])}
    latent, upsampled = LATENT, UPSAMPLED

    @jax.jit
    def run(params, latent, upsampled):
        module = method.control.bind(params)
        return module(latent, upsampled), module.features(latent, upsampled)

    output, features = run(params, latent, upsampled)
    np.testing.assert_array_equal(output, latent)
    assert features.shape == (2, 8, 8, 32)
    for other in (run(params, latent + 1, upsampled), run(params, latent, upsampled[::-1])):
        assert not jnp.allclose(other[1], features, atol=1e-3)

    params["zero"]["kernel"] = params["zero"]["kernel"] + 0.1
    moved, _ = run(params, latent, upsampled)
    expected = latent + 0.1 * features.sum(-1, keepdims=True)
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4)
