"""training.optimizers: warm-up, cosine, clip, what decays, and single groups."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from maskgit_sr.training import optimizers


def test_schedule_warms_up_and_falls_to_the_end():
    rate = optimizers.schedule(common.optimizer(1e-3, 1e-5, warmup=10), 110)
    steps = np.array([0, 5, 10, 60, 110, 1000])
    middle = 1e-5 + (1e-3 - 1e-5) / 2
    expected = [0, 5e-4, 1e-3, middle, 1e-5, 1e-5]
    np.testing.assert_allclose([float(rate(s)) for s in steps], expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 20])
def test_without_warm_up_the_first_step_counts(steps):
    rate = optimizers.schedule(common.optimizer(1e-3, 1e-3), steps)
    np.testing.assert_allclose([float(rate(0)), float(rate(steps))], 1e-3, rtol=1e-6)


def test_only_matrices_decay():
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    optimizer = optimizers.build(common.optimizer(0.1, 0.1, weight_decay=0.5), 10)
    zeros = {"kernel": jnp.zeros((2, 2)), "scale": jnp.zeros(2)}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(updates["scale"], 0)


def test_clip_is_by_the_global_norm():
    """Two gradients that clip to the same give the same moments."""
    params = {"a": jnp.zeros(3), "b": jnp.zeros(1)}
    optimizer = optimizers.build(common.optimizer(0.1, 0.1, clip=1.0), 10)
    big = {"a": jnp.array([30.0, 0.0, 0.0]), "b": jnp.array([40.0])}
    moments = []
    for factor in (1.0, 7.0):
        grads = {name: factor * grad for name, grad in big.items()}
        _, state = optimizer.update(grads, optimizer.init(params), params)
        moments.append(state[1][0].mu)
    np.testing.assert_allclose(moments[0]["a"], [0.1 * 0.6, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(moments[1]["b"], moments[0]["b"], rtol=1e-5)


def test_a_group_may_have_its_own_settings():
    settings = common.stage(10, 8, common.optimizer(0.1, 0.1, weight_decay=0.5))
    settings.optimizers = {"tokenizer/decoder": {"learning_rate": 0.2, "final_learning_rate": 0.2}}
    found = optimizers.for_groups(settings, ("critic", "tokenizer/decoder"))
    assert list(found) == ["critic", "tokenizer/decoder"]
    params, zeros = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.zeros((2, 2))}
    decayed = {
        group: chosen.update(zeros, chosen.init(params), params)[0]["kernel"]
        for group, chosen in found.items()
    }
    np.testing.assert_allclose(decayed["critic"], -0.1 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(decayed["tokenizer/decoder"], -0.2 * 0.5, rtol=1e-6)
