"""metrics.diversity against the definition; maps of LPIPS are tested in tests/perceptual."""

import numpy as np
import pytest

from maskgit_sr.metrics.diversity import diversity, lr_psnr_worst
from maskgit_sr.metrics.lr import lr_psnr_ntire


def distance(x, y):
    """[B,H,W]."""
    return np.abs(x - y).mean(-1)


def outputs(count, height=40, width=32, seed=0):
    """[2,N,H,W,3] and [2,H,W,3]."""
    rng = np.random.default_rng(seed)
    return rng.random((2, count, height, width, 3)), rng.random((2, height, width, 3))


def test_is_the_definition():
    x, y = outputs(10)
    maps = np.abs(x - y[:, None]).mean(-1)
    best, local = maps.mean((2, 3)).min(1), maps.min(1).mean((1, 2))
    found = diversity(distance, x, y)
    np.testing.assert_allclose(found, 100 * (best - local) / best, rtol=1e-5)
    # more outputs can only make more of it if the best stays the best
    assert (found > diversity(distance, x[:, :2], y)).all()
    np.testing.assert_allclose(diversity(distance, x[:, ::-1], y), found, rtol=1e-6)


def test_none():
    x, y = outputs(1)
    for count in (1, 3):
        np.testing.assert_array_equal(diversity(distance, x.repeat(count, axis=1), y), 0)
    # the original itself, beside which nothing is better anywhere
    x = np.stack([y, x[:, 0]], axis=1)
    np.testing.assert_array_equal(diversity(distance, x, y), 0)


def test_only_multiples_of_8_count():
    x, y = outputs(4, 47, 39)
    np.testing.assert_array_equal(
        diversity(distance, x, y), diversity(distance, x[:, :, :40, :32], y[:, :40, :32])
    )
    with pytest.raises(ValueError, match="image of 31x32: expected at least 32 pixels"):
        diversity(distance, x[:, :, :31, :32], y[:, :31, :32])


def test_the_worst_output():
    x, y = outputs(3)
    x[:, 2] = y
    lr = np.zeros((2, 10, 8, 3))
    found = [lr_psnr_ntire(x[:, i], y, lr) for i in range(3)]
    assert (np.min(found, axis=0) < 30).all() and (found[2] == 100).all()
    np.testing.assert_array_equal(lr_psnr_worst(x, y, lr), np.min(found, axis=0))
