"""perceptual.published: max pooling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_sr.perceptual.published import max_pool


def naive_pool(x, window, stride, ceil):
    """The definition, written with loops: torch.nn.MaxPool2d(window, stride, ceil_mode=ceil)."""

    def starts(size):
        last = size - 1 if ceil else size - window
        # A window that hangs over must still begin within reach of the last full one.
        return [s for s in range(0, last + 1, stride) if s < size - window + stride]

    rows, columns = starts(x.shape[1]), starts(x.shape[2])
    parts = [x[:, r : r + window, c : c + window].max((1, 2)) for r in rows for c in columns]
    return np.stack(parts, 1).reshape(len(x), len(rows), len(columns), -1)


@given(
    height=st.integers(3, 8),
    width=st.integers(3, 8),
    kind=st.sampled_from([(3, 2, True), (3, 2, False), (2, 2, False)]),
)
@settings(max_examples=12, deadline=None)
def test_max_pool_is_torchs(height, width, kind):
    window, stride, ceil = kind
    x = np.random.default_rng(height * 99 + width).normal(size=(1, height, width, 2))
    x = x.astype(np.float32)
    out = jax.jit(partial(max_pool, window=window, stride=stride, ceil=ceil))(x)
    np.testing.assert_array_equal(out, naive_pool(x, window, stride, ceil))


@pytest.mark.parametrize(
    ("size", "ceil", "expected"), [(111, True, 55), (32, True, 16), (32, False, 15), (2, True, 1)]
)
def test_max_pool_sizes(size, ceil, expected):
    image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    pool = partial(max_pool, window=3, stride=2, ceil=ceil)
    assert jax.eval_shape(pool, image).shape == (1, expected, expected, 1)
    with pytest.raises(ValueError, match="too small"):
        max_pool(jnp.zeros((1, 2, 9, 1)), 3, 2)
