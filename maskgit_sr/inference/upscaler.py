"""Restoration of images of any size: fixed-shape windows on the device, the rest on the host."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import jax
import numpy as np

from maskgit_sr.arrays import Params
from maskgit_sr.bundles import Metadata
from maskgit_sr.errors import UserError
from maskgit_sr.images import Picture
from maskgit_sr.images.alpha import visible
from maskgit_sr.inference import consistency as consistencies
from maskgit_sr.inference.deviation import MAX_SAMPLES, StandardDeviation
from maskgit_sr.inference.mosaic import Mosaic
from maskgit_sr.inference.results import Given, Restoration, Result, Samples, open_picture
from maskgit_sr.methods.base import Method, Restored, RestoreOptions
from maskgit_sr.ops.noise import Windows

MAX_SCALE = 16.0
MAX_PROGRAMS = 16
"""Most option sets whose compiled programs an upscaler keeps; the least recently used go first."""
Progress = Callable[[int, int], None]


class Upscaler:
    """A loaded model on one device.

    Device batches have one fixed shape for each window side, so one compilation serves every image
    and device memory does not grow with it; the host holds the input, the output and one band of
    windows.

    Args:
        batch: windows a device call; a shorter last batch is padded.

    Raises:
        UserError: a batch below 1.
    """

    def __init__(
        self, method: Method, params: Params, metadata: Metadata, *, batch: int, device: jax.Device
    ):
        if batch < 1:
            raise UserError(f"batch: expected at least 1, found {batch}")
        self.method, self.metadata, self.batch, self.device = method, metadata, batch, device
        self.params = jax.device_put(params, device)
        # Options are static under jit, so that each choice of them is a program to be kept.
        self._compile = functools.lru_cache(MAX_PROGRAMS)(self._jit)

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return (
            f"Upscaler({self.method.name} ×{self.method.scale}, {count:,} parameters, "
            f"{self.device}, batch {self.batch})"
        )

    @overload
    def __call__(self, image: Given, **given: Any) -> Result: ...
    @overload
    def __call__(self, image: list[Given] | tuple[Given, ...], **given: Any) -> list[Result]: ...
    def __call__(
        self,
        image: Given | list[Given] | tuple[Given, ...],
        *,
        scale: float | None = None,
        seed: int = 0,
        confidence: bool | None = None,
        consistent: float | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Result | list[Result]:
        """Restores an image: a file's path, a PIL image of any mode, or an array.

        Arrays are uint8, uint16 or float, of one to four channels. Of a list, a list is returned
        (:meth:`stream`).

        Args:
            scale: output side over input side, at most 16; None: the method's own, at which the
                network works. Any other is an antialiased resize of its output.
            seed: seed of all random draws; the same seed gives the same image.
            confidence: True to return the confidence map; None: if the method provides one.
            consistent: grey levels of 255 within which the result, reduced to the input's size,
                returns every sample of the input (`inference.consistency`); None: it need not.
            progress: called with (windows done, windows in all).
            **options: the method's own (`Method.options`), such as ``steps`` and ``temperature``
                of RealSRT; None stands for the default.

        Raises:
            UserError: a file that cannot be read, an array of another dtype or shape, an option
                that the method lacks, or one out of range.
        """
        more: Any = {"confidence": confidence, "consistent": consistent, "progress": progress}
        if isinstance(image, list | tuple):
            return list(self.stream(image, scale=scale, seed=seed, **more, **options))
        restored = self.restore(open_picture(image), scale=scale, seed=seed, **more, **options)
        return Result.of(restored, image)

    def stream(
        self,
        images: Iterable[Given],
        *,
        seed: int = 0,
        progress: Progress | None = None,
        **given: Any,
    ) -> Iterator[Result]:
        """Yields a result for each image, in order, each as soon as it is done.

        Images are read when their turn comes, and a device call takes windows of several of them.
        Each result is, bit for bit, that of a call of its own with the same seed.

        Args:
            progress: called with (images done, windows done).
            **given: as of :meth:`__call__`.

        Raises:
            UserError: as :meth:`__call__`; of an image that cannot be read, once all before it were
                yielded.
        """
        return self._stream(images, seed, progress, *self._chosen(**given))

    def _stream(
        self,
        images: Iterable[Given],
        seed: int,
        progress: Progress | None,
        chosen: RestoreOptions,
        scale: float,
        consistent: float | None,
    ) -> Iterator[Result]:
        waiting: collections.deque[tuple[Given, Picture]] = collections.deque()
        failures: list[UserError] = []
        done, windows = 0, 0

        def mosaics() -> Iterator[Mosaic]:
            for image in images:
                try:
                    picture = open_picture(image)
                    if consistent is not None:
                        consistencies.check(consistent, picture.color.dtype, scale)
                except UserError as error:
                    # Raised at the end, as windows of the images before may not be done yet.
                    failures.append(error)
                    return
                waiting.append((image, picture))
                yield self.mosaic(picture, chosen)

        def tick(count: int) -> None:
            nonlocal windows
            windows += count
            if progress is not None:
                progress(done, windows)

        for mosaic in self.complete(mosaics(), chosen, seed, tick):
            image, picture = waiting.popleft()
            done += 1
            yield Result.of(Restoration.of(picture, mosaic, scale, consistent), image)
        if failures:
            raise failures[0]

    def samples(
        self,
        image: Given,
        count: int,
        *,
        seed: int = 0,
        **given: Any,
    ) -> Samples:
        """Restores an image ``count`` times, by the seeds ``seed``, ``seed`` + 1 and so on.

        Each result is, bit for bit, that of a call with its seed.

        Args:
            **given: as of :meth:`__call__`; ``progress`` counts the windows of all results.

        Raises:
            UserError: as :meth:`draws`.
        """
        results, spread = [], StandardDeviation()
        for restored in self.draws(open_picture(image), count, seed=seed, **given):
            results.append(Result.of(restored, image))
            spread.add(restored.picture.color)
        return Samples(results, spread.map())

    def restore(
        self,
        picture: Picture,
        *,
        seed: int = 0,
        **given: Any,
    ) -> Restoration:
        """Restores a decoded picture as :meth:`__call__`; keeps dtype, alpha, grey, ICC, EXIF."""
        [restored] = self._restorations(picture, [seed], **given)
        return restored

    def draws(
        self, picture: Picture, count: int, *, seed: int = 0, **given: Any
    ) -> Iterator[Restoration]:
        """Yields the restorations of :meth:`samples`, each when it is done, of a decoded picture.

        Raises:
            UserError: as :meth:`__call__`, a count outside 2 … `MAX_SAMPLES`, or options at which
                all results would be equal.
        """
        if not 2 <= count <= MAX_SAMPLES:
            raise UserError(f"samples: expected 2 to {MAX_SAMPLES}, found {count}")
        return self._restorations(picture, range(seed, seed + count), **given)

    def check_stochastic(self, options: RestoreOptions) -> None:
        """Raises UserError for options at which every seed gives the same image."""
        if not options.stochastic:
            values = dataclasses.asdict(options).items()
            numbers = ", ".join(f"{k} {v:g}" for k, v in values if type(v) in (int, float))
            raise UserError(
                f"samples: {self.method.name} draws nothing at random"
                f"{f' at {numbers}' if numbers else ''}: all would be equal"
            )

    def _restorations(
        self,
        picture: Picture,
        seeds: Sequence[int],
        *,
        progress: Progress | None = None,
        **given: Any,
    ) -> Iterator[Restoration]:
        """Returns a restoration for each seed, in order; what is given is checked at once."""
        chosen, scale, consistent = self._chosen(**given)
        if consistent is not None:
            consistencies.check(consistent, picture.color.dtype, scale)
        if len(seeds) > 1:
            self.check_stochastic(chosen)
        height, width = picture.color.shape[:2]
        tile = self.method.tile
        windows = tile.count(height, width, tile.side(height, width))
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, len(seeds) * windows)

        # Made when their turn comes, as each holds an output.
        mosaics = (self.mosaic(picture, chosen) for _ in seeds)
        done_ones = self.complete(mosaics, chosen, seeds, tick)
        return (Restoration.of(picture, mosaic, scale, consistent) for mosaic in done_ones)

    def _chosen(
        self,
        *,
        scale: float | None = None,
        confidence: bool | None = None,
        consistent: float | None = None,
        **options: Any,
    ) -> tuple[RestoreOptions, float, float | None]:
        """Returns (options, scale, bound of `consistent`), the first two checked."""
        return self.options(confidence=confidence, **options), self.scale(scale), consistent

    def scale(self, asked: float | None) -> float:
        """Returns ``asked``, or the method's own scale for None.

        Raises:
            UserError: a scale out of range.
        """
        if asked is None:
            return float(self.method.scale)
        if not 0 < asked <= MAX_SCALE:  # false for NaN too
            raise UserError(f"scale: expected above 0 and at most {MAX_SCALE:g}, found {asked:g}")
        return asked

    def options(self, /, *, confidence: bool | None = None, **given: Any) -> RestoreOptions:
        """Returns the checked options of :meth:`__call__`.

        Raises:
            UserError: an option that the method lacks, or one out of range.
        """
        if confidence is None:
            confidence = "confidence" in self.method.provides
        try:
            return self.method.options(confidence=confidence, **given)
        except ValueError as error:
            raise UserError(str(error)) from None

    def mosaic(self, picture: Picture, options: RestoreOptions) -> Mosaic:
        """Returns the picture's windows."""
        method = self.method
        return Mosaic(visible(picture), method.tile, method.scale, confidence=options.confidence)

    def run(
        self, lr: np.ndarray, places: np.ndarray, seeds: np.ndarray, options: RestoreOptions
    ) -> Restored:
        """Starts the restoration of at most `batch` windows; the results stay on the device.

        Args:
            lr: float32 [n, side, side, 3] in [0, 1]; padded to `batch` by the last window.
            places: int32 [n, 3], where each window lies in its own image; see `Mosaic.places`.
            seeds: uint32 [n], the same for all windows of an image; what a method draws is a
                function of its seed and the window's place.

        Returns:
            Arrays of `batch` windows, of which the first n are valid.
        """
        # Padded, since another batch size would compile another program.
        take = np.minimum(np.arange(self.batch), len(lr) - 1)
        static, traced = options.split()
        arguments = jax.device_put((lr[take], places[take], seeds[take], traced), self.device)
        return self._compile(static)(self.params, *arguments)

    def compile(self, side: int, options: RestoreOptions) -> None:
        """Compiles the program for windows of ``side``, unless it is; a restoration does so too."""
        static, traced = options.split()
        shapes = (self.batch, side, side, 3), (self.batch, 3), (self.batch,)
        kinds = np.float32, np.int32, np.uint32
        empty = (np.zeros(shape, kind) for shape, kind in zip(shapes, kinds, strict=True))
        arguments = jax.device_put((*empty, traced), self.device)
        self._compile(static).lower(self.params, *arguments).compile()

    def complete(
        self,
        mosaics: Iterable[Mosaic],
        options: RestoreOptions,
        seed: int | Iterable[int] = 0,
        tick: Callable[[int], None] | None = None,
    ) -> Iterator[Mosaic]:
        """Yields the mosaics in order, each as soon as all its windows were added.

        A device call takes windows of several mosaics of the same side, so that small images do not
        leave it half empty. It runs while the host blends the windows of the call before.

        Args:
            seed: of all mosaics, or one for each.
            tick: called with the number of windows of each device call.
        """
        seeds = itertools.repeat(seed) if isinstance(seed, int) else seed
        # The mosaics decide where it ends: there may be more seeds.
        drawn = zip(mosaics, seeds, strict=False)
        order = ((mosaic, index, own) for mosaic, own in drawn for index in range(mosaic.count))
        waiting: tuple[list[tuple[Mosaic, int, int]], Restored] | None = None
        # By side: a program takes windows of one side.
        for _, alike in itertools.groupby(order, key=lambda place: place[0].side):
            while part := list(itertools.islice(alike, self.batch)):
                lr = np.concatenate([mosaic.cut([index]) for mosaic, index, _ in part])
                places = np.concatenate([mosaic.places([index]) for mosaic, index, _ in part])
                # The low 32 bits are all that JAX's keys take of an integer.
                keys = np.array([own & 0xFFFFFFFF for _, _, own in part], np.uint32)
                started = self.run(lr, places, keys, options)
                # Only once the next call is started, so that host and device work at the same time.
                if waiting is not None:
                    yield from _add(*waiting, tick)
                waiting = part, started
        if waiting is not None:
            yield from _add(*waiting, tick)

    def _jit(self, options: RestoreOptions) -> Any:
        """Returns the jitted restoration with ``options``, whose traced fields are arguments."""

        def run(
            params: Params, lr: jax.Array, places: jax.Array, seeds: jax.Array, traced: Any
        ) -> Restored:
            # By the place in the image, so that a window's place in a batch changes nothing. Made
            # here, because outside each step of it would be a program to compile.
            windows = Windows.of(jax.vmap(jax.random.key)(seeds), places)
            return self.method.restore_windows(params, lr, windows, options.bind(traced))

        return jax.jit(run)


def _add(
    places: Sequence[tuple[Mosaic, int, int]], started: Restored, tick: Callable[[int], None] | None
) -> Iterator[Mosaic]:
    """Adds the windows of a device call to their mosaics; yields those that are then complete."""
    restored = fetch(len(places), started)
    for (mosaic, index, _), window in zip(places, each(restored), strict=True):
        mosaic.add(*window)
        if index + 1 == mosaic.count:
            yield mosaic
    if tick is not None:
        tick(len(places))


def fetch(count: int, restored: Restored) -> Restored:
    """Waits for a device call and returns its first `count` windows as NumPy arrays."""
    return jax.tree.map(lambda part: part[:count], jax.device_get(restored))


def each(restored: Restored) -> Iterator[tuple[Any, ...]]:
    """Yields (image, confidence, tokens) of every window, None for those that are absent."""
    none = [None] * len(restored.image)
    return zip(*(none if part is None else part for part in restored), strict=True)
