"""training.state: order of phases, moving average, keys, and what a step leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskgit_sr.methods.base import LossResult, Phase, Stage
from maskgit_sr.training.state import create, make_step

RATE = 0.1


def first(params, stats, batch, key, step):
    """Pulls `a` to the data; hands its new guess on; counts steps."""
    loss = jnp.mean((params["a"]["w"] - batch["x"]) ** 2) * params["frozen"]["factor"]
    noise = jax.random.normal(key)
    stats = {"book": {"count": stats["book"]["count"] + 1}}
    carry = {"guess": 2 * params["a"]["w"]}
    return loss, LossResult({"noise": noise, "step": step}, stats, carry)


def second(params, stats, batch, key, step):
    """Pulls `b` to what the first phase carried and to the `a` that it has moved."""
    target = batch["guess"] + params["a"]["w"] + stats["book"]["count"]
    loss = (params["b"]["w"] - target) ** 2
    return loss, LossResult({"noise": jax.random.normal(key)}, stats, {})


STAGE = Stage(
    trains=("a", "b"),
    needs=("frozen",),
    phases=(Phase("a", first), Phase("b", second)),
    exports=("a",),
    panel=lambda *_: {},
    fresh_stats=("book",),
)
FROZEN = {"frozen": {"factor": jnp.float32(3)}}
BATCH = {"x": jnp.array([1.0, 3.0])}


def start(seed=0):
    params = {"a": {"w": jnp.float32(1)}, "b": {"w": jnp.float32(0)}}
    stats = {"book": {"count": jnp.float32(0)}, "unused": {}}
    return create(STAGE, params, stats, {g: optax.sgd(RATE) for g in "ab"}, seed)


@pytest.fixture(scope="module")
def step():
    return make_step(STAGE, {g: optax.sgd(RATE) for g in "ab"}, ema_decay=0.5)


def test_create():
    state = start()
    assert state.params.keys() == {"a", "b"} and state.ema.keys() == {"a"}
    assert state.stats.keys() == {"book"} and state.step == 0


def test_two_phases_in_order(step):
    state, metrics = step(start(), FROZEN, BATCH)
    a = 1 - RATE * 3 * 2 * (1 - 2)  # gradient of the mean over {1, 3} at 1, times the factor
    b = 0 - RATE * 2 * (0 - (2 * 1 + a + 1))  # carried from before the update; `a` from after it
    np.testing.assert_allclose(state.params["a"]["w"], a, rtol=1e-6)
    np.testing.assert_allclose(state.params["b"]["w"], b, rtol=1e-6)
    assert state.stats["book"]["count"] == 1 and state.step == 1
    assert FROZEN["frozen"]["factor"] == 3
    assert metrics["a/step"] == 0
    np.testing.assert_allclose(metrics["a/gradient_norm"], 6, rtol=1e-6)


def test_a_step_that_is_not_finite_changes_only_the_counters(step):
    before = start()
    kept = jax.tree.map(np.asarray, before)
    state, metrics = step(before, FROZEN, {"x": jnp.array([1.0, jnp.nan])})
    assert (state.step, state.skipped, state.in_a_row) == (1, 1, 1) and metrics["in_a_row"] == 1
    for name in ("params", "ema", "stats", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(kept, name))
    state, _ = step(state, FROZEN, {"x": jnp.array([1.0, jnp.inf])})
    assert (state.step, state.skipped, state.in_a_row) == (2, 2, 2)
    state, metrics = step(state, FROZEN, BATCH)
    assert (state.step, state.skipped, state.in_a_row) == (3, 2, 0) and metrics["in_a_row"] == 0
    np.testing.assert_allclose(state.params["a"]["w"], 1 + RATE * 6, rtol=1e-6)


def test_accumulation_takes_the_mean_over_parts_in_order():
    divided = make_step(STAGE, {g: optax.sgd(RATE) for g in "ab"}, 0.5, accumulate=2)
    batch = {"x": jnp.array([1.0, 3.0, 5.0, 7.0])}
    state, metrics = divided(start(), FROZEN, batch)
    a = 1 - RATE * 3 * 2 * (1 - 4)  # the mean of all four, as if undivided
    np.testing.assert_allclose(state.params["a"]["w"], a, rtol=1e-6)
    # Statistics moved once a part, and every part met what the first phase carried.
    assert state.stats["book"]["count"] == 2
    b = 0 - RATE * 2 * (0 - (2 * 1 + a + 2))
    np.testing.assert_allclose(state.params["b"]["w"], b, rtol=1e-6)
    np.testing.assert_allclose(metrics["a/gradient_norm"], 18, rtol=1e-6)
    assert state.step == 1


def test_moving_average_starts_short(step):
    state, values = start(), []
    ema = 1.0
    for t in range(12):
        state, _ = step(state, FROZEN, BATCH)
        values.append(float(state.params["a"]["w"]))
        decay = min(0.5, (1 + t) / (10 + t))
        ema = decay * ema + (1 - decay) * values[-1]
        np.testing.assert_allclose(state.ema["a"]["w"], ema, rtol=1e-5)


def test_every_step_and_phase_has_its_own_key(step):
    def noises(seed):
        state, found = start(seed), []
        for _ in range(3):
            state, metrics = step(state, FROZEN, BATCH)
            found += [float(metrics["a/noise"]), float(metrics["b/noise"])]
        return found

    assert len(set(noises(0))) == 6
    assert noises(0) == noises(0) and not set(noises(0)) & set(noises(1))
