"""losses.pixel."""

import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.losses.pixel import PIXEL_LOSSES, lattice, structure
from maskgit_sr.metrics.pixel import ssim


def test_means_over_everything():
    a, b = np.random.default_rng(0).random((2, 3, 4, 5, 3)).astype(np.float32)
    found = {
        name: float(loss(jnp.asarray(a), jnp.asarray(b))) for name, loss in PIXEL_LOSSES.items()
    }
    expected = {"l1": np.abs(a - b).mean(), "l2": ((a - b) ** 2).mean()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_a_grid_stays_whole_and_noise_averages_out():
    rng = np.random.default_rng(0)
    target = rng.random((2, 64, 64, 3)).astype(np.float32)
    cell = rng.normal(0, 0.02, (4, 4, 3)).astype(np.float32)
    cell -= cell.mean((0, 1))
    noise = rng.normal(0, np.abs(cell).mean() * (np.pi / 2) ** 0.5, target.shape)
    of_grid, of_noise = (
        float(lattice(jnp.asarray(target + error.astype(np.float32)), jnp.asarray(target), 4))
        for error in (np.tile(cell, (16, 16, 1))[None], noise)
    )
    assert of_grid == pytest.approx(float(np.abs(cell).mean()), rel=1e-4)
    # Sixteen periods of a window are averaged, so a quarter of the same amplitude is left.
    assert of_noise == pytest.approx(of_grid / 4, rel=0.15)


def test_constant_errors_and_those_that_average_out_in_a_window_are_none():
    target = jnp.zeros((1, 32, 40, 3))
    assert float(lattice(target + 0.3, target, 4)) < 1e-7
    stripes = np.where(np.arange(32) % 8 < 4, 0.1, -0.1)[None, :, None, None]
    assert float(lattice(target + jnp.asarray(stripes, jnp.float32), target, 4)) < 1e-7


def test_sides_below_a_window_are_refused():
    small = jnp.zeros((1, 12, 32, 3))
    with pytest.raises(ValueError, match="expected sides of at least 16, found 12x32"):
        lattice(small, small, 4)


def test_structure_is_the_metric():
    a, b = np.random.default_rng(0).random((2, 2, 20, 30, 3)).astype(np.float32)
    b = 0.7 * a + 0.3 * b
    expected = 1 - float(np.mean(ssim(jnp.asarray(a), jnp.asarray(b), color="rgb")))
    assert float(structure(jnp.asarray(a), jnp.asarray(b))) == pytest.approx(expected, abs=1e-5)
    assert float(structure(jnp.asarray(a), jnp.asarray(a))) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="expected sides of at least 11"):
        structure(jnp.zeros((1, 10, 12, 3)), jnp.zeros((1, 10, 12, 3)))
