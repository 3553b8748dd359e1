"""losses.diffusion: noise levels of the training, noisy images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from maskgit_sr.losses.diffusion import LEVELS, diffuse, draw_levels
from maskgit_sr.ops import diffusion

GAMMAS = diffusion.gammas("linear", 2000, 1e-6, 1e-2)


@pytest.mark.parametrize("uniform", LEVELS)
def test_every_example_is_uniform_over_the_steps(uniform):
    """Step and place within it, of single examples of many batches."""
    scale = GAMMAS if uniform == "gamma" else np.sqrt(GAMMAS)
    draw = jax.jit(jax.vmap(lambda key: draw_levels(key, GAMMAS, 4, uniform)))
    level = draw(jax.random.split(jax.random.key(0), 1000))
    signal = np.asarray(level.signal, np.float64)[:, 1]
    drawn = signal**2 if uniform == "gamma" else signal
    step = np.interp(-drawn, -scale, np.arange(2001))
    assert stats.kstest(step / 2000, "uniform").pvalue > 0.01
    np.testing.assert_allclose(level.signal**2 + level.noise**2, 1, atol=1e-6)


def test_a_batch_has_a_level_from_every_stratum():
    level = draw_levels(jax.random.key(1), GAMMAS, 16)
    step = np.interp(-(np.asarray(level.signal, np.float64) ** 2), -GAMMAS, np.arange(2001))
    step = np.sort(step)
    gaps = np.diff([*step, step[0] + 2000])
    assert gaps.max() < 2 * 2000 / 16 + 2 and gaps.min() > 0


@pytest.mark.parametrize("uniform", LEVELS)
def test_small_noise_keeps_its_digits(uniform):
    """Within the first step 1 − γ is below 1e-6, which float32 cannot tell from 1 − 1."""
    one = np.array([1.0, 1 - 1e-6])
    level = draw_levels(jax.random.key(0), one, 256, uniform)
    missing = np.sort(np.asarray(level.noise, np.float64) ** 2)
    assert missing.min() > 0 and missing.max() < 1.01e-6
    assert stats.kstest(missing / 1e-6, "uniform").pvalue > 0.01


def test_noisy_images_keep_the_variance():
    level = draw_levels(jax.random.key(0), GAMMAS, 3)
    clean, noise = jax.random.normal(jax.random.key(1), (2, 3, 64, 64, 3))
    noisy = diffuse(clean, level, noise)
    np.testing.assert_allclose(noisy.var((1, 2, 3)), 1, atol=0.05)
    expected = float(level.signal[1]) * clean[1] + float(level.noise[1]) * noise[1]
    np.testing.assert_allclose(noisy[1], expected, atol=1e-5)
    assert noisy.dtype == jnp.float32


def test_an_unknown_kind():
    with pytest.raises(ValueError, match=r"losses\.uniform: expected one of gamma, sqrt"):
        draw_levels(jax.random.key(0), GAMMAS, 1, "log")
