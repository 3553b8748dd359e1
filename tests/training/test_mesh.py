"""One training step is the same on one device and on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskgit_sr.training import sharding
from maskgit_sr.training.state import create, make_step


@pytest.mark.parametrize(
    ("stage", "mesh"),
    [("tokenizer", (2, 2, 1)), ("generator", (1, 2, 2))],
    ids=["tokenizer and GAN", "generator"],
)
def test_a_step_on_a_mesh(method, params, batches, stage, mesh):
    """Codebook, discriminator statistics and losses are those of the global batch."""
    rng = np.random.default_rng(5)
    discriminator = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), jnp.float32), method.discriminator.shapes
    )
    everything = jax.tree.map(jnp.copy, params | {"discriminator": discriminator})
    # batch statistics of a nearly flat picture would magnify rounding
    everything["tokenizer"]["decoder"]["conv_out"]["kernel"] *= 5
    stage = method.stages[stage]
    frozen = {g: params[g] for g in stage.needs if g in params}
    embedding = params["codebook"]["embedding"]
    counts = jnp.ones(len(embedding)).at[3].set(0)
    stats = {"codebook": {"embedding": embedding, "counts": counts, "sums": embedding}}
    # plain gradient descent: Adam would turn the last bit of a tiny gradient into a whole step
    optimizers = {group: optax.sgd(0.02) for group in stage.trains}
    batch = next(batches())
    step = make_step(stage, optimizers, 0.9)

    def start():
        copy = jax.tree.map(jnp.copy, everything)
        return create(stage, copy, jax.tree.map(jnp.copy, stats), optimizers, 0)

    one, metrics = step(start(), frozen, {k: jnp.asarray(v) for k, v in batch.items()})
    mesh = sharding.make_mesh(*mesh)
    state = start()
    layout = sharding.shardings(state, mesh)
    laid_out = make_step(stage, optimizers, 0.9, layout=layout)
    many, mesh_metrics = laid_out(
        jax.device_put(state, layout),
        jax.device_put(frozen, sharding.shardings(frozen, mesh)),
        sharding.put_batch(batch, mesh),
    )
    assert jax.tree.map(lambda x: x.sharding, many) == layout  # the next step finds it as it was
    assert any(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(many.params))
    for name, value in metrics.items():
        np.testing.assert_allclose(mesh_metrics[name], value, rtol=1e-4, err_msg=name)
    largest = 0.0
    for a, b, before in zip(
        jax.tree.leaves((one.params, one.stats)),
        jax.tree.leaves((many.params, many.stats)),
        jax.tree.leaves((start().params, start().stats)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
        largest = max(largest, float(jnp.abs(a - before).max()))
    assert largest > 1e-3
