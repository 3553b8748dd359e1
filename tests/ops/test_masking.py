"""ops.masking: exactly n positions, whatever the scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_sr.ops.masking import random_mask, top_mask

ROWS, TOKENS = 3, 12
# few distinct values, so that most rows have ties; infinities are what rules use to forbid
VALUES = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1.0, np.inf])


@pytest.fixture(scope="module")
def jitted():
    return jax.jit(top_mask)


@settings(max_examples=60)
@given(
    scores=st.lists(VALUES, min_size=ROWS * TOKENS, max_size=ROWS * TOKENS),
    counts=st.lists(st.integers(0, TOKENS), min_size=ROWS, max_size=ROWS),
)
def test_top_mask_is_the_sorted_head(jitted, scores, counts):
    scores = np.array(scores, np.float32).reshape(ROWS, TOKENS)
    expected = np.zeros((ROWS, TOKENS), bool)
    for row, (values, count) in enumerate(zip(scores, counts, strict=True)):
        best_first = sorted(range(TOKENS), key=lambda i: (-values[i], i))
        expected[row, best_first[:count]] = True
    found = np.asarray(jitted(scores, jnp.array(counts)))
    np.testing.assert_array_equal(found, expected)


def test_one_count_serves_every_row(jitted):
    found = jitted(jnp.zeros((2, TOKENS)), jnp.int32(5))
    np.testing.assert_array_equal(found, np.arange(TOKENS) < np.full((2, 1), 5))


def test_random_mask_counts_and_spread():
    counts = np.array([0, 1, 7, TOKENS] * 500)
    masks = np.asarray(random_mask(jax.random.key(0), jnp.asarray(counts), TOKENS))
    np.testing.assert_array_equal(masks.sum(1), counts)
    share = masks[counts == 7].mean(0)  # each position is as likely as any other
    assert abs(share - 7 / TOKENS).max() < 5 * np.sqrt(7 / 12 * 5 / 12 / 500)
