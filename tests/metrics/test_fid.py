"""metrics.fid: the distance against closed forms, the running moments against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from maskgit_sr.metrics.fid import FrechetDistance, Gaussian, frechet_distance


def spd(size, seed, rank=None):
    root = np.random.default_rng(seed).normal(size=(size, rank or size))
    return root @ root.T


def test_commuting_covariances():
    """One set of axes: the sum over them of (m1 - m2)² + (s1 - s2)²."""
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))
    a, b = np.array([1, 4, 0, 2, 9.0]), np.array([4, 4, 1, 0, 0.25])
    shift, none = np.arange(5.0), np.zeros(5)
    found = frechet_distance(shift, (axes * a) @ axes.T, none, (axes * b) @ axes.T)
    np.testing.assert_allclose(found, shift @ shift + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum())


@given(size=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_is_the_definition(size, seed):
    a, b = spd(size, seed), spd(size, seed + 100)
    shift = np.random.default_rng(seed).normal(size=size)
    expected = shift @ shift + np.trace(a + b - 2 * sqrtm(a @ b).real)
    found = frechet_distance(shift, a, np.zeros(size), b)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found, frechet_distance(np.zeros(size), b, shift, a), rtol=1e-6)


def test_singular_covariances():
    a = spd(20, 0, rank=3)
    assert frechet_distance(np.zeros(20), a, np.zeros(20), a) < 1e-5
    found = frechet_distance(np.zeros(20), a, np.zeros(20), np.zeros((20, 20)))
    np.testing.assert_allclose(found, np.trace(a))


def test_nan_is_nan():
    assert np.isnan(frechet_distance(np.array([np.nan]), np.eye(1), np.zeros(1), np.eye(1)))
    assert np.isnan(frechet_distance(np.zeros(1), np.eye(1), np.zeros(1), np.eye(1) * np.inf))


@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_running_moments(sizes, seed):
    rng = np.random.default_rng(seed)
    batches = [1e3 + rng.normal(size=(size, 4)) for size in sizes]
    gaussian = Gaussian()
    for batch in batches:
        gaussian.add(batch)
    everything = np.concatenate(batches)
    assert gaussian.count == len(everything)
    np.testing.assert_allclose(gaussian.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(gaussian.cov(), np.cov(everything, rowvar=False), atol=1e-9)


def test_two_sets():
    """With pixels themselves as features."""
    fid = FrechetDistance(lambda x: x.reshape(len(x), -1))
    rng = np.random.default_rng(0)
    x, y = rng.random((9, 1, 2, 3)), 1 + 2 * rng.random((9, 1, 2, 3))
    for i in range(0, 9, 3):
        fid.add(x[i : i + 3], y[i : i + 3])
    a, b = x.reshape(9, -1), y.reshape(9, -1)
    expected = frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    np.testing.assert_allclose(fid.value(), expected)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few(count):
    gaussian = Gaussian()
    for _ in range(count):
        gaussian.add(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=f"found {count}"):
        gaussian.cov()
