"""data.pipeline: determinism, exact resume, shards, crops and validation pairs."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import degradations, pipeline

COUNT = 11


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Images of several sizes, some smaller than the crop; one cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        image = rng.integers(256, size=(20 + 5 * i, 60 - 3 * i, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"{i:02}.png"), image)
    (root / "04.png").write_bytes(b"broken")
    return root


def make(root, **changes):
    return pipeline.train_iterator(root, **{"batch_size": 3, "crop_size": 32, "seed": 7, **changes})


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def examples(batches):
    """Flattens batches to (index, hr, lr) tuples."""
    return [e for b in batches for e in zip(b["index"], b["hr"], b["lr"], strict=True)]


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for u, v in zip(x, y, strict=True):
            np.testing.assert_array_equal(u, v)


def test_batch_layout(photos):
    batch = next(make(photos))
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "hr": ((3, 32, 32, 3), np.float32),
        "lr": ((3, 8, 8, 3), np.float32),
        "index": ((3,), np.int64),
    }
    for image in (batch["hr"], batch["lr"]):
        assert image.min() >= 0 and image.max() <= 1
        levels = np.round(image * 255).astype(np.float32)
        assert np.array_equal(levels / np.float32(255), image)


@pytest.mark.parametrize("changes", [{"threads": 0}, {"threads": 5}, {"cache": True}])
def test_threads_and_cache_change_nothing(photos, changes):
    assert_equal(examples(take(make(photos), 8)), examples(take(make(photos, **changes), 8)))


def test_batch_position_changes_nothing(photos):
    one = examples(take(make(photos, batch_size=2), 15))
    other = examples(take(make(photos, batch_size=5), 6))
    assert_equal(one, other)


def test_seeds_and_epochs_differ(photos):
    epochs = examples(take(make(photos, batch_size=COUNT), 2))
    first, second = ({int(e[0]): e for e in epochs[s]} for s in (slice(COUNT), slice(COUNT, None)))
    assert set(first) == set(second) == set(range(COUNT))
    assert [e[0] for e in epochs[:COUNT]] != [e[0] for e in epochs[COUNT:]]
    assert not any(np.array_equal(first[i][2], second[i][2]) for i in range(COUNT))
    other = next(make(photos, batch_size=COUNT, seed=8))
    assert not np.array_equal(other["index"], [e[0] for e in epochs[:COUNT]])


@pytest.mark.parametrize("done", [0, 1, 5])
def test_resume_is_exact(photos, done):
    iterator = make(photos)
    take(iterator, done)
    state = json.loads(json.dumps(iterator.get_state()))
    rest = take(iterator, 6)
    resumed = make(photos, threads=1)
    take(resumed, 2)
    resumed.set_state(state)
    assert_equal(examples(rest), examples(take(resumed, 6)))


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_are_disjoint_and_together_the_whole(photos, shards):
    whole = examples(take(make(photos, batch_size=shards), 2 * COUNT))
    parts = [
        examples(take(make(photos, batch_size=1, shard_index=s, shard_count=shards), 2 * COUNT))
        for s in range(shards)
    ]
    assert_equal(whole, [part[i] for i in range(2 * COUNT) for part in parts])
    for epoch in range(shards):
        seen = sorted(int(e[0]) for e in whole[epoch * COUNT : (epoch + 1) * COUNT])
        assert seen == list(range(COUNT))


def test_sharpen_changes_the_target(photos):
    plain, sharp = next(make(photos)), next(make(photos, sharpen=True))
    assert np.array_equal(plain["index"], sharp["index"])
    assert not np.array_equal(plain["hr"], sharp["hr"])
    assert sharp["hr"].min() >= 0 and sharp["hr"].max() <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(0, 99))
def test_random_crop_has_the_size_and_only_known_pixels(height, width, size, seed):
    image = np.arange(height * width * 3, dtype=np.int32).astype(np.uint8)
    image = image.reshape(height, width, 3)
    crop = pipeline.random_crop(image, size, np.random.default_rng(seed))
    assert crop.shape == (size, size, 3) and crop.flags.c_contiguous
    assert {tuple(p) for p in crop.reshape(-1, 3)} <= {tuple(p) for p in image.reshape(-1, 3)}


def test_random_crop_takes_all_eight_orientations():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    crops = {pipeline.random_crop(image, 4, np.random.default_rng(s)).tobytes() for s in range(200)}
    assert len(crops) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"crop_size": 30}, "multiple of scale 4"),
        ({"seed": -1}, "seed"),
        ({"threads": -1}, "threads"),
        ({"shard_index": 2, "shard_count": 2}, "shard_index"),
        ({"preset": "heavy"}, "light"),
    ],
)
def test_wrong_arguments_are_named(photos, changes, message):
    with pytest.raises(ValueError, match=message):
        make(photos, **changes)


def test_settings_can_be_given_directly(photos):
    batch = next(make(photos, preset=degradations.Settings(noise_probability=0)))
    assert batch["lr"].shape == (3, 8, 8, 3)


def test_validation_pairs(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for folder, size in (("hr", 16), ("lr", 4)):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = rng.integers(256, size=(size, 2 * size, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{name}_{folder}.png"), image)
    pairs = list(pipeline.validation_pairs(tmp_path))
    assert [p["id"] for p in pairs] == ["a", "b"]
    assert pairs[0]["lr"].shape == (4, 8, 3) and pairs[0]["hr"].shape == (16, 32, 3)
    assert pairs[0]["lr"].dtype == pairs[0]["hr"].dtype == np.uint8
    assert len(list(pipeline.validation_pairs(tmp_path, limit=1))) == 1
    with pytest.raises(ValueError, match="a: HR .* is not 2 times LR"):
        list(pipeline.validation_pairs(tmp_path, scale=2))


def test_validation_without_lr_reduces_hr(tmp_path):
    (tmp_path / "hr").mkdir()
    cv2.imwrite(str(tmp_path / "hr/a.png"), np.full((18, 23, 3), 77, np.uint8))
    (pair,) = pipeline.validation_pairs(tmp_path)
    assert pair["hr"].shape == (16, 20, 3)
    assert pair["lr"].shape == (4, 5, 3) and np.all(pair["lr"] == 77)


def test_command_measures_and_names_a_missing_folder(photos):
    command = [sys.executable, "-m", "data.pipeline", "--batch", "2", "--crop", "32"]
    root = Path(__file__).parents[2]
    args = ["--root", str(photos), "--seconds", "0.05"]
    done = subprocess.run([*command, *args], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "examples/s" in done.stdout, done.stderr
    done = subprocess.run(
        [*command, "--root", "no_such_folder"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 2 and "no_such_folder" in done.stderr
    assert "Traceback" not in done.stderr
