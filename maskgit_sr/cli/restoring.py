"""The work of `maskgit-sr upscale`: images restored and written, and what is told meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from maskgit_sr.cli.messages import only_our_lines, progress, say
from maskgit_sr.errors import UserError, failure, line, out_of_memory, printable

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress

    from maskgit_sr.images import Picture
    from maskgit_sr.images.files import Job
    from maskgit_sr.inference.results import Restoration
    from maskgit_sr.inference.upscaler import Upscaler

_ANNOUNCED = 1_000_000  # pixels of a single image from which it is announced
_LOOKED_AT = 200  # files whose size is read before the start, of many every so many-th
_SOON = 1.0  # seconds without a word until a compilation is told
_MEASURED = 2.0  # seconds of work from which the rest is estimated
_SHORT = 10.0  # seconds that need no estimate


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked for besides the images.

    Attributes:
        options: arguments of `Upscaler.restore`.
        samples: results of each image, or 0 for the image itself.
        quality: of lossy outputs; None: that of `images.write`.
        skip_existing: True to leave outputs that exist.
        verbose: True to tell sizes and times of every image.
    """

    options: dict[str, Any]
    samples: int = 0
    quality: int | None = None
    skip_existing: bool = False
    verbose: bool = False


def restore_all(upscaler: Upscaler, jobs: Sequence[Job], wanted: Wanted) -> tuple[int, int]:
    """Restores the images of the jobs, whatever becomes of the others.

    Returns:
        (images restored, images that failed).

    Raises:
        UserError: the only image failed.
    """
    restored = failed = 0
    with progress() as bars:
        work = _Work(upscaler, jobs, wanted, bars)
        for number, job in enumerate(jobs):
            work.begin(number, job)
            try:
                work.restore(job)
            except Exception as error:  # whatever it is, the other images can do without it
                told = failure(error, f"{job.source}")
                if len(jobs) == 1:  # a defect keeps its traceback
                    raise UserError(told) if out_of_memory(error) else error from None
                # a mistake names its file, which may be the output
                say(line(error) if isinstance(error, UserError) else told)
                failed += 1
            else:
                restored += 1
                if len(jobs) > 1:
                    tell_outputs(job, wanted.samples)
            work.end()
    if len(jobs) == 1:  # below the bar, which is gone now
        tell_outputs(jobs[0], wanted.samples, terminal=True)
    return restored, failed


def tell_outputs(job: Job, samples: int, *, terminal: bool = False) -> None:
    """Prints the paths of a job's outputs, a line each, for what reads them in a pipe.

    Args:
        terminal: True to print them on a terminal as well.
    """
    from maskgit_sr.images import files

    if terminal or not sys.stdout.isatty():
        for path in files.outputs(job.target, samples):
            typer.echo(f"{path}")


