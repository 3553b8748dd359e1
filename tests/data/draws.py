"""Many draws of a preset, and how often they should give what."""

import math

import numpy as np
import pytest
from scipy import stats

from data import chain as c
from data import degradations

SIDE = 1 << 20  # of an imaginary HR image, so that its resized sides tell the factors


def draws(preset, count, scale=4, side=SIDE):
    rng = np.random.default_rng(1)
    return [degradations.draw(rng, preset, side, side, scale) for _ in range(count)]


def of(kind, records):
    return [step for record in records for step in record.steps if isinstance(step, kind)]


def assert_share(flags, expected):
    """Within four standard deviations of a fair draw."""
    flags = list(flags)
    assert 0 < expected < 1 and len(flags) > 50
    deviation = math.sqrt(expected * (1 - expected) / len(flags))
    assert np.mean(flags) == pytest.approx(expected, abs=4 * deviation)


def assert_uniform(values, low, high):
    values = np.array(values, float)
    assert values.min() >= low and values.max() <= high
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-4


def assert_equally_often(values, choices):
    values = list(values)
    assert set(values) == set(choices)
    assert stats.chisquare([values.count(choice) for choice in choices]).pvalue > 1e-4


def assert_noise(noises, gaussian, sigma, scale, grey=0.4):
    """Share of the Gaussian and of the grey ones; uniform ranges of either kind."""
    kinds = [[n for n in noises if isinstance(n, k)] for k in (c.GaussianNoise, c.PoissonNoise)]
    assert sum(map(len, kinds)) == len(noises)
    assert_share((isinstance(noise, c.GaussianNoise) for noise in noises), gaussian)
    assert_uniform([noise.sigma for noise in kinds[0]], *sigma)
    assert_uniform([noise.scale for noise in kinds[1]], *scale)
    for same in kinds:
        assert_share((noise.grey for noise in same), grey)
        assert_uniform([noise.seed for noise in same], 0, 2**32 - 1)


def assert_factors(factors, up, down, low, high):
    """Shares of enlargements and of reductions; the others keep the size."""
    assert_share((factor > 1 for factor in factors), up)
    assert_share((factor < 1 for factor in factors), down)
    assert_uniform([factor for factor in factors if factor > 1], 1, high)
    assert_uniform([factor for factor in factors if factor < 1], low - 4 / SIDE, 1)  # rounded
