"""data.readers: unusable images are replaced, counted and named once, in any process."""

import multiprocessing
import os
import threading

import numpy as np
import pytest

from data.quality import detail
from data.readers import Reader, Skipped
from maskgit_sr.errors import UserError


class Numbers:
    """Images whose value is their index; some cannot be read, one is small."""

    def __init__(self, bad=(), small=(), count=5):
        self.bad, self.small, self.count, self.reads = set(bad), set(small), count, 0

    def __len__(self):
        return self.count

    def __repr__(self):
        return "Numbers()"

    def __getitem__(self, index):
        self.reads += 1
        if index in self.bad:
            raise UserError(f"{index}.png: broken")
        side = 3 if index in self.small else 8
        return {"image": np.full((side, 8, 3), index, np.uint8), "id": f"{index}.png"}


def found(reader, indices):
    return [reader[i]["hr"][0, 0, 0] for i in indices]


def test_the_next_image_stands_in_and_the_last_wraps():
    skipped = Skipped()
    reader = Reader(Numbers(bad=(1, 2, 4)), skipped)
    assert found(reader, range(5)) == [0, 3, 3, 3, 0]
    assert found(reader, reversed(range(5))) == [0, 3, 3, 3, 0]
    assert skipped.notes() == {f"{i}.png": f"{i}.png: broken" for i in (1, 2, 4)}
    assert len(skipped) == 3
    with pytest.raises(ValueError, match=r"Numbers\(\): no image is usable, first .*broken"):
        Reader(Numbers(bad=range(5)), Skipped())[3]


def test_small_images_are_unusable_only_if_asked():
    skipped = Skipped()
    assert found(Reader(Numbers(small=(2,)), skipped), range(4)) == [0, 1, 2, 3]
    assert found(Reader(Numbers(small=(2,)), skipped, least=4), range(4)) == [0, 1, 3, 3]
    assert list(skipped.notes().values()) == ["2.png: 3x8 is smaller than 4"]


def test_bad_images_are_read_once_and_cached_ones_too():
    source = Numbers(bad=(1,))
    reader = Reader(source, Skipped(), cache=True)
    for _ in range(3):
        assert found(reader, range(5)) == [0, 2, 2, 3, 4]
    assert source.reads == 5
    with pytest.raises(ValueError, match="read-only"):
        reader[0]["hr"][0, 0, 0] = 1


def _note(skipped, name):
    skipped.note(name, f"{name}: from {os.getpid()}")


def test_each_name_counts_once_over_threads_and_processes():
    skipped = Skipped()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_note, args=(skipped, n)) for n in ("a", "b")]
    workers += [threading.Thread(target=_note, args=(skipped, n)) for n in ("a", "c")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(skipped.notes()) == ["a", "b", "c"] and len(skipped) == 3
    folder = skipped._folder
    del skipped
    workers.clear()
    assert not os.path.exists(folder)


def test_each_reason_is_handed_out_once_whatever_came_before():
    skipped, found = Skipped(), []
    names = [*map(str, range(20)), "\udce9.png"]  # the last is no UTF-8, as file names may be
    for name in names:
        skipped.note(name, f"{name}: broken")
        found += skipped.fresh()
    assert found == [f"{name}: broken" for name in names]
    assert skipped.fresh() == [] and len(skipped.notes()) == len(names)


def test_detail_measures_contrast_and_sharpness():
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.normal(128, 20, (256, 256, 1)), 3, 2).astype(np.uint8)
    contrast, sharpness = detail(noise)
    assert contrast == pytest.approx(20, rel=0.03)
    # The Laplacian adds four neighbours and takes away four times the pixel: variance (4 + 16)σ².
    assert sharpness == pytest.approx(20 * 20**0.5, rel=0.03)
    assert detail(np.full((9, 9, 3), 40, np.uint8)) == (0, 0)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    contrast, sharpness = detail(ramp)
    assert contrast == pytest.approx(np.arange(256).std(), rel=1e-3) and sharpness < 1
