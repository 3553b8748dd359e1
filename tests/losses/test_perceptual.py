"""losses.perceptual: the window that the perceptual net sees, and means of several nets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.errors import UserError
from maskgit_sr.losses.perceptual import build_perceptual, perceptual_loss, random_window
from tests.perceptual import perceptual_nets

HEIGHT, WIDTH = 12, 16


def images():
    """Every pixel is its own place; the second is the negative of the first."""
    places = jnp.arange(HEIGHT * WIDTH, dtype=jnp.float32).reshape(1, HEIGHT, WIDTH, 1)
    batch = jnp.tile(places, (2, 1, 1, 3))
    return batch, -batch


def test_every_image_is_cut_at_the_same_place_and_every_place_is_drawn():
    shift = 4
    cut = jax.jit(jax.vmap(lambda key: random_window(key, shift, *images())))
    first, second = cut(jax.random.split(jax.random.key(0), 500))
    assert first.shape == (500, 2, HEIGHT - shift, WIDTH - shift, 3)
    np.testing.assert_array_equal(first, -second)
    np.testing.assert_array_equal(first[:, 0], first[:, 1])
    corner = np.asarray(first[:, 0, 0, 0, 0], int)
    top, left = corner // WIDTH, corner % WIDTH
    assert set(top) == set(left) == set(range(shift + 1))
    whole = np.asarray(images()[0][0, :, :, 0])
    for window, y, x in zip(first[:20, 0, :, :, 0], top, left, strict=False):
        np.testing.assert_array_equal(window, whole[y : y + HEIGHT - 4, x : x + WIDTH - 4])


def test_windows_of_everything_and_of_nothing():
    given = images()
    found = random_window(jax.random.key(0), 0, *given)
    assert all(a is b for a, b in zip(found, given, strict=True))
    with pytest.raises(ValueError, match="perceptual_shift: expected less than 12, found 12"):
        random_window(jax.random.key(0), 12, *images())


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """All perceptual nets with random weights."""
    perceptual_nets.write(tmp_path)
    monkeypatch.setenv("MASKGIT_SR_ASSETS", str(tmp_path))


def test_names_joined_by_plus_are_the_mean_of_their_distances(nets):
    x, y = jax.random.uniform(jax.random.key(0), (2, 2, 48, 48, 3))
    names = ("lpips_squeeze", "lpips_alex")
    built = {name: build_perceptual(name) for name in ("+".join(names), *names, "none+none")}
    both = built["+".join(names)]
    assert both.params.keys() == {*names}

    @jax.jit
    def run(built, x):
        losses = {name: perceptual_loss(found, x, y) for name, found in built.items()}
        each = both.apply(built[both.name].params, x, y)
        return losses, each

    losses, each = run(built, x)
    assert each.shape == (2,)
    expected = (losses[names[0]] + losses[names[1]]) / 2
    np.testing.assert_allclose(losses[both.name], expected, rtol=1e-5)
    np.testing.assert_allclose(each.mean(), expected, rtol=1e-5)
    assert losses["none+none"] == 0 < losses[names[0]] != losses[names[1]]


def test_unknown_names_are_told_also_within_a_sum():
    with pytest.raises(UserError, match="perceptual loss 'luck': expected one of lpips_squeeze"):
        build_perceptual("none+luck")
