"""Tiles of many pictures in common calls: order, turns, options, failures and the end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from maskgit_sr import images
from maskgit_sr.serving import batcher as module
from maskgit_sr.serving.batcher import Batcher, Stopped
from tests.serving.models import Watched, enlarged, flat, pixels

LONG = 30  # seconds; nothing here takes as long unless it hangs


@pytest.fixture(scope="module")
def upscaler():
    return Watched(batch=3)


@pytest.fixture
def made(upscaler):
    """max_wait → a batcher, closed afterwards; `seen` is what it has observed."""
    batchers = []

    def make(max_wait=0.0):
        seen = []
        found = Batcher(upscaler, max_wait=max_wait, observe=lambda *call: seen.append(call))
        found.seen = seen
        batchers.append(found)
        return found

    upscaler.reset()
    yield make
    upscaler.gate.set()
    for one in batchers:
        one.close()
        assert not one.alive


@pytest.fixture
def held(made, upscaler):
    """A batcher whose first device call waits for the gate."""
    upscaler.gate.clear()
    return made()


def submit(batcher, upscaler, array, seed=0, **options):
    options = upscaler.options(**{"confidence": False, **options})
    mosaic = upscaler.mosaic(images.from_array(array), options)
    return batcher.submit(mosaic, options, seed)


def color(job):
    return job.future.result(LONG).color


def tiles_of(upscaler, value):
    """In which calls the tiles of the picture of that one value were."""
    level = np.float32(value) / 255
    return [n for n, (lr, _) in enumerate(upscaler.calls) for tile in lr if (tile == level).all()]


def test_nothing_is_lost_or_swapped(made, upscaler):
    batcher = made()
    arrays = [pixels(1 + 3 * n % 23, 1 + 7 * n % 19, seed=n) for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda array: submit(batcher, upscaler, array), arrays))
    for job, array in zip(jobs, arrays, strict=True):
        np.testing.assert_array_equal(color(job), enlarged(array))
    tiles = sum(job.mosaic.count for job in jobs)
    assert sum(count for count, _ in batcher.seen) == tiles and batcher.waiting == 0
    assert len(batcher.seen) <= tiles / 3 + 40  # calls were shared
    assert max(count for count, _ in batcher.seen) == 3


def test_a_large_picture_does_not_hold_up_a_small_one(held, upscaler):
    large = submit(held, upscaler, flat(60, 60, 10))
    assert upscaler.entered.wait(LONG)
    small = [submit(held, upscaler, flat(3, 3, 20 + n)) for n in range(2)]
    upscaler.gate.set()
    for n, job in enumerate(small):
        np.testing.assert_array_equal(color(job), flat(12, 12, 20 + n))
        assert tiles_of(upscaler, 20 + n)[0] <= 2
    assert color(large).shape == (240, 240, 3)
    assert len(upscaler.calls) > 60


def test_large_pictures_share_the_device_equally(held, upscaler):
    first = submit(held, upscaler, flat(4, 200, 10))  # 49 tiles
    assert upscaler.entered.wait(LONG)
    second = submit(held, upscaler, flat(4, 200, 20))
    upscaler.gate.set()
    color(first), color(second)
    turns = [value for lr, _ in upscaler.calls for value in np.rint(lr[:, 0, 0, 0] * 255)]
    for n in range(3, len(turns)):
        ahead = turns[3:n].count(10) - turns[3:n].count(20)
        assert abs(ahead) <= 4 or turns[:n].count(10) == 49, turns[:n]


def test_options_do_not_mix_and_take_turns(held, upscaler):
    plain = submit(held, upscaler, flat(4, 60, 10))
    assert upscaler.entered.wait(LONG)
    scored = submit(held, upscaler, flat(4, 40, 20), confidence=True)
    more = submit(held, upscaler, flat(4, 4, 30))
    upscaler.gate.set()
    for job, value in ((plain, 10), (scored, 20), (more, 30)):
        assert (color(job) == value).all()
    assert scored.mosaic.confidence == pytest.approx(20 / 255) and plain.mosaic.confidence is None
    kinds = []
    for lr, options in upscaler.calls:
        values = set(np.rint(lr[:, 0, 0, 0] * 255))
        assert values == {20} if options.confidence else values <= {10, 30}
        kinds.append(options.confidence)
    assert kinds[1:6] in ([True, False] * 2 + [True], [False, True] * 2 + [False])


def test_samples_are_the_upscalers_whoever_shares_a_call(held, upscaler):
    arrays = [pixels(5 + n, 14, seed=n) for n in range(5)]
    jobs = [
        submit(held, upscaler, array, seed=n, temperature=1.0) for n, array in enumerate(arrays)
    ]
    upscaler.gate.set()
    found = [color(job) for job in jobs]
    for n, array in enumerate(arrays):
        alone = upscaler(array, temperature=1.0, seed=n, confidence=False).image
        np.testing.assert_array_equal(found[n], alone)


def test_a_cancelled_picture_takes_no_more_calls(held, upscaler):
    large = submit(held, upscaler, flat(60, 60, 10))
    assert upscaler.entered.wait(LONG)
    small = submit(held, upscaler, flat(4, 20, 20))
    held.cancel(large)
    assert held.waiting == small.mosaic.count
    upscaler.gate.set()
    assert (color(small) == 20).all()
    assert set(tiles_of(upscaler, 10)) == {0}
    assert not large.future.done()
    held.cancel(small)  # too late, and no harm


@pytest.mark.parametrize("where", ["start", "end"])
def test_a_failed_call_fails_its_pictures_only(held, upscaler, monkeypatch, caplog, where):
    if where == "start":
        upscaler.breaks = lambda lr: (lr[:, 0, 0, 0] == np.float32(10) / 255).any()
    else:

        def fetch(count, restored):
            if (np.rint(np.asarray(restored.image)[:, 0, 0, 0] * 255) == 10).any():
                raise RuntimeError("the device\nis broken")
            return fetch_well(count, restored)

        fetch_well = module.fetch
        monkeypatch.setattr(module, "fetch", fetch)
    good = submit(held, upscaler, flat(4, 16, 20))
    assert upscaler.entered.wait(LONG)
    bad = submit(held, upscaler, flat(40, 40, 10), confidence=True)
    upscaler.gate.set()
    with pytest.raises(RuntimeError, match="the device"):
        bad.future.result(LONG)
    assert (color(good) == 20).all()
    assert (color(submit(held, upscaler, flat(9, 9, 30))) == 30).all()
    assert held.alive and held.waiting == 0
    assert "restoring 3 tiles failed" in caplog.text


def test_a_picture_that_cannot_be_blended_fails_alone(held, upscaler, monkeypatch):
    jobs = [submit(held, upscaler, flat(4, 4, value)) for value in (10, 20, 30)]

    def add(*tile):
        raise ValueError("blending")

    monkeypatch.setattr(jobs[1].mosaic, "add", add)
    upscaler.gate.set()
    assert (color(jobs[0]) == 10).all() and (color(jobs[2]) == 30).all()
    with pytest.raises(ValueError, match="blending"):
        jobs[1].future.result(LONG)


def test_a_call_waits_to_be_filled(made, upscaler):
    batcher = made(max_wait=LONG)
    jobs = [submit(batcher, upscaler, flat(4, 4, value)) for value in (10, 20, 30)]
    for job, value in zip(jobs, (10, 20, 30), strict=True):
        assert (color(job) == value).all() and job.begun - job.arrived < LONG
    assert [count for count, _ in batcher.seen] == [3]
    job = submit(made(max_wait=0.1), upscaler, flat(4, 4, 10))  # but not for ever
    assert (color(job) == 10).all() and 0.1 <= job.begun - job.arrived < LONG


def test_close_ends_what_waits(held, upscaler):
    jobs = [submit(held, upscaler, flat(30, 30, 10)) for _ in range(3)]
    assert upscaler.entered.wait(LONG)
    closing = threading.Thread(target=held.close)
    closing.start()
    while held.waiting:
        time.sleep(0.01)
    upscaler.gate.set()
    closing.join(LONG)
    for job in jobs:
        with pytest.raises(Stopped):
            job.future.result(LONG)
    with pytest.raises(Stopped):
        submit(held, upscaler, flat(1, 1, 1))
