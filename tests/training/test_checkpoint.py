"""training.checkpoint: exact state and data position, other meshes, damage."""

import dataclasses
import errno
import logging
import resource
import shutil

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.errors import UserError
from maskgit_sr.training import checkpoint, sharding
from maskgit_sr.training.state import TrainState

KEY = jax.random.key(0)
# TensorStore tells of every other read or write that failed when its future is dropped.
stray = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def iterator():
    return iter(grain.MapDataset.range(100).shuffle(seed=3).to_iter_dataset().batch(4))


def state(step, mesh):
    tree = TrainState(
        step=jnp.int32(step),
        skipped=jnp.int32(1),
        in_a_row=jnp.int32(0),
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


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)])
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


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def cut_short(folder):
    for path in folder.rglob("d/*"):  # arrays
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(folder):
    for path in files(folder):
        path.write_bytes(b"")


def without_metadata(folder):
    (folder / "_CHECKPOINT_METADATA").unlink()
    (folder / "state" / "_METADATA").unlink()


def only_a_name(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@stray
@pytest.mark.parametrize("damage", [cut_short, emptied, without_metadata, only_a_name])
def test_a_damaged_checkpoint_is_passed_over_and_written_again(saved, caplog, damage):
    folder, batch = saved
    damage(folder / "5")
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
    assert (folder / "damaged-5").is_dir() and not (folder / "5").exists()  # kept to be looked at

    for step in (4, 5):  # Orbax saves no step that is not after the newest it knows
        checkpoints = checkpoint.Checkpoints(folder)
        assert checkpoints.restore(state(0, mesh), iterator()).step < step
        checkpoints.save(state(step, mesh), data)
        checkpoints.close()
    caplog.clear()
    data, checkpoints = iterator(), checkpoint.Checkpoints(folder)
    assert_same(checkpoints.restore(state(0, mesh), data), state(5, mesh))
    checkpoints.close()
    assert not caplog.text
    np.testing.assert_array_equal(next(data), batch)


def test_a_checkpoint_that_another_host_cannot_read_is_passed_over(saved, monkeypatch, caplog):
    folder, _ = saved
    others = iter([True, False])
    monkeypatch.setattr(checkpoint.watch, "any_host", lambda wish: wish or next(others))
    data, mesh = iterator(), sharding.make_mesh()
    checkpoints = checkpoint.Checkpoints(folder)
    assert_same(checkpoints.restore(state(0, mesh), data), state(2, mesh))
    checkpoints.close()
    assert "checkpoint 5 cannot be read, trying the one before: another host" in caplog.text
    assert not (folder / "5").exists() and len(files(folder / "damaged-5")) > 5
    expected = iterator()
    next(expected)
    np.testing.assert_array_equal(next(data), next(expected))


def listing(folder):
    return {path: path.read_bytes() for path in files(folder) if path.exists()}


def refused(folder, like, message):
    """Asserts that nothing is restored and nothing is changed."""
    before, data = listing(folder), iterator()
    checkpoints = checkpoint.Checkpoints(folder)
    with pytest.raises(UserError, match=message) as error:
        checkpoints.restore(like, data)
    checkpoints.close()
    assert "\n" not in str(error.value) and listing(folder) == before
    np.testing.assert_array_equal(next(data), next(iterator()))
    return error.value


@pytest.mark.parametrize("what", ["d", "state", ""])
def test_a_checkpoint_on_a_mount_that_is_away_ends_the_run_and_stays(saved, tmp_path, what):
    """Links whose target is gone: of a file of arrays, of a folder, of the whole checkpoint."""
    folder, batch = saved
    gone = folder / "5" / what if what != "d" else next((folder / "5" / "state").glob("d/*"))
    away = folder.parent / f"{folder.name}-away"
    gone.rename(away)
    gone.symlink_to(away)
    hidden = away.rename(away.with_name(away.name + "-unmounted"))
    mesh = sharding.make_mesh()
    refused(folder, state(0, mesh), "5: cannot be (read|reached) now.*nothing is changed")
    hidden.rename(away)  # it is back
    data, checkpoints = iterator(), checkpoint.Checkpoints(folder)
    assert_same(checkpoints.restore(state(0, mesh), data), state(5, mesh))
    checkpoints.close()
    np.testing.assert_array_equal(next(data), batch)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, "Stale file handle"),
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError("Error opening file: Too many open files [os_error_code='24']"),
        ValueError("UNAVAILABLE: Could not reach storage.googleapis.com"),
        MemoryError("10 GB"),
    ],
)
def test_trouble_that_passes_ends_the_run_and_changes_nothing(saved, monkeypatch, error):
    folder, _ = saved

    def restore(*_, **__):
        raise RuntimeError("Orbax wraps it") from error

    monkeypatch.setattr(checkpoint.ocp.Checkpointer, "restore", restore)
    refused(folder, state(0, sharding.make_mesh()), "5: cannot be read now")


