"""The pipeline of `maskgit-sr batch`: read → RunInference → write, and a list of failures.

An image stays in one piece. Its restored tiles overlap fourfold, so sending them through a
shuffle for reassembly would move 768 bytes of float32 for every input pixel, and no image could be
written before the last tile of the last one is restored: an engine ends one side of a grouping
before it begins the other. `Restorer` fills its device calls with tiles from several images
instead, which gives the same full batches, and every image is written when it is done.
"""

from __future__ import annotations

import json
import logging
import operator
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, RunInference

from maskgit_sr import images
from maskgit_sr.batch import storage
from maskgit_sr.batch.listing import Task
from maskgit_sr.errors import cause, printable
from maskgit_sr.images import Picture
from maskgit_sr.inference import consistency, load
from maskgit_sr.inference.results import finish
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.base import TileSpec

_LOGGER = logging.getLogger(__name__)
_FAILED = "failed"
_CHUNK = 1000  # tasks, packed as one element: engines limit the size of a submitted pipeline


@dataclass(frozen=True)
class Settings:
    """Settings that every worker receives.

    Attributes:
        model: name of a shipped bundle, or an address that workers can open.
        tile: the model's, to count an image's tiles before the model is loaded.
        pack: tiles of several images that are restored together; a larger image goes alone.
        options: of `Upscaler.options`.
        max_pixels: of one input.
        consistent: grey levels to which an output, reduced, returns its input; None: any.
    """

    model: str
    tile: TileSpec
    pack: int
    batch: int | None
    device: str | None
    dtype: str | None
    scale: float
    seed: int
    options: dict[str, Any]
    max_pixels: int
    overwrite: bool
    consistent: float | None = None


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image; the number of its `tiles`, all of one `side`, is its weight in a batch."""

    task: Task
    picture: Picture
    side: int
    tiles: int


def build(pipeline: beam.Pipeline, tasks: Sequence[Task], settings: Settings, report: str) -> None:
    """Adds all steps; `report` gets a line of JSON for each failure, and is absent without any."""
    chunks = [
        zlib.compress(json.dumps(tasks[begin : begin + _CHUNK]).encode())
        for begin in range(0, len(tasks), _CHUNK)
    ]
    decoded, unread = (
        pipeline
        | "tasks" >> beam.Create(chunks, reshuffle=False)
        | "unpack" >> beam.FlatMap(_unpack)
        # or an engine would fuse the steps, and one worker would read all images of a chunk
        | "spread" >> beam.Reshuffle()
        | "read" >> beam.ParDo(Read(settings)).with_outputs(_FAILED, main="decoded")
    )
    unwritten = (
        decoded | "restore" >> RunInference(Restorer(settings)) | "write" >> beam.ParDo(Write())
    )
    _ = (
        (unread, unwritten)
        | "failures" >> beam.Flatten()
        # one list, so that one worker writes one file
        | "gather" >> beam.combiners.ToList()
        | "report" >> beam.ParDo(Report(report))
    )


def _unpack(chunk: bytes) -> Iterator[Task]:
    for source, target in json.loads(zlib.decompress(chunk)):
        yield Task(source, target)


class Read(beam.DoFn):
    """`Task` → `DecodedImage`; failures go to an output of their own."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(self, task: Task) -> Iterator[Any]:
        """Yields nothing if an earlier attempt at the same bundle of elements has written it."""
        settings = self._settings
        try:
            storage.check_name(task.target)
            if not settings.overwrite and storage.exists(task.target):
                return
            picture = images.from_bytes(storage.read(task.source), limit=settings.max_pixels)
            images.check_kind(picture, _kind(task.target), scale=settings.scale)
            if settings.consistent is not None:
                consistency.check(settings.consistent, picture.color.dtype, settings.scale)
        except Exception as error:  # of one image, memory included: the others go on
            yield beam.pvalue.TaggedOutput(_FAILED, _failure(task, cause(error)))
            return
        _tell(task.source, picture.notes)
        height, width = picture.color.shape[:2]
        side = settings.tile.side(height, width)
        yield DecodedImage(task, picture, side, settings.tile.count(height, width, side))


