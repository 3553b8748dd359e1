"""training.checkpoint: exact state and data position, other meshes, damage, hand-over of groups."""

import logging

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.training import checkpoint, sharding
from maskgit_sr.training.state import TrainState


def iterator():
    return iter(grain.MapDataset.range(100).shuffle(seed=3).to_iter_dataset().batch(4))


def state(step, mesh):
    tree = TrainState(
        step=jnp.int32(step),
        params={"g": {"query": {"kernel": jnp.arange(32.0).reshape(4, 8) + step}}},
        ema={"g": {"query": {"kernel": jnp.ones((4, 8)) / (3 + step)}}},
        stats={},
        optimizer={"g": ({"mu": jnp.full((4, 8), 0.1)}, jnp.int32(step))},
        key=jax.random.key_data(jax.random.key(7)),
    )
    return jax.device_put(tree, sharding.shardings(tree, mesh))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def saved(tmp_path):
    """A folder with checkpoints of steps 2 and 5, and what the data gives after step 5."""
    mesh, data = sharding.make_mesh(), iterator()
    checkpoints = checkpoint.Checkpoints(tmp_path)
    next(data)
    checkpoints.save(state(2, mesh), data)
    next(data)
    checkpoints.save(state(5, mesh), data)
    checkpoints.save(state(5, mesh), data)  # a step is saved once
    checkpoints.close()
    return tmp_path, next(data)


@pytest.mark.parametrize("mesh", [(4, 1, 1), (1, 2, 2)])
def test_newest_state_and_data_position_come_back(saved, mesh):
    folder, batch = saved
    mesh, data = sharding.make_mesh(*mesh), iterator()
    like = state(0, mesh)
    checkpoints = checkpoint.Checkpoints(folder)
    found = checkpoints.restore(like, data)
    checkpoints.close()
    assert_same(found, state(5, mesh))
    assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(lambda x: x.sharding, like)
    np.testing.assert_array_equal(next(data), batch)


def test_a_damaged_checkpoint_is_passed_over(saved, caplog):
    folder, _ = saved
    for file in (folder / "5" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    mesh, data = sharding.make_mesh(), iterator()
    checkpoints = checkpoint.Checkpoints(folder)
    with caplog.at_level(logging.WARNING):
        found = checkpoints.restore(state(0, mesh), data)
    checkpoints.close()
    assert "checkpoint 5 cannot be read, trying the one before" in caplog.text
    assert_same(found, state(2, mesh))
    expected = iterator()
    next(expected)
    np.testing.assert_array_equal(next(data), next(expected))


def test_nothing_to_restore(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.restore(state(0, sharding.make_mesh()), iterator()) is None
    checkpoints.close()


def test_groups_come_from_the_first_file_that_has_them(tmp_path):
    def write(name, training, **groups):
        path = tmp_path / name
        params = {group: {"w": np.full(1, value, np.float32)} for group, value in groups.items()}
        bundles.write(path, params, bundles.Metadata("realsrt", {}, 4, training=training))
        return path

    one = write("one", {"tokenizer": {"steps": 1}}, tokenizer=1, codebook=1)
    two = write("two", {"tokenizer": {"steps": 2}, "critic": {"steps": 2}}, tokenizer=2, critic=2)
    files = [one, tmp_path / "absent", two]
    found, facts = checkpoint.collect(files, ("tokenizer", "critic", "control"))
    assert {group: float(tree["w"][0]) for group, tree in found.items()} == {
        "tokenizer": 1,
        "critic": 2,
    }
    assert facts == {"tokenizer": {"steps": 1}, "critic": {"steps": 2}}
    checkpoint.require(found, ("tokenizer", "critic"), tmp_path)
    with pytest.raises(UserError, match="needs trained control, generator: run the earlier"):
        checkpoint.require(found, ("tokenizer", "control", "generator"), tmp_path)
