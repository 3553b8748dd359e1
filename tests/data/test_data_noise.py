"""data.operations: the statistics of the noises, and their generators."""

import numpy as np
import pytest
from scipy import stats

from data import operations as o
from tests.data.pictures import flat, photo


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_statistics(grey):
    image = flat(0.1, 0.5, 0.9)
    noise = o.gaussian_noise(image, 0.04, rng(1), grey=grey) - image
    assert noise.dtype == np.float32 and noise.shape == image.shape
    per_channel = noise.reshape(-1, 3)
    assert stats.kstest(per_channel[:, 0] / 0.04, "norm").pvalue > 1e-3
    assert per_channel.mean(0) == pytest.approx(0, abs=5 * 0.04 / 256)
    covariance = np.cov(per_channel, rowvar=False) / 0.04**2
    np.testing.assert_allclose(covariance, np.ones((3, 3)) if grey else np.eye(3), atol=0.03)
    neighbours = np.corrcoef(noise[:, 1:, 0].ravel(), noise[:, :-1, 0].ravel())[0, 1]
    assert neighbours == pytest.approx(0, abs=0.02)  # white


def test_noise_comes_from_the_generator_and_leaves_the_input():
    image = photo(16, 20)
    before = image.copy()
    for make, parameter in (
        (o.gaussian_noise, 0.1),
        (o.correlated_noise, np.diag([1e-3, 2e-3, 3e-3])),
        (o.poisson_noise, 1.0),
    ):
        same, again, other = (make(image, parameter, rng(seed)) for seed in (3, 3, 4))
        assert np.array_equal(same, again) and not np.array_equal(same, other)
        assert np.array_equal(image, before)


@pytest.mark.parametrize(
    "covariance",
    [
        [[4, 2, -1], [2, 3, 0.5], [-1, 0.5, 2]],
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
        [[2, 0, 0], [0, 0, 0], [0, 0, 1]],
        # BSRGAN's absolute values can make eigenvalues negative, here 1 ± 2√2.
        [[1, 2, 0], [2, 1, 2], [0, 2, 1]],
    ],
    ids=["full rank", "grey", "no green", "impossible"],
)
def test_correlated_noise_has_the_nearest_covariance_there_is(covariance):
    values, vectors = np.linalg.eigh(np.array(covariance) * 1e-3)
    expected = (vectors * np.maximum(values, 0)) @ vectors.T
    image = flat(0.2, 0.4, 0.6, side=300)
    noise = o.correlated_noise(image, np.array(covariance) * 1e-3, rng(2)) - image
    assert noise.dtype == np.float32
    sample = np.cov(noise.reshape(-1, 3), rowvar=False)
    np.testing.assert_allclose(sample, expected, atol=5 * 1e-3 * 4 * (2 / 300**2) ** 0.5)
    assert noise.mean((0, 1)) == pytest.approx(0, abs=5 * (4e-3) ** 0.5 / 300)


def rows_of(levels, columns):
    """A row for every level of 255, the same in all channels."""
    rows = np.float32(levels)[:, None, None] / np.float32(255)
    return np.broadcast_to(rows, (len(levels), columns, 3)).copy()


def poisson_counts(image, full, seed=0):
    """The counts behind the noise of scale 1, where the image, itself 8-bit, cancels."""
    counts = o.poisson_noise(image, 1.0, rng(seed)).astype(np.float64) * full
    whole = np.rint(counts)
    np.testing.assert_allclose(counts, whole, atol=1e-3)
    return whole


def test_poisson_mean_and_variance_of_every_level():
    counts = poisson_counts(rows_of(range(256), 1200), 256).reshape(256, -1)
    assert not counts[0].any()  # black has no noise
    n, mean = counts.shape[1], np.arange(1, 256) / 255 * 256
    z = (counts[1:].mean(1) - mean) / np.sqrt(mean / n)
    assert np.abs(z).max() < 4.5
    assert 0.85 < np.sqrt(np.mean(z**2)) < 1.15  # neither bias nor draws that repeat
    # The variance of a Poisson sample's variance is (mean + 2·mean²)/n.
    z = (counts[1:].var(1, ddof=1) - mean) / np.sqrt((mean + 2 * mean**2) / n)
    assert np.abs(z).max() < 5
    assert 0.85 < np.sqrt(np.mean(z**2)) < 1.15


@pytest.mark.parametrize(
    "levels", [(255,), (0, 1), (3, 90, 200, 255), tuple(range(1, 240, 15)), tuple(range(256))]
)
def test_poisson_counts_follow_the_distribution(levels):
    """Each count lies at a uniform place between P(X < k) and P(X ≤ k).

    The full range is the number of levels, rounded up to a power of two: 1, 2, 4, 16, 256.
    """
    full, columns = len(levels), 25600 // len(levels)
    counts = poisson_counts(rows_of(levels, columns), full, 7)
    mean = np.array(levels)[:, None, None] / 255 * full
    lower, upper = stats.poisson.cdf(counts - 1, mean), stats.poisson.cdf(counts, mean)
    places = (lower + rng(0).random(counts.shape) * (upper - lower))[np.array(levels) > 0]
    assert stats.kstest(places.ravel(), "uniform").pvalue > 1e-3
    assert places.min() < 1e-3 and places.max() > 1 - 1e-3  # the tails are there


def test_poisson_tail_is_not_cut_off():
    counts = poisson_counts(flat(1, 1, 1, side=1000), 1)  # three million of mean 1
    for least in (5, 6, 7, 8):
        expected = stats.poisson.sf(least - 1, 1) * counts.size
        assert (counts >= least).sum() == pytest.approx(expected, abs=4.5 * expected**0.5)


def test_grey_poisson_noise_is_that_of_the_luma():
    colour = np.float32([51, 153, 204]) / 255
    image = flat(*colour, side=400)
    noise = o.poisson_noise(image, 0.5, rng(1), grey=True) - image
    assert noise.dtype == np.float32 and noise.shape == image.shape
    np.testing.assert_allclose(noise, noise[..., :1].repeat(3, -1), atol=1e-6)
    luma = round(0.299 * 51 + 0.587 * 153 + 0.114 * 204) / 255  # BT.601; one level: full range 1
    sigma = 0.5 * luma**0.5
    assert noise[..., 0].mean() == pytest.approx(0, abs=5 * sigma / 400)
    assert noise[..., 0].std() == pytest.approx(sigma, rel=0.02)

    # In colour there are three levels, so the full range is four, and channels are independent.
    noise = (o.poisson_noise(image, 0.5, rng(1)) - image).reshape(-1, 3)
    np.testing.assert_allclose(noise.std(0), 0.5 * np.sqrt(colour / 4), rtol=0.02)
    np.testing.assert_allclose(np.corrcoef(noise, rowvar=False), np.eye(3), atol=0.02)

    image[100:] = 0
    assert not o.poisson_noise(image, 3.0, rng(1), grey=True)[100:].any()  # black stays black
