"""A small data set of pictures that are not noise, as the pipeline would give it."""

from collections.abc import Callable
from functools import partial

import grain
import numpy as np
import pytest


def example(index: int, side: int, scale: int) -> dict[str, np.ndarray]:
    """Waves of a random direction and tint: {"hr": [S, S, 3], "lr": [S/R, S/R, 3]} in [0, 1]."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[:side, :side] / side
    phase = rng.uniform(0, 6) + 2 * np.pi * (rng.uniform(1, 4) * x + rng.uniform(1, 4) * y)
    hr = 0.5 + 0.4 * np.sin(phase)[..., None] * rng.uniform(0.3, 1, 3)
    low = side // scale
    lr = hr.reshape(low, scale, low, scale, 3).mean((1, 3))
    return {"hr": hr.astype(np.float32), "lr": lr.astype(np.float32)}


@pytest.fixture(scope="session")
def batches() -> Callable[[], grain.DatasetIterator]:
    """Makes iterators over batches of eight, shuffled, without end, always the same.

    Batch number `broken` holds pixels that are not numbers. HR pictures have sides of `side`.
    """

    def make(broken: int = -1, side: int = 32, scale: int = 4) -> grain.DatasetIterator:
        def spoil(index: int, example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {k: x * np.nan for k, x in example.items()} if index // 8 == broken else example

        dataset = (
            grain.MapDataset.range(24).shuffle(seed=0).map(partial(example, side=side, scale=scale))
        )
        dataset = dataset.repeat().map_with_index(spoil)
        return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0)).batch(8))

    return make
