"""data.pipeline: the same batches whoever makes them, exact resume, shards, mixtures, bad files."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from data import pipeline, records
from data.examples import ExampleSpec
from data.readers import Cache
from maskgit_sr.errors import UserError
from tests.data.prepared import save, write_shards

COUNT = 11
RECIPE = ExampleSpec(crop=32, margin=8, preset="realesrgan")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Images of several sizes, some smaller than the crop; one cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        image = rng.integers(256, size=(20 + 5 * i, 60 - 3 * i, 3), dtype=np.uint8)
        save(root / f"{i:02}.png", image)
    (root / "04.png").write_bytes(b"broken")
    return root


def make(root, recipe=RECIPE, **changes):
    return pipeline.train_iterator(root, recipe, **{"batch_size": 3, "seed": 7, **changes})


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def examples(batches):
    """The examples of batches as one dict of arrays."""
    return {k: np.concatenate([b[k] for b in batches]) for k in ("index", "source", "hr", "lr")}


def assert_equal(batches, others):
    """Batches of equal examples in the same order, whatever the sizes of the batches."""
    ours, theirs = examples(batches), examples(others)
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])


def test_batch_layout(photos):
    batch = next(make(photos))
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "hr": ((3, 32, 32, 3), np.float32),
        "lr": ((3, 8, 8, 3), np.float32),
        "index": ((3,), np.int64),
        "source": ((3,), np.int64),
    }
    for image in (batch["hr"], batch["lr"]):
        assert image.min() >= 0 and image.max() <= 1
        levels = np.round(image * 255).astype(np.float32)
        assert np.array_equal(levels / np.float32(255), image)
    alone = next(make(photos, ExampleSpec(32, preset="none")))
    assert set(alone) == {"hr", "index", "source"}


def test_batches_of_taught_shards_pass_over_damaged_records(tmp_path, caplog):
    """Two folders of other teachers, whose strengths differ; one record in each is damaged."""
    rng = np.random.default_rng(0)
    for name, strength in (("a", 0.25), ("b", 1.0)):
        packed = []
        for i in range(4):
            lr = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
            images = (records.encode(image) for image in (lr, lr.repeat(4, 0).repeat(4, 1)))
            packed.append(records.pack_taught(f"p#{i}", b"", *images)[: -9 if i == 2 else None])
        (tmp_path / name).mkdir()
        settings = {"strength": strength}
        write_shards(tmp_path / name, packed, version=records.TAUGHT, settings=settings)
    recipe = ExampleSpec(24, arrays=("lr", "teacher", "strength"))
    batches = make(f"{tmp_path}/a;{tmp_path}/b", recipe, batch_size=8)
    caplog.clear()
    for batch in take(batches, 4):
        assert {name: (values.shape, values.dtype) for name, values in batch.items()} == {
            "lr": ((8, 6, 6, 3), np.float32),
            "teacher": ((8, 24, 24, 3), np.float32),
            "strength": ((8,), np.float32),
            "index": ((8,), np.int64),
            "source": ((8,), np.int64),
        }
        np.testing.assert_array_equal(batch["strength"], np.float32([0.25, 1])[batch["source"]])
        np.testing.assert_array_equal(batch["lr"].repeat(4, 1).repeat(4, 2), batch["teacher"])
    lines = sorted(record.getMessage() for record in caplog.records)
    assert lines == [f"skipped: {tmp_path}/{n}/record 2: record is cut short" for n in "ab"]
    with pytest.raises(UserError, match=r"RecordFolder\(.*without hr; data\.teach makes those"):
        make(tmp_path / "a", ExampleSpec(24, arrays=("lr", "teacher", "hr")))


@pytest.mark.parametrize(
    "changes", [{"threads": 0}, {"threads": 5}, {"cache": True}, {"batch_size": 4}]
)
def test_threads_cache_and_batches_change_nothing(photos, changes):
    count = 24 // changes.get("batch_size", 3)
    assert_equal(take(make(photos), 8), take(make(photos, **changes), count))


def test_workers_change_nothing_and_resume_exactly(photos, caplog):
    whole = take(make(photos, threads=0), 10)
    caplog.clear()
    killed = make(photos, workers=2)
    assert_equal(whole[:5], take(killed, 5))  # more than an epoch
    state = json.loads(json.dumps(killed.get_state()))
    killed.close()
    (line,) = (record.getMessage() for record in caplog.records)
    assert "04.png: not a picture" in line and len(killed.skipped) == 1
    resumed = make(photos, workers=1)  # another number than before
    resumed.set_state(state)
    assert_equal(whole[5:], take(resumed, 5))
    resumed.close()


def test_seeds_and_epochs_differ(photos):
    first, second = take(make(photos, batch_size=COUNT), 2)
    assert set(first["index"]) == set(second["index"]) == set(range(COUNT))
    order, again = np.argsort(first["index"]), np.argsort(second["index"])
    assert not np.array_equal(order, again)
    assert (first["lr"][order] != second["lr"][again]).any((1, 2, 3)).all()
    other = next(make(photos, batch_size=COUNT, seed=8))
    assert not np.array_equal(other["index"], first["index"])


def test_orbax_saves_and_restores_the_position(photos, tmp_path):
    iterator = make(photos)
    take(iterator, 3)
    with ocp.CheckpointManager(tmp_path / "c") as manager:
        manager.save(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        rest = take(iterator, 3)
        resumed = make(photos, threads=0)
        restore = grain.checkpoint.CheckpointRestore(resumed)
        manager.restore(3, args=ocp.args.Composite(data=restore))
    assert resumed.get_state()["examples"] == 9
    assert_equal(rest, take(resumed, 3))


def joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def tens(photos, state):
    iterator = make(photos, batch_size=10)
    iterator.set_state(state)
    return next(iterator)


def test_state_fits_other_batch_sizes_and_says_when_data_changed(photos, tmp_path, caplog):
    iterator = make(photos, batch_size=2)
    take(iterator, 6)
    state = iterator.get_state()
    larger = make(photos, batch_size=4, threads=1)
    first = take(larger, 2)
    larger.set_state(state)
    assert_equal(take(iterator, 6), take(larger, 3))
    larger.set_state({**state, "examples": 0})
    assert_equal(first, take(larger, 2))
    fives = make(photos, batch_size=5)  # of which 12 is no multiple
    fives.set_state(state)
    larger.set_state(state)
    assert_equal([joined(take(fives, 4))], [joined(take(larger, 5))])
    assert fives.get_state()["examples"] == 32
    hosts = [make(photos, batch_size=5, shard_index=s, shard_count=2) for s in range(2)]
    for host in hosts:
        host.set_state(state)
    assert_equal([joined([next(host) for host in hosts])], [tens(photos, state)])
    larger.set_state({**state, "lengths": [5]})
    assert "data has changed since the checkpoint: [5] images then, [11] now" in caplog.text


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_are_together_the_whole_also_of_a_run_of_one_host(photos, shards):
    alone = make(photos, batch_size=2 * shards)
    take(alone, 2)
    hosts = [make(photos, batch_size=2, shard_index=s, shard_count=shards) for s in range(shards)]
    for host in hosts:
        host.set_state(alone.get_state())
    parts = zip(*(take(host, COUNT) for host in hosts), strict=True)
    whole = take(alone, COUNT)
    assert_equal(whole, [batch for side_by_side in parts for batch in side_by_side])
    seen = np.concatenate([b["index"] for b in whole])[COUNT - 4 * shards % COUNT :]
    assert sorted(seen[:COUNT]) == list(range(COUNT))  # an epoch


def test_mixtures_keep_their_proportions(tmp_path):
    for name, value, count in (("dark", 10, 4), ("light", 200, 7)):
        for i in range(count):
            save(tmp_path / name / f"{i}.png", np.full((16, 16, 3), value, np.uint8))
    root = f"{tmp_path}/dark*1;{tmp_path}/light*3"
    batches = take(make(root, ExampleSpec(16, preset="none"), batch_size=8), 28)
    sources = np.concatenate([b["source"] for b in batches])
    assert np.bincount(sources).tolist() == [56, 168]
    hr = np.concatenate([b["hr"] for b in batches])
    np.testing.assert_array_equal(hr[..., 0, 0, 0] > 0.5, sources == 1)
    for number, length in ((0, 4), (1, 7)):  # each epoch of each source is a permutation
        index = np.concatenate([b["index"] for b in batches])[sources == number]
        for epoch in index[: len(index) // length * length].reshape(-1, length):
            assert sorted(epoch) == list(range(length))


def test_bad_files_are_counted_and_named_once_and_small_ones_if_asked(photos, caplog):
    iterator = make(photos, batch_size=COUNT)
    assert all(len(batch["hr"]) == COUNT for batch in take(iterator, 4))
    (line,) = (record.getMessage() for record in caplog.records)
    assert "04.png: not a picture" in line and len(iterator.skipped) == 1
    iterator = make(photos, small="skip", batch_size=COUNT)
    next(iterator)
    small = {i for i in range(COUNT) if min(20 + 5 * i, 60 - 3 * i) < 40}
    assert len(iterator.skipped) == len(small | {4})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"threads": -1}, "threads"),
        ({"workers": -1}, "workers"),
        ({"shard_index": 2, "shard_count": 2}, "shard_index"),
        ({"small": "crop"}, "small must be pad or skip"),
    ],
)
def test_wrong_arguments_are_named(photos, changes, message):
    with pytest.raises(ValueError, match=message):
        make(photos, **changes)


def test_useless_data_is_an_error_before_the_first_batch(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no image is usable, first .*a\.png: not a picture"):
        make(tmp_path)
    for folder, rows in (("hr", 16), ("lr", 5)):
        save(tmp_path / f"p/{folder}/a.png", np.zeros((rows, rows, 3), np.uint8))
    with pytest.raises(ValueError, match="a: HR 16x16 is not 4 times LR 5x5"):
        make(f"pairs:{tmp_path}/p")


def pairs(root, sizes):
    """Pairs of the shapes ((HR), (LR)), named 0, 1, …, whose pixels are their number."""
    for number, shapes in enumerate(sizes):
        for kind, shape in zip(("hr", "lr"), shapes, strict=True):
            image = np.full((*shape, 3), number, np.uint8)
            save(root / kind / f"{number}.png", image)
    return f"pairs:{root}"


def test_pairs_of_other_sizes_are_passed_over_counted_and_named_once(tmp_path, caplog):
    good, bad = ((160, 160), (40, 40)), ((201, 163), (50, 40))
    root = pairs(tmp_path, [good, bad, good, ((202, 161), (50, 40))])
    iterator = make(root, batch_size=4)
    for batch in take(iterator, 4):
        assert set(np.rint(batch["hr"] * 255).astype(int).flat) == {0, 2}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(iterator.skipped) == 2
    assert any("/1: HR 201x163 is not 4 times LR 50x40" in line for line in lines)
    assert any("/3: HR 202x161 is not 4 times LR 50x40" in line for line in lines)
    with pytest.raises(ValueError, match="no image is usable, first .*[01]: HR 201x163") as error:
        make(pairs(tmp_path / "all", [bad, bad]))
    assert "\n" not in str(error.value)


def test_the_cache_is_bounded_over_all_sources_and_workers(photos, monkeypatch):
    caches = []
    monkeypatch.setattr(
        pipeline, "Cache", lambda *given: caches.append(Cache(*given)) or caches[-1]
    )
    plain = make(f"{photos};{photos}", batch_size=COUNT)
    cached = make(f"{photos};{photos}", batch_size=COUNT, cache=True, cache_gb=2e-5)
    assert_equal(take(plain, 4), take(cached, 4))
    assert 1e4 < caches[0]._bytes <= 2e4
    assert caches[0]._bytes == sum(x["hr"].nbytes for x in caches[0]._held.values())
    make(photos, workers=4, cache=True, cache_gb=2e-5)
    worker = pickle.loads(pickle.dumps(caches[1]))
    assert worker._limit == 5e3 and not worker._held and caches[1]._limit == 2e4
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="cache_gb must be at least 0 and finite"):
            make(photos, cache=True, cache_gb=wrong)


def test_signals_of_the_terminal_and_the_scheduler_leave_workers_alone(photos):
    iterator = make(photos, workers=1)
    first = next(iterator)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    alone = make(photos)
    assert_equal([next(alone), *take(alone, 8)], [first, *take(iterator, 8)])
    assert worker.is_alive()
    iterator.close()
    assert not multiprocessing.active_children()


def test_without_jax_and_no_worker_process_stays_behind(photos, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "sys.modules['jax'] = None  # its import fails\n"
        "from data import pipeline\n"
        "from data.examples import ExampleSpec\n"
        "if __name__ == '__main__':\n"
        f"    root, spec = {str(photos)!r}, ExampleSpec(32)\n"
        "    it = pipeline.train_iterator(root, spec, batch_size=2, workers=1)\n"
        "    print(next(it)['lr'].shape)\n"  # and ends without closing it
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.strip() == "(2, 8, 8, 3)", done.stderr
    assert "leaked" not in done.stderr and "Traceback" not in done.stderr, done.stderr
