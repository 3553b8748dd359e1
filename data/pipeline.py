"""Training batches: shuffled, sharded over hosts, made by worker processes, exactly resumable.

Determinism: grain's `random_map` seeds a generator by (seed, epoch · length + example index), for
it stands *before* `shuffle` and `repeat`, which hand those indices down; so every draw is a
function of (seed, epoch, example index). Whole batches are what worker processes hand over, and
batch k holds the same examples whoever makes it; so the number of workers, threads and hosts, the
position in the batch and the moment of a restart change nothing in an example.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags
from etils import epath

from data import sources
from data.examples import ExampleSpec
from data.readers import Reader, Skipped
from maskgit_sr.errors import UserError

_log = logging.getLogger(__name__)


def train_iterator(
    root: str | epath.Path,
    spec: ExampleSpec,
    *,
    batch_size: int,
    seed: int = 0,
    small: str = "pad",
    cache: bool = False,
    workers: int = 0,
    threads: int = 2,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Batches:
    """Returns an iterator over endless shuffled batches of HR crops and their degraded versions.

    Each epoch is a new permutation of a source. The endless sequence is cut into batches, of which
    shard s takes s, s + shard_count, …; so shards neither overlap nor leave anything out, and
    theirs side by side are the batch that a single host would have made, in its order.

    Args:
      root: see `sources.open_source`; or several with weights, "A*0.7;B*0.3", drawn in these
        proportions, each in permutations of its own.
      spec: how an example is made.
      batch_size: examples per batch of this shard.
      seed: of every draw.
      small: images smaller than what is degraded: "pad" reflects them, "skip" passes them over.
      cache: keep decoded images in memory, in every process.
      workers: processes that make batches ahead; 0: none, threads of this process do it.
      threads: with `workers` 0, threads that make batches ahead; 0: none, in the calling thread.

    Yields:
      dict(hr float32 [B, crop, crop, 3], lr float32 [B, crop/scale, crop/scale, 3], source int64
      [B], index int64 [B]); values in [0, 1], multiples of 1/255. `source` and `index` say which
      image was asked for, as positions in the mixture and in the source. The preset "none" leaves
      out lr; of taught sources there are teacher, as hr, and strength float32 [B], too. Where
      `spec.arrays` names some, those alone.

    Raises:
      UserError: a source that is missing, empty or without one usable image, or an argument out
        of its range.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must be in 0..2**32-1, got {seed}")
    if min(threads, workers) < 0:
        raise UserError(f"workers and threads must be at least 0, got {workers}, {threads}")
    if not 0 <= shard_index < shard_count:
        raise UserError(f"shard_index must be in 0..{shard_count - 1}, got {shard_index}")
    if small not in ("pad", "skip"):
        raise UserError(f"small must be pad or skip, got {small!r}")
    mixture = sources.parse_mixture(str(root))
    skipped = Skipped()
    least = spec.crop + spec.margin if small == "skip" else 0
    readers = [
        Reader(sources.open_source(text), skipped, least=least, cache=cache) for text, _ in mixture
    ]
    for reader in readers:
        if isinstance(reader.source, sources.PairedFolder):
            reader.source.check_sizes(spec.scale)
        # Raises now, not in the middle of the first step, if nothing is usable.
        spec.make(reader, 0, np.random.default_rng(seed))
    # Crops are small, and spread over processes or threads already.
    cv2.setNumThreads(0)

    datasets = [_examples(reader, i, spec, seed) for i, reader in enumerate(readers)]
    weights = [weight for _, weight in mixture]
    endless = datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, weights)
    # `repeat` stands before: no remainder is dropped. Sliced after batching: the batches of all
    # shards side by side are those of a single host, so that a restart may change their number.
    batches = endless.batch(batch_size, drop_remainder=True)[shard_index::shard_count]
    lengths = [len(reader) for reader in readers]
    return Batches(batches, batch_size * shard_count, lengths, skipped, workers, threads)


