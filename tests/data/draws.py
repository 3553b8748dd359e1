"""Many draws of a preset, and how often they should give what."""

import math

import numpy as np
import pytest
from scipy import stats

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
