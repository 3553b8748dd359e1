"""losses.pixel."""

import jax.numpy as jnp
import numpy as np

from maskgit_sr.losses.pixel import PIXEL_LOSSES


def test_means_over_everything():
    a, b = np.random.default_rng(0).random((2, 3, 4, 5, 3)).astype(np.float32)
    found = {
        name: float(loss(jnp.asarray(a), jnp.asarray(b))) for name, loss in PIXEL_LOSSES.items()
    }
    expected = {"l1": np.abs(a - b).mean(), "l2": ((a - b) ** 2).mean()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)
