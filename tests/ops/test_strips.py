"""ops.strips: a batch as one wide image is convolved as its images are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.models.layers import convolve3x3
from maskgit_sr.ops.strips import Strip


def images(batch, width, channels=3, height=5):
    return jax.random.normal(jax.random.key(width), (batch, height, width, channels))


@pytest.mark.parametrize("width", [1, 7, 24, 129])
@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_layers_over_a_strip_are_those_over_the_batch(batch, width):
    x = images(batch, width)
    # Biases, so that a gap that nobody clears would not be zero for the next layer.
    kernels = 0.5 * jax.random.normal(jax.random.key(1), (3, 3, 3, 3, 3))
    values = jnp.arange(1.0, batch + 1)

    @jax.jit
    def both(x):
        strip = Strip.of(x)
        plain, folded, spread = x, strip.fold(x), strip.spread(values)
        for kernel in kernels:
            plain = convolve3x3(plain, kernel) + values[:, None, None, None]
            folded = (convolve3x3(folded, kernel) + spread) * strip.inside()
        return plain, strip.unfold(folded), strip.unfold(strip.fold(x)), folded

    plain, found, same, folded = both(x)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)
    layout = (1, 5, batch * (width + 1), 3) if batch > 1 else x.shape
    assert folded.shape == layout
    if batch > 1:
        assert not np.asarray(folded)[:, :, width :: width + 1].any()


@pytest.mark.parametrize(("batch", "width"), [(1, 5), (3, 128), (2, 256)])
def test_nothing_is_laid_out_where_there_is_nothing_to_gain(batch, width):
    x = images(batch, width)
    strip = Strip.of(x)
    assert strip.fold(x) is x and strip.unfold(x) is x
    assert strip.inside().shape == (1, 1, 1, 1) and (strip.inside() == 1).all()
    assert strip.spread(jnp.arange(batch)).shape == (batch, 1, 1, 1)


def test_accelerators_keep_the_batch(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = images(2, 7)
    assert Strip.of(x).fold(x) is x
