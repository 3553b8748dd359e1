"""Training batches: shuffled, sharded over hosts, made by worker processes, exactly resumable.

Determinism: grain's `random_map` seeds a generator by (seed, epoch · length + example index), for
it stands *before* `shuffle` and `repeat`, which hand those indices down; so every draw is a
function of (seed, epoch, example index). Whole batches are what worker processes hand over, and
batch k holds the same examples whoever makes it; so the number of workers, threads and hosts, the
position in the batch and the moment of a restart change nothing in an example.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags
from etils import epath

from data import sources
from data.examples import ExampleSpec
from data.readers import Cache, Reader, Skipped
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
    cache_gb: float = 2.0,
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
      cache: keep decoded images in memory, of all sources together at most `cache_gb` (10⁹ bytes),
        of which every worker process has an equal part, for the images that it comes by.
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
    if not 0 <= cache_gb < math.inf:  # true for NaN too
        raise UserError(f"cache_gb must be at least 0 and finite, got {cache_gb}")
    mixture = sources.parse_mixture(str(root))
    skipped = Skipped()
    least = spec.crop + spec.margin if small == "skip" else 0
    held = Cache(cache_gb * 1e9, 1 / max(1, workers)) if cache and cache_gb else False
    readers = []
    for text, _ in mixture:
        source = sources.open_source(text)
        bad = source.bad_sizes(spec.scale) if isinstance(source, sources.PairedFolder) else None
        reader = Reader(source, skipped, least=least, scale=spec.scale, cache=held, bad=bad)
        # Raises now, not in the middle of the first step, if nothing is usable.
        spec.make(reader, 0, np.random.default_rng(seed))
        readers.append(reader)
    # Crops are small, and spread over processes or threads already.
    cv2.setNumThreads(0)

    datasets = [_examples(reader, i, spec, seed) for i, reader in enumerate(readers)]
    weights = [weight for _, weight in mixture]
    endless = datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, weights)

    def batches(begin: int) -> grain.MapDataset:
        # `repeat` stands before: no remainder is dropped. Sliced after batching: the batches of all
        # shards side by side are those of a single host, so that a restart may change their number.
        rest = endless[begin:].batch(batch_size, drop_remainder=True)
        return rest[shard_index::shard_count]

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

    The state is the number of examples that were handed out on all hosts together, and the next
    batch begins with the example after them: so it fits any number of workers, threads and hosts,
    and any batch size.

    Args:
      batches: takes a number of examples, returns this host's batches of those that come after.
      batch_size: examples of a batch of all hosts together.
    """

    def __init__(
        self,
        batches: Callable[[int], grain.MapDataset],
        batch_size: int,
        lengths: Sequence[int],
        skipped: Skipped,
        workers: int,
        threads: int,
    ):
        super().__init__()
        self._batches, self._batch_size, self._lengths = batches, batch_size, list(lengths)
        self.skipped = skipped
        self._workers, self._threads = workers, threads
        self._examples = 0
        # None or one; a list, since the finalizer needs it and must not hold this iterator.
        self._running: list[grain.DatasetIterator] = []
        self._fresh = False

    @property
    def images(self) -> int:
        """Total number of images in all sources."""
        return sum(self._lengths)

    def __next__(self) -> dict[str, np.ndarray]:
        iterator = self._started()
        # Grain starts the workers when it is asked for the first batch.
        with _signals_blocked() if self._fresh else contextlib.nullcontext():
            batch = next(iterator)
        self._fresh = False
        self._examples += self._batch_size
        for reason in self.skipped.fresh():
            _log.warning("skipped: %s", reason)
        # Workers hand over uint8, a quarter of float32's bytes, in shared memory, which nothing
        # handed out may refer to.
        return {name: _own(values) for name, values in batch.items()}

    def _started(self) -> grain.DatasetIterator:
        if not self._running:
            self._running.append(self._start())
            self._fresh = self._workers > 0
            # A program may end without `close`; grain's own clean-up then comes too late.
            self._end = weakref.finalize(self, _end, self._running)
        return self._running[0]

    def _start(self) -> grain.DatasetIterator:
        rest = self._batches(self._examples)
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
        return {"examples": self._examples, "lengths": self._lengths}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called, also of an iterator of another batch size."""
        examples = int(state["examples"])
        if state["lengths"] != self._lengths:
            _log.warning(
                "the data has changed since the checkpoint: %s images then, %s now; "
                "the order of examples is another one",
                state["lengths"],
                self._lengths,
            )
        self.close()  # batches made ahead are those of the former position
        self._examples = examples

    def start_prefetch(self) -> None:
        """Starts to make batches ahead, without waiting for the first."""
        self._started().start_prefetch()

    def close(self) -> None:
        """Ends the worker processes; the next batch would start new ones."""
        if self._running:
            self._end()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks SIGINT and SIGTERM for processes that the block starts, and in it.

    A terminal's Ctrl-C and a scheduler's SIGTERM go to all processes of a job. Workers serve the
    trainer until it has saved, and end with it.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # else the first worker starts it, which unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(running: list[grain.DatasetIterator]) -> None:
    running.pop().close()


def _own(values: np.ndarray) -> np.ndarray:
    if values.dtype != np.uint8:
        return np.array(values)
    return np.divide(values, np.float32(255), dtype=np.float32)  # `samples.unit` in a single pass


def _one_thread(worker: int, count: int) -> None:
    # OpenCV's setting is one of its process; the trainer's does not reach the workers.
    cv2.setNumThreads(0)