def _examples(reader: Reader, number: int, spec: ExampleSpec, seed: int) -> grain.MapDataset:
    """Returns the endless shuffled examples of one source, the `number`-th of the mixture."""
    if number:  # with equal seeds, sources would be shuffled and cropped in step
        seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])

    def make(index: int, rng: np.random.Generator) -> dict[str, Any]:
        example = spec.make(reader, index, rng)
        del example["id"]
        return {**example, "source": np.int64(number)}

    return (
        grain.MapDataset.range(len(reader)).random_map(make, seed=seed).shuffle(seed=seed).repeat()
    )


class Batches(grain.DatasetIterator):
    """Resumable iterator over a dataset of batches, made by workers, threads or the caller.

    The state is the number of examples that were handed out on all hosts together. It fits any
    number of workers, threads and hosts, and another batch size if the count divides by it.
    """

    def __init__(
        self,
        dataset: grain.MapDataset,
        batch_size: int,
        lengths: Sequence[int],
        skipped: Skipped,
        workers: int,
        threads: int,
    ):
        super().__init__()
        self._dataset, self._batch_size, self._lengths = dataset, batch_size, list(lengths)
        self.skipped = skipped
        self._workers, self._threads = workers, threads
        self._position = 0
        # None or one; a list, since the finalizer needs it and must not hold this iterator.
        self._running: list[grain.DatasetIterator] = []

    @property
    def images(self) -> int:
        """Total number of images in all sources."""
        return sum(self._lengths)

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._started())
        self._position += 1
        for reason in self.skipped.fresh():
            _log.warning("skipped: %s", reason)
        # Workers hand over uint8, a quarter of float32's bytes, in shared memory, which nothing
        # handed out may refer to.
        return {name: _own(values) for name, values in batch.items()}

    def _started(self) -> grain.DatasetIterator:
        if not self._running:
            self._running.append(self._start())
            # A program may end without `close`; grain's own clean-up then comes too late.
            self._end = weakref.finalize(self, _end, self._running)
        return self._running[0]

    def _start(self) -> grain.DatasetIterator:
        rest = self._dataset[self._position :]
        if not self._workers:
            threads = self._threads
            options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
            return iter(rest.to_iter_dataset(options))
        if not flags.FLAGS.is_parsed():  # outside absl.app; grain hands its flags to the workers
            flags.FLAGS.mark_as_parsed()
        alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2)
        return iter(rest.to_iter_dataset(alone).mp_prefetch(options, _one_thread))

    def get_state(self) -> dict[str, Any]:
        """Returns a JSON-ready dict: examples handed out, and number of images in each source."""
        return {"examples": self._position * self._batch_size, "lengths": self._lengths}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called.

        Raises:
          UserError: the examples do not make whole batches.
        """
        position, rest = divmod(state["examples"], self._batch_size)
        if rest:
            raise UserError(
                f"{state['examples']} examples are no whole number of batches of {self._batch_size}"
            )
        if state["lengths"] != self._lengths:
            _log.warning(
                "the data has changed since the checkpoint: %s images then, %s now; "
                "the order of examples is another one",
                state["lengths"],
                self._lengths,
            )
        self.close()  # batches made ahead are those of the former position
        self._position = position

    def start_prefetch(self) -> None:
        """Starts to make batches ahead, without waiting for the first."""
        self._started().start_prefetch()

    def close(self) -> None:
        """Ends the worker processes; the next batch would start new ones."""
        if self._running:
            self._end()


def _end(running: list[grain.DatasetIterator]) -> None:
    running.pop().close()


def _own(values: np.ndarray) -> np.ndarray:
    if values.dtype != np.uint8:
        return np.array(values)
    return np.divide(values, np.float32(255), dtype=np.float32)  # `samples.unit` in a single pass


def _one_thread(worker: int, count: int) -> None:
    # OpenCV's setting is one of its process; the trainer's does not reach the workers.
    cv2.setNumThreads(0)
