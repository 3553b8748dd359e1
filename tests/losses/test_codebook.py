"""losses.codebook: the entropy loss of MaskGIT's VQGAN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.losses.codebook import entropy


def test_sure_and_even_is_lowest():
    """K vectors, each sure of its own code: −log K; all on one code, or all undecided: 0."""
    even = 10.0 * (1 - jnp.eye(8))
    one = jnp.tile(even[:1], (8, 1))
    assert float(entropy(even, 0.01)) == pytest.approx(-np.log(8), abs=1e-3)
    assert float(entropy(one, 0.01)) == pytest.approx(0, abs=1e-3)
    assert float(entropy(jnp.ones((8, 8)), 0.01)) == pytest.approx(0, abs=1e-3)


def test_numbers_and_gradient():
    distances = np.random.default_rng(0).uniform(0, 1, (5, 4))
    p = np.exp(-distances / 0.5)
    p /= p.sum(1, keepdims=True)
    expected = -(p * np.log(p)).sum(1).mean() + (p.mean(0) * np.log(p.mean(0) + 1e-5)).sum()
    given = jnp.asarray(distances, jnp.float32)
    value, gradient = jax.value_and_grad(entropy)(given, 0.5)
    assert float(value) == pytest.approx(expected, abs=1e-5)
    assert np.abs(gradient).max() > 1e-3 and np.isfinite(gradient).all()