class Restorer(ModelHandler):
    """`DecodedImage` → (task, restored image), with device batches filled from several images.

    An image that cannot be restored gives (task, reason).
    """

    def __init__(self, settings: Settings):
        # minimum = maximum, or Beam would look for the best batch size by trial
        super().__init__(
            min_batch_size=settings.pack,
            max_batch_size=settings.pack,
            element_size_fn=operator.attrgetter("tiles"),
        )
        self._settings = settings

    def load_model(self) -> Upscaler:
        """Loads the model once per process; the threads share it."""
        settings = self._settings
        return load.load(
            settings.model, batch=settings.batch, device=settings.device, dtype=settings.dtype
        )

    def run_inference(
        self,
        batch: Sequence[DecodedImage],
        model: Upscaler,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[tuple[Task, Picture | str]]:
        """Restores a batch; Beam sends an empty one ahead of an image that alone exceeds `pack`."""
        try:
            return self._restored(batch, model)
        except Exception as error:  # of one image, memory included: the others go on
            if len(batch) == 1:
                return [(batch[0].task, cause(error))]
        return [found for one in batch for found in self.run_inference([one], model)]

    def _restored(
        self, batch: Sequence[DecodedImage], model: Upscaler
    ) -> list[tuple[Task, Picture | str]]:
        options = model.options(**self._settings.options, confidence=False)
        # a device call takes tiles of one side, so images of one side must follow each other
        batch = sorted(batch, key=operator.attrgetter("side"))
        mosaics = (model.mosaic(decoded.picture, options) for decoded in batch)
        whole = model.complete(mosaics, options, self._settings.seed)
        return [
            (decoded.task, self._finished(decoded, mosaic.color))
            for decoded, mosaic in zip(batch, whole, strict=True)
        ]

    def _finished(self, decoded: DecodedImage, color: np.ndarray) -> Picture:
        restored = finish(decoded.picture, color, self._settings.scale)
        if (bound := self._settings.consistent) is not None:
            reached = consistency.enforce(decoded.picture, restored, bound)
            _tell(decoded.task.source, reached.notes)
        return restored

    def get_num_bytes(self, batch: Sequence[DecodedImage]) -> int:
        """Returns the bytes of the samples; Beam's default pickles the batch to count them."""
        return sum(decoded.picture.color.nbytes for decoded in batch)

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of Beam's metrics on batch sizes and latencies."""
        return "maskgit_sr"


class Write(beam.DoFn):
    """Writes (task, restored image); yields nothing, or the failure of any step since `Read`."""

    def process(self, restored: tuple[Task, Picture | str]) -> Iterator[bytes]:
        task, picture = restored
        if isinstance(picture, str):
            yield _failure(task, picture)
            return
        try:
            data, notes = images.to_bytes(picture, _kind(task.target))
            storage.write(task.target, data)
        except Exception as error:  # as in `Read`
            yield _failure(task, cause(error))
            return
        _tell(task.target, notes)


class Report(beam.DoFn):
    """Writes all failures to the report."""

    def __init__(self, path: str):
        self._path = path

    def process(self, failures: Sequence[bytes]) -> None:
        if failures:  # sorted, as they come in any order
            storage.write(self._path, b"".join(line + b"\n" for line in sorted(failures)))


def _tell(address: str, notes: Iterable[str]) -> None:
    for note in notes:  # printable, as workers send their logs as UTF-8
        _LOGGER.info("%s: %s", printable(address), note)


def _kind(target: str) -> str:
    return images.WRITABLE[PurePosixPath(target).suffix.lower()]


def _failure(task: Task, why: str) -> bytes:
    # Bytes, as Beam's strings are UTF-8, which some names are not; those get JSON's own escapes.
    text = json.dumps({**task._asdict(), "reason": why}, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")
