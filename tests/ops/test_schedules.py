"""ops.schedules: the released code's mask counts, and what every schedule promises."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_sr.ops.schedules import SCHEDULES, gamma, mask_counts


def test_published_counts():
    assert mask_counts(4, 1024).tolist() == [512, 299, 137, 0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_ends(name):
    found = [float(gamma(name)(np.float32(r))) for r in (0, 1)]
    np.testing.assert_allclose(found, [1, 0], atol=1e-6)


@settings(max_examples=60)
@given(st.sampled_from((1, 2, 4, 7, 12, 40)), st.integers(1, 2048), st.sampled_from([*SCHEDULES]))
def test_counts_fall_to_zero(steps, tokens, name):
    counts = mask_counts(steps, tokens, name)
    assert counts.dtype == np.int32 and counts.shape == (steps,)
    assert counts[-1] == 0 and counts.min() >= 0 and counts.max() <= tokens
    assert (np.diff(counts) <= 0).all()


def test_counts_are_constants_under_jit():
    found = jax.jit(lambda: mask_counts(8, 100, "cosine"))()
    np.testing.assert_array_equal(found, mask_counts(8, 100, "cosine"))


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="expected one of sqrt, .* found 'quartic'"):
        gamma("quartic")
    with pytest.raises(ValueError, match="at least 1, found 0, 4"):
        mask_counts(0, 4)
