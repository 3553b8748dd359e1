"""losses.relativistic: its values, and what a constant shift of the critic changes."""

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.losses.relativistic import fidelity, relativistic
from maskgit_sr.ops.resize import downsample_bicubic


def test_a_constant_shift_of_the_critic_changes_nothing():
    real, fake = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.25, 1.0, -2.0])
    expected = np.log1p(np.exp(-np.array([0.25, -2.0, 4.0]))).mean()
    for shift in (0.0, 8.0):
        found, slope = jax.value_and_grad(relativistic)(real + shift, fake + shift)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_allclose(slope, -1 / (1 + np.exp([0.25, -2.0, 4.0])) / 3, rtol=1e-5)
    np.testing.assert_allclose(relativistic(fake, real), expected + (real - fake).mean(), rtol=1e-5)


def test_fidelity():
    image = jax.random.uniform(jax.random.key(0), (2, 8, 12, 3))
    lr = downsample_bicubic(image, 4)
    assert fidelity(image, lr) == 0
    np.testing.assert_allclose(fidelity(image, lr + 0.25), 0.25, rtol=1e-6)