def test_a_mount_that_is_back_at_the_second_reading(saved, monkeypatch):
    folder, _ = saved
    restore, calls = checkpoint.ocp.Checkpointer.restore, []

    def once_away(self, *given, **named):
        calls.append(given)
        if len(calls) == 1:
            raise ValueError("cut off in its middle")
        return restore(self, *given, **named)

    monkeypatch.setattr(checkpoint.ocp.Checkpointer, "restore", once_away)
    checkpoints = checkpoint.Checkpoints(folder)
    assert checkpoints.restore(state(0, sharding.make_mesh()), iterator()).step == 5
    checkpoints.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"params": {"g": {"query": {"kernel": jnp.zeros((4, 9))}}}},
            r"params/g/query/kernel float32 \[4, 8\] then, float32 \[4, 9\] now",
        ),
        ({"ema": {}}, r"ema/g/query/kernel float32 \[4, 8\] then, not there now"),
        (
            {"optimizer": {"g": ({"mu": jnp.zeros((4, 8)), "nu": jnp.zeros(3)}, jnp.int32(0))}},
            r"optimizer/g/0/nu not there then, float32 \[3\] now",
        ),
    ],
)
def test_a_checkpoint_of_another_configuration_is_told_and_stays(saved, change, message):
    folder, _ = saved
    tree = dataclasses.replace(state(0, sharding.make_mesh()), **change)
    like = jax.device_put(tree, sharding.shardings(tree, sharding.make_mesh()))
    error = refused(folder, like, f"5: is of another configuration: {message}")
    assert isinstance(error, checkpoint.Differs)


def test_the_position_of_a_run_of_more_hosts_is_that_of_its_first(saved):
    folder, batch = saved
    place = folder / "5" / "data"
    (place / "process_0-of-1.json").rename(place / "process_0-of-2.json")
    shutil.copy(place / "process_0-of-2.json", place / "process_1-of-2.json")
    data, checkpoints = iterator(), checkpoint.Checkpoints(folder)
    assert checkpoints.restore(state(0, sharding.make_mesh()), data).step == 5
    checkpoints.close()
    np.testing.assert_array_equal(next(data), batch)


def test_nothing_to_restore(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.restore(state(0, sharding.make_mesh()), iterator()) is None
    checkpoints.close()


def test_a_folder_without_one_readable_checkpoint_is_not_begun_anew(saved):
    folder, _ = saved
    emptied(folder)
    before = files(folder)
    checkpoints = checkpoint.Checkpoints(folder)
    with pytest.raises(UserError, match=r"none of its checkpoints \(5, 2\) can be read") as error:
        checkpoints.restore(state(0, sharding.make_mesh()), iterator())
    checkpoints.close()
    assert "\n" not in str(error.value)
    assert files(folder) == before  # someone may want to look at them


def large(step):
    """More than may be written below."""
    tree = dataclasses.replace(
        state(step, sharding.make_mesh()), params={"g": {"w": jax.random.normal(KEY, (512, 512))}}
    )
    return jax.device_put(tree, sharding.shardings(tree, sharding.make_mesh()))


@stray
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, caplog):
    """Files may not grow beyond 64 KiB, as on a full disk."""
    data = iterator()
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(large(2), data)
    checkpoints._wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(UserError, match="the last whole one is of step 2") as error:
            checkpoints.save(large(3), data)
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot write a checkpoint (File too large)" in str(error.value)
    assert "\n" not in str(error.value) and not caplog.text  # nor anything from Orbax's threads
    again = checkpoint.Checkpoints(tmp_path)
    found = again.restore(large(0), iterator())
    again.close()
    assert_same(found, large(2))


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"keep": 1}, [6]),
        ({"keep": 2}, [5, 6]),
        ({"keep": 1, "every": 3}, [3, 6]),
        ({"keep": 1, "best": 2}, [2, 4, 6]),
    ],
)
def test_which_checkpoints_stay(tmp_path, keep, expected):
    data, mesh = iterator(), sharding.make_mesh()
    scores = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.2, 5: 0.7, 6: 0.3}
    checkpoints = checkpoint.Checkpoints(tmp_path, **keep)
    for step, score in scores.items():
        checkpoints.save(state(step, mesh), data, score)
    checkpoints.close()
    found = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert found == expected
