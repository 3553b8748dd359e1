"""ops.noise: the same wherever a window lies, in any batch."""

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.ops.noise import BLOCK, noise_at

SIDE = 40
draw = jax.jit(
    lambda keys, origins, step: noise_at(keys, origins, (SIDE, SIDE, 3), step),
)


def keys(*seeds):
    return jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))


def test_windows_agree_where_they_overlap():
    places = jnp.array([(0, 0), (7, 29), (-13, -5), (BLOCK, 10)])
    found = np.asarray(draw(keys(3, 3, 3, 3), places, 2))
    canvas = np.full((120, 120, 3), np.nan, np.float32)
    for (top, left), window in zip(np.asarray(places) + 20, found, strict=True):
        seen = canvas[top : top + SIDE, left : left + SIDE]
        known = ~np.isnan(seen)
        np.testing.assert_array_equal(window[known], seen[known])
        assert known.any() or top == left == 20
        seen[...] = window
    # In another batch and order, the same.
    np.testing.assert_array_equal(draw(keys(3, 3, 3, 3), places[::-1], 2)[::-1], found)


def test_key_step_and_place_all_count():
    origins = jnp.zeros((1, 2), jnp.int32)
    found = [
        np.asarray(draw(keys(seed), origins + shift, step))
        for seed, step, shift in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, BLOCK))
    ]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.06


def test_it_is_standard_normal():
    origins = jnp.array([(i * 64, -i * 64) for i in range(16)])
    found = np.asarray(draw(keys(*range(16)), origins, 0))
    assert abs(found.mean()) < 0.02 and abs(found.std() - 1) < 0.02
    # Neither neighbours nor channels are alike.
    for a, b in ((found[:, 1:], found[:, :-1]), (found[..., 0], found[..., 1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02