class _Work:
    """Restores one image after the other, and tells how far it is."""

    def __init__(self, upscaler: Upscaler, jobs: Sequence[Job], wanted: Wanted, bars: Progress):
        self._upscaler, self._wanted, self._bars = upscaler, wanted, bars
        self._bar = bars.add_task("", total=len(jobs), speed="")
        self._number, self._sides = 0, set[int]()  # those of compiled programs
        self._all, self._done = _pixels([job.source for job in jobs]), 0
        self._sampled = len(jobs) > _LOOKED_AT
        if len(jobs) > 1 or self._all >= _ANNOUNCED:
            count = f"{len(jobs):,} image{'s' if len(jobs) > 1 else ''}"
            say(f"{count}, {self._size()}, on {upscaler.device.platform}")
        self._started, self._estimated = time.monotonic(), False

    def _size(self) -> str:
        millions = self._all / 1e6
        exact = f"{millions:,.1f}" if millions >= 0.1 else "less than 0.1"
        return f"{'about ' if self._sampled else ''}{exact} megapixels"

    def begin(self, number: int, job: Job) -> None:
        self._number = number
        name = printable(job.source.name)[:30]
        self._bars.update(self._bar, description=name, completed=number)

    def end(self) -> None:
        self._bars.update(self._bar, completed=self._number + 1)

    def restore(self, job: Job) -> None:
        """Writes the outputs of an image, but none that exists where these are skipped."""
        from maskgit_sr import images, paths
        from maskgit_sr.images import colormaps, files
        from maskgit_sr.inference.deviation import StandardDeviation

        began, samples = time.monotonic(), self._wanted.samples
        with only_our_lines():
            picture = images.read(job.source)
        for note in picture.notes:
            say(f"{job.source}: {note}")
        # before the restoration, which may take minutes
        options = self._wanted.options
        images.check_target(picture, job.target, scale=self._upscaler.scale(options["scale"]))
        targets = files.outputs(job.target, samples)
        restored = targets[:samples] or targets
        maps = [files.confidence_path(path) for path in restored] if options["confidence"] else []
        for target in (*targets, *maps):
            with paths.naming(target), contextlib.suppress(FileNotFoundError):
                # fails for a name that is too long, or a file in place of a folder
                os.lstat(target)
        # some of the samples alone give no map, so that all are made again
        leave = samples and self._wanted.skip_existing
        kept = {path for path in targets if leave and os.path.lexists(path)}
        read = time.monotonic()
        self._compile(picture)
        compiled, writing = time.monotonic(), 0.0
        spread = StandardDeviation()
        for path, restoration in zip(restored, self._draws(job, picture), strict=True):
            if samples:
                spread.add(restoration.picture.color)
            if path not in kept:
                start = time.monotonic()
                self._write(restoration, path)
                writing += time.monotonic() - start
        if samples and targets[-1] not in kept:
            images.write(images.from_array(colormaps.deviation(spread.map())), targets[-1])
        done = time.monotonic()
        self._done += picture.color[..., 0].size
        if self._wanted.verbose:
            height, width = picture.color.shape[:2]
            say(
                f"{job.source}: {width}x{height}, {self._windows(picture)} windows, read "
                f"{read - began:.2f} s, restored {done - compiled - writing:.2f} s, "
                f"written {writing:.2f} s"
            )

    def _windows(self, picture: Picture) -> str:
        tile, (height, width) = self._upscaler.method.tile, picture.color.shape[:2]
        side = tile.side(height, width)
        return f"{tile.count(height, width, side)} {side}x{side}"

    def _compile(self, picture: Picture) -> None:
        """Compiles the program of an image's windows ahead, and tells it if it takes long."""
        upscaler, given = self._upscaler, self._wanted.options
        height, width = picture.color.shape[:2]
        side = upscaler.method.tile.side(height, width)
        if side in self._sides:
            return
        self._sides.add(side)
        own = {k: v for k, v in given.items() if k not in ("scale", "seed", "consistent")}
        told = threading.Timer(_SOON, say, [f"compiling for windows of {side}x{side}"])
        told.daemon = True
        told.start()
        began = time.monotonic()
        try:
            upscaler.compile(side, upscaler.options(**own))
        finally:
            told.cancel()
        seconds = time.monotonic() - began
        self._started += seconds  # no measure of the images to come
        if self._wanted.verbose:
            say(f"compiled for windows of {side}x{side} in {seconds:.1f} s")

    def _draws(self, job: Job, picture: Picture) -> Iterator[Restoration]:
        """Yields the restorations of an image; a mistake is told with its name."""
        given = {"progress": self._meter(picture), **self._wanted.options}
        try:
            if self._wanted.samples:
                yield from self._upscaler.draws(picture, self._wanted.samples, **given)
            else:
                yield self._upscaler.restore(picture, **given)
        except UserError as error:
            raise UserError(f"{job.source}: {error}") from None

    def _write(self, restoration: Restoration, path: Path) -> None:
        """Writes a result and its confidence map, and tells what is to be told of it."""
        from maskgit_sr import images
        from maskgit_sr.images import files

        reached = restoration.consistency
        quality = self._wanted.quality
        more: Any = {} if quality is None else {"quality": quality}
        notes = images.write(restoration.picture, path, **more)
        for note in (*notes, *(reached.notes if reached else ())):
            say(f"{path}: {note}")
        if restoration.confidence is not None:
            height, width = restoration.picture.color.shape[:2]
            grey = images.from_confidence(restoration.confidence, height, width)
            images.write(grey, files.confidence_path(path))

    def _meter(self, picture: Picture) -> Callable[[int, int], None]:
        """Returns the progress callback of an image, which counts by its share of windows."""
        begin, number, pixels = time.monotonic(), self._number, picture.color[..., 0].size

        def windows(done: int, total: int) -> None:
            now, share = time.monotonic(), done / max(total, 1)
            # short of one, as the image is still to be written
            completed = number + min(share, 0.99)
            speed = f"{done / max(now - begin, 1e-3):.1f} windows/s"
            self._bars.update(self._bar, completed=completed, speed=speed)
            self._estimate(now - self._started, self._done + share * pixels)

        return windows

    def _estimate(self, seconds: float, done: float) -> None:
        """Tells once how long all takes, as soon as some of it was done."""
        if self._estimated or seconds < _MEASURED or not done:
            return
        self._estimated = True
        rest = seconds * (self._all / done - 1)
        if rest > _SHORT:
            say(f"about {duration(rest)} to go")


def duration(seconds: float) -> str:
    """Returns a length of time in the largest unit of which it has two: 40 s, 3 min, 5 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds)} s"


def _pixels(sources: Sequence[Path]) -> float:
    """Returns the number of pixels of all images: that of some of many, times all over some."""
    from maskgit_sr.images.decode import declared_pixels

    looked_at = sources[:: math.ceil(len(sources) / _LOOKED_AT)]
    found = 0
    for source in looked_at:
        # what cannot be read is told when its turn comes
        with contextlib.suppress(Exception), only_our_lines():
            found += declared_pixels(source)
    return found * len(sources) / len(looked_at)
