"""inference.deviation against NumPy, and several results of one image."""

import jax
import numpy as np
import pytest

from maskgit_sr.bundles import Metadata
from maskgit_sr.errors import UserError
from maskgit_sr.images import from_array
from maskgit_sr.inference.deviation import MAX_SAMPLES, StandardDeviation
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.subpixel import Subpixel
from tests.inference.pictures import noise


@pytest.mark.parametrize(("dtype", "peak"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
@pytest.mark.parametrize("count", [2, 7])
def test_it_is_the_standard_deviation_of_samples(dtype, peak, count):
    results = np.stack([noise(5, 9, 3, dtype, seed=seed) for seed in range(count)])
    found = StandardDeviation()
    for result in results:
        found.add(result)
    variance = (results.astype(np.float64) * 255 / peak).var(0, ddof=1).mean(-1)
    assert found.map().dtype == np.float32
    np.testing.assert_allclose(found.map(), np.sqrt(variance), rtol=1e-6, atol=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_sums_hold_the_most_samples_of_the_most_intensity(dtype):
    found, white = StandardDeviation(), np.full((2, 2, 3), np.iinfo(dtype).max, dtype)
    for _ in range(MAX_SAMPLES):
        found.add(white)
    np.testing.assert_array_equal(found.map(), 0)
    with pytest.raises(UserError, match="at most 256, found 257"):
        found.add(white)
    with pytest.raises(UserError, match="at least 2, found 0"):
        StandardDeviation().map()


def load(batch):
    method = Subpixel()
    params, _ = method.init(jax.random.key(0), method.groups)
    metadata = Metadata(method.name, {}, method.scale)
    return Upscaler(method, params, metadata, batch=batch, device=jax.devices("cpu")[0])


@pytest.fixture(scope="module")
def doubling():
    return load(3)


def test_samples_are_the_results_of_the_seeds_from_the_first(doubling, monkeypatch):
    image, seen, sizes = noise(20, 13, 3), [], []
    single = [doubling(image, seed=seed, noise=0.1).image for seed in range(7, 11)]
    plain = doubling.run
    monkeypatch.setattr(
        doubling, "run", lambda lr, *more: sizes.append(len(lr)) or plain(lr, *more)
    )
    progress = lambda *done: seen.append(done)  # noqa: E731
    found = doubling.samples(image, 4, seed=7, noise=0.1, progress=progress)
    assert len(found.results) == 4 and (single[0] != single[1]).any()
    for result, expected in zip(found.results, single, strict=True):
        np.testing.assert_array_equal(result.image, expected)
    # two windows each: device calls are filled from several samples
    assert sizes == [3, 3, 2] and seen == [(3, 8), (6, 8), (8, 8)]
    variance = np.stack(single).astype(np.float64).var(0, ddof=1).mean(-1)
    np.testing.assert_allclose(found.deviation, np.sqrt(variance), rtol=1e-5, atol=1e-3)
    other = load(2).samples(image, 4, seed=7, noise=0.1)
    np.testing.assert_array_equal(other.results[3].image, single[3])


def test_every_sample_may_be_consistent(doubling):
    found = doubling.samples(noise(9, 8, 3) // 4 + 96, 2, noise=0.1, consistent=1.0)
    assert [result.consistency.outside for result in found.results] == [0, 0]
    assert found.deviation.mean() > 1


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (
            3,
            {},
            "samples: subpixel draws nothing at random at strength 1, noise 0: all would be eq",
        ),
        (1, {"noise": 0.1}, "samples: expected 2 to 256, found 1"),
        (257, {"noise": 0.1}, "samples: expected 2 to 256, found 257"),
        (2, {"luck": 1}, "luck: subpixel has no such option"),
    ],
)
def test_samples_that_are_refused_at_once(doubling, count, options, message):
    with pytest.raises(UserError, match=message):
        doubling.draws(from_array(noise(4, 4, 3)), count, **options)
