"""A training step is the same on one device and on any mesh of eight."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskgit_sr.methods.base import Stage
from maskgit_sr.training import sharding
from maskgit_sr.training.state import TrainState, create, make_step

DEAD = [1, 3, 4, 6, 9, 10, 13, 15]  # codes that nothing has been near to


class Alone(NamedTuple):
    """Steps of a stage on one device: what they are given and what they make of it."""

    stage: Stage
    optimizers: dict[str, optax.GradientTransformation]
    frozen: dict[str, Any]
    batches: list[dict[str, np.ndarray]]
    start: TrainState
    states: list[TrainState]
    metrics: list[dict[str, Any]]

    def step(self, **options):
        return make_step(self.stage, self.optimizers, 0.9, **options)


@pytest.fixture(scope="module")
def alone(method, params, batches):
    """The steps of a stage on one device, taken once."""
    rng = np.random.default_rng(5)
    discriminator = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), jnp.float32), method.discriminator.shapes
    )
    everything = jax.tree.map(np.array, params | {"discriminator": discriminator})
    # batch statistics of a nearly flat picture would magnify rounding
    everything["tokenizer"]["decoder"]["conv_out"]["kernel"] *= 5
    embedding = everything["codebook"]["embedding"]
    counts = np.full(len(embedding), 2, np.float32)
    counts[DEAD] = 0
    stats = {"codebook": {"embedding": embedding, "counts": counts, "sums": 2 * embedding}}

    @functools.cache
    def run(name):
        stage = method.stages[name]
        frozen = {group: everything[group] for group in stage.needs if group in everything}
        # plain gradient descent: Adam would turn the last bit of a tiny gradient into a whole step
        optimizers = {group: optax.sgd(0.02) for group in stage.trains}
        start = jax.device_get(create(stage, everything, stats, optimizers, 0))
        # the codes of a restart are met by a second step; elsewhere the token grid is fixed
        count, side = (2, 32) if name == "tokenizer" else (1, 64)
        pictures = batches(side=side)
        given = [next(pictures) for _ in range(count)]
        result = Alone(stage, optimizers, frozen, given, start, [], [])
        step, state = result.step(), jax.device_put(start)
        for batch in given:
            state, metrics = step(state, frozen, batch)
            result.states.append(jax.device_get(state))
            result.metrics.append(jax.device_get(metrics))
        return result

    return run


def restarted(state):
    """Codes whose count is that of a restart, where an average hardly ever arrives."""
    return np.flatnonzero(state.stats["codebook"]["counts"] == 1).tolist()


def trained(state):
    return jax.tree.leaves((state.params, state.ema, state.stats))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tokenizer", (8, 1, 1)),
        ("tokenizer", (1, 8, 1)),
        ("tokenizer", (2, 2, 2)),
        ("generator", (2, 2, 2)),
        ("critic", (2, 2, 2)),
        ("control", (2, 2, 2)),
    ],
    ids=lambda x: x if isinstance(x, str) else "x".join(map(str, x)),
)
def test_a_step_on_a_mesh(alone, name, shape):
    """Codebook, discriminator statistics and losses are those of the global batch."""
    one, mesh = alone(name), sharding.make_mesh(*shape)
    layout = sharding.shardings(one.start, mesh)
    frozen = jax.device_put(one.frozen, sharding.shardings(one.frozen, mesh))
    step, state, before = one.step(layout=layout), jax.device_put(one.start, layout), one.start
    for batch, after, metrics in zip(one.batches, one.states, one.metrics, strict=True):
        state, found = step(state, frozen, sharding.put_batch(batch, mesh))
        # the next step finds it as it was
        assert jax.tree.map(lambda x: x.sharding, state) == layout
        for loss, value in metrics.items():
            np.testing.assert_allclose(found[loss], value, rtol=1e-5, atol=1e-6, err_msg=loss)
        for a, b in zip(trained(after), trained(state), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-5)
        if name == "tokenizer":
            assert restarted(state) == restarted(after)
            counts = after.stats["codebook"]["counts"]
            np.testing.assert_array_equal(state.stats["codebook"]["counts"], counts)
        moves = (np.abs(a - b).max() for a, b in zip(trained(after), trained(before), strict=True))
        assert max(moves) > 1e-3
        before = after
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1]
    assert all(len(kernel.sharding.device_set) == 8 for kernel in kernels)
    split = sum(not kernel.sharding.is_fully_replicated for kernel in kernels)
    assert split > len(kernels) / 2 if shape != (8, 1, 1) else not split


def test_dead_codes_restart(alone):
    """What the meshes are compared with: unused codes restart, and the next step uses them."""
    one = alone("tokenizer")
    first, second = one.states
    assert restarted(one.start) == [] and restarted(first) == DEAD
    book, before = (state.stats["codebook"]["embedding"][DEAD] for state in (first, one.start))
    assert np.abs(book - before).max(1).min() > 0.01
    counts = second.stats["codebook"]["counts"][DEAD]
    assert (counts > 1).sum() > len(DEAD) / 2
    used = [metrics["tokenizer/perplexity"] for metrics in one.metrics]
    assert used[1] > 2 * used[0]
