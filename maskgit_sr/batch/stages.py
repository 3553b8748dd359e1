"""The pipeline of `launch.beam_upscale`: read → RunInference → write, and a list of failures.

An image stays in one piece. Its restored tiles overlap fourfold, so sending them through a
shuffle for reassembly would move 768 bytes of float32 for every input pixel, and no image could be
written before the last tile of the last one is restored: an engine ends one side of a grouping
before it begins the other. `Restorer` fills its device calls with tiles from several images
instead, which gives the same full batches, and every image is written when it is done.
"""

from __future__ import annotations

import json
import logging
import mimetypes
import operator
import secrets
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import ModelHandler, RunInference

from maskgit_sr import images
from maskgit_sr.batch.listing import Task, reason
from maskgit_sr.errors import UserError
from maskgit_sr.images import Picture
from maskgit_sr.inference import load
from maskgit_sr.inference.upscaler import Upscaler, finish
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
            if not settings.overwrite and FileSystems.exists(task.target):
                return
            picture = images.from_bytes(_get(task.source), limit=settings.max_pixels)
            images.check_kind(picture, _kind(task.target), scale=settings.scale)
        except UserError as error:
            yield beam.pvalue.TaggedOutput(_FAILED, _failure(task, str(error)))
            return
        for note in picture.notes:
            _LOGGER.info("%s: %s", task.source, note)
        height, width = picture.color.shape[:2]
        side = settings.tile.side(height, width)
        yield DecodedImage(task, picture, side, settings.tile.count(height, width, side))


class Restorer(ModelHandler):
    """`DecodedImage` → (task, restored image), with device batches filled from several images."""

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
    ) -> Iterable[tuple[Task, Picture]]:
        """Restores a batch; Beam sends an empty one ahead of an image that alone exceeds `pack`."""
        options = model.options(**self._settings.options, confidence=False)
        # a device call takes tiles of one side, so images of one side must follow each other
        batch = sorted(batch, key=operator.attrgetter("side"))
        mosaics = (model.mosaic(decoded.picture, options) for decoded in batch)
        whole = model.complete(mosaics, options, self._settings.seed)
        return [
            (decoded.task, finish(decoded.picture, mosaic.color, self._settings.scale))
            for decoded, mosaic in zip(batch, whole, strict=True)
        ]

    def get_num_bytes(self, batch: Sequence[DecodedImage]) -> int:
        """Returns the bytes of the samples; Beam's default pickles the batch to count them."""
        return sum(decoded.picture.color.nbytes for decoded in batch)

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of Beam's metrics on batch sizes and latencies."""
        return "maskgit_sr"


class Write(beam.DoFn):
    """Writes (task, restored image); yields nothing, or the failure."""

    def process(self, restored: tuple[Task, Picture]) -> Iterator[str]:
        task, picture = restored
        try:
            data, notes = images.to_bytes(picture, _kind(task.target))
            put(task.target, data)
        except UserError as error:
            yield _failure(task, str(error))
            return
        for note in notes:
            _LOGGER.info("%s: %s", task.target, note)


class Report(beam.DoFn):
    """Writes all failures to the report."""

    def __init__(self, path: str):
        self._path = path

    def process(self, failures: Sequence[str]) -> None:
        if failures:  # sorted, as they come in any order
            put(self._path, "".join(f"{line}\n" for line in sorted(failures)).encode())


def put(target: str, data: bytes) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    folder, name = FileSystems.split(target)
    # a name of its own for every attempt: an engine may run two at once
    part = FileSystems.join(folder, f".{name[:40]}.{secrets.token_hex(4)}.part")
    kind = mimetypes.guess_type(target)[0] or "application/octet-stream"
    try:
        try:
            with FileSystems.create(part, kind, CompressionTypes.UNCOMPRESSED) as file:
                file.write(data)
            FileSystems.rename([part], [target])
        except BaseException:  # an interrupt must not leave the part either
            if FileSystems.exists(part):
                FileSystems.delete([part])
            raise
    except Exception as error:  # every file system has exceptions of its own
        raise UserError(f"cannot be written ({reason(error)})") from error


def _get(source: str) -> bytes:
    try:
        # the default would decompress by the name's suffix
        with FileSystems.open(source, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            data: bytes = file.read()
            return data
    except Exception as error:  # as in `put`
        raise UserError(f"cannot be read ({reason(error)})") from error


def _kind(target: str) -> str:
    return images.WRITABLE[PurePosixPath(target).suffix.lower()]


def _failure(task: Task, why: str) -> str:
    return json.dumps({**task._asdict(), "reason": why}, ensure_ascii=False)
