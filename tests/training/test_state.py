"""training.state: order of phases, groups of one gradient, moving average, keys, broken steps."""

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
    needs=("frozen",),
    phases=(Phase(("a",), first), Phase(("b",), second)),
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


def product(params, stats, batch, key, step):
    """(a · decoder · encoder − x)², of which the encoder does not train."""
    tokenizer = params["tokenizer"]
    made = params["a"]["w"] * tokenizer["decoder"]["w"] * tokenizer["encoder"]["w"]
    loss = (made - batch["x"][0]) ** 2
    return loss, LossResult({"loss": loss}, stats, {"made": made})


def test_one_gradient_over_a_group_and_a_part_of_another():
    """Both move from the same point, each by its own optimizer; the rest of the group stays."""
    stage = Stage(
        phases=(Phase(("a", "tokenizer/decoder"), product),),
        needs=("tokenizer",),
        exports=("tokenizer",),
        panel=lambda *_: {},
    )
    assert stage.trains == ("a", "tokenizer/decoder")
    optimizers = {"a": optax.sgd(0.1), "tokenizer/decoder": optax.sgd(0.01)}
    begun = {"a": {"w": jnp.float32(2)}, "tokenizer/decoder": {"w": jnp.float32(3)}}
    state = create(stage, begun, {}, optimizers, 0)
    assert state.ema.keys() == {"tokenizer/decoder"}  # `a` trains, and is not exported
    # The whole frozen group holds an older decoder too, which must not be the one that is used.
    frozen = {"tokenizer": {"encoder": {"w": jnp.float32(5)}, "decoder": {"w": jnp.float32(-7)}}}
    step = make_step(stage, optimizers, ema_decay=0.5)
    state, metrics = step(state, frozen, {"x": jnp.array([20.0])})
    slope = 2 * (2 * 3 * 5 - 20)
    a, decoder = 2 - 0.1 * slope * 3 * 5, 3 - 0.01 * slope * 2 * 5
    np.testing.assert_allclose(state.params["a"]["w"], a, rtol=1e-6)
    np.testing.assert_allclose(state.params["tokenizer/decoder"]["w"], decoder, rtol=1e-6)
    np.testing.assert_allclose(metrics["a/loss"], 100, rtol=1e-6)
    np.testing.assert_allclose(metrics["a/gradient_norm"], slope * 15, rtol=1e-6)
    np.testing.assert_allclose(metrics["tokenizer/decoder/gradient_norm"], slope * 10, rtol=1e-6)
    average = 0.1 * 3 + 0.9 * decoder
    np.testing.assert_allclose(state.ema["tokenizer/decoder"]["w"], average, rtol=1e-6)
    assert frozen["tokenizer"]["decoder"]["w"] == -7


def test_a_part_that_moves_is_seen_by_the_next_phase():
    def follow(params, stats, batch, key, step):
        loss = (params["b"]["w"] - params["tokenizer"]["decoder"]["w"] - batch["made"]) ** 2
        return loss, LossResult({}, stats, {})

    stage = Stage(
        phases=(Phase(("tokenizer/decoder",), product), Phase(("b",), follow)),
        needs=("a", "tokenizer"),
        exports=("tokenizer",),
        panel=lambda *_: {},
    )
    optimizers = {path: optax.sgd(0.01) for path in stage.trains}
    begun = {"tokenizer/decoder": {"w": jnp.float32(3)}, "b": {"w": jnp.float32(0)}}
    frozen = {"a": {"w": jnp.float32(2)}, "tokenizer": {"encoder": {"w": jnp.float32(5)}}}
    step = make_step(stage, optimizers, ema_decay=0.5)
    state, _ = step(create(stage, begun, {}, optimizers, 0), frozen, {"x": jnp.array([20.0])})
    decoder = 3 - 0.01 * 2 * (30 - 20) * 10
    np.testing.assert_allclose(state.params["tokenizer/decoder"]["w"], decoder, rtol=1e-6)
    np.testing.assert_allclose(state.params["b"]["w"], 0.02 * (decoder + 30), rtol=1e-6)
