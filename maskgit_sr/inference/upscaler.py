"""Any image in, restored image out: fixed-shape tiles on the device, the rest on the host."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from maskgit_sr import images
from maskgit_sr.arrays import Params
from maskgit_sr.bundles import Metadata
from maskgit_sr.decoding.policies import CONFIDENCES, Policy
from maskgit_sr.errors import UserError
from maskgit_sr.images import Picture
from maskgit_sr.inference.mosaic import Mosaic, peak, quantize
from maskgit_sr.methods.base import Method, Restored, RestoreOptions
from maskgit_sr.ops.color import COLOR_FIXES

MAX_SCALE = 16.0
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A restored picture, confidence float32 [H, W] in [0, 1] at input size, and the tokens.

    ``tokens`` is int32 [tile rows, tile columns, h, w].
    """

    picture: Picture
    confidence: np.ndarray | None
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """What :meth:`Upscaler.__call__` returns; ``image`` is of the kind that was put in."""

    image: PIL.Image.Image | np.ndarray
    confidence: np.ndarray | None
    tokens: np.ndarray


class Upscaler:
    """A loaded model on one device.

    Device batches have one fixed shape, so one compilation serves every image and device memory
    does not grow with it; the host holds the input, the output and one band of tiles.

    Args:
        batch: tiles a device call; a shorter last batch is filled up.
    """

    def __init__(
        self, method: Method, params: Params, metadata: Metadata, *, batch: int, device: jax.Device
    ):
        if batch < 1:
            raise UserError(f"batch: expected at least 1, found {batch}")
        self.method, self.metadata, self.batch, self.device = method, metadata, batch, device
        self.params = jax.device_put(params, device)
        self._compiled: dict[RestoreOptions, Any] = {}

    def __call__(
        self,
        image: PIL.Image.Image | np.ndarray,
        *,
        scale: float = 4.0,
        steps: int | None = None,
        seed: int = 0,
        temperature: float = 0.0,
        color_fix: str = "adain",
        confidence: bool = True,
        **options: Any,
    ) -> Result:
        """Restores a PIL image of any mode or an array (uint8, uint16, float; 1 to 4 channels).

        Args:
            scale: output side over input side; the network makes ×4, then an antialiased resize.
            steps: decoding steps T; None: the model's own.
            seed: for temperatures above 0; the same seed gives the same image.
            temperature: 0 takes the most likely token.
            color_fix: ``adain``, ``wavelet`` or ``none``.
            confidence: also return the confidence map, at the price of one more critic call.
            **options: ``policy`` ("critic" or "generator"), ``control`` (False: without the
                controlling module), ``progress``.

        Raises:
            UserError: an array of another dtype or shape, or an option out of range.
        """
        picture = (
            images.from_array(image) if isinstance(image, np.ndarray) else images.from_pil(image)
        )
        restored = self.restore(
            picture,
            scale=scale,
            steps=steps,
            seed=seed,
            temperature=temperature,
            color_fix=color_fix,
            confidence=confidence,
            **options,
        )
        out = (
            images.to_array(restored.picture, image)
            if isinstance(image, np.ndarray)
            else images.to_pil(restored.picture)
        )
        return Result(out, restored.confidence, restored.tokens)

    def restore(
        self,
        picture: Picture,
        *,
        scale: float = 4.0,
        steps: int | None = None,
        seed: int = 0,
        temperature: float = 0.0,
        color_fix: str = "adain",
        confidence: bool = True,
        policy: str | None = None,
        control: bool = True,
        progress: Progress | None = None,
    ) -> Restoration:
        """As :meth:`__call__`, for a decoded picture; dtype, alpha, grey, ICC and EXIF are kept."""
        check_scale(scale)
        options = self.options(
            steps=steps,
            temperature=temperature,
            color_fix=color_fix,
            confidence=confidence,
            policy=policy,
            control=control,
        )
        mosaic = self.mosaic(picture, options)
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, mosaic.count)

        for _ in self.complete([mosaic], options, seed, tick):
            pass
        return Restoration(finish(picture, mosaic.color, scale), mosaic.confidence, mosaic.tokens)

    def options(
        self,
        *,
        steps: int | None = None,
        temperature: float = 0.0,
        color_fix: str = "adain",
        confidence: bool = True,
        policy: str | None = None,
        control: bool = True,
    ) -> RestoreOptions:
        """The static choices of :meth:`__call__`, checked; None: the model's own.

        Raises:
            UserError: one that is out of range.
        """
        if color_fix not in COLOR_FIXES:
            raise UserError(
                f"color_fix: expected one of {', '.join(COLOR_FIXES)}, found {color_fix!r}"
            )
        if policy is None:
            policy = "critic" if "critic" in self.params else "generator"
        if policy not in CONFIDENCES:
            raise UserError(f"policy: expected one of {', '.join(CONFIDENCES)}, found {policy!r}")
        config = self.metadata.config
        try:
            rule = Policy(
                config.get("steps", 4) if steps is None else steps,
                policy,
                config.get("schedule", "sqrt"),
                temperature,
                score=confidence,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        return RestoreOptions(rule, color_fix, control and "control" in self.params)

    def mosaic(self, picture: Picture, options: RestoreOptions) -> Mosaic:
        """The picture's tiles."""
        score = options.policy.score
        return Mosaic(picture.color, self.method.tile, self.method.scale, score=score)

    def run(
        self, lr: np.ndarray, indices: np.ndarray, bases: jax.Array, options: RestoreOptions
    ) -> Restored:
        """Starts the restoration of at most `batch` tiles; the results stay on the device.

        Args:
            lr: float32 [n, size, size, 3] in [0, 1]; fewer than `batch` are filled up by the last.
            indices: uint32 [n], of each tile in its own image.
            bases: [n] keys, the same for all tiles of an image; with its index they seed a tile.

        Returns:
            Arrays of `batch` tiles, of which the first n count.
        """
        take = np.minimum(np.arange(self.batch), len(lr) - 1)
        arguments = jax.device_put((lr[take], indices[take], bases[take]), self.device)
        return self._compile(options)(self.params, *arguments)

    def complete(
        self,
        mosaics: Iterable[Mosaic],
        options: RestoreOptions,
        seed: int = 0,
        tick: Callable[[int], None] | None = None,
    ) -> Iterator[Mosaic]:
        """The mosaics, in order, each as soon as all its tiles were added.

        A device call takes tiles of several mosaics, so that small images do not leave it half
        empty; it runs while the one before is put together.

        Args:
            tick: is told how many tiles a call had.
        """
        places = ((mosaic, index) for mosaic in mosaics for index in range(mosaic.count))
        bases = jnp.broadcast_to(jax.random.key(seed), (self.batch,))
        waiting: tuple[list[tuple[Mosaic, int]], Restored] | None = None
        while part := list(itertools.islice(places, self.batch)):
            lr = np.concatenate([mosaic.cut([index]) for mosaic, index in part])
            indices = np.array([index for _, index in part], np.uint32)
            started = self.run(lr, indices, bases, options)
            if waiting is not None:
                yield from _add(*waiting, tick)
            waiting = part, started
        if waiting is not None:
            yield from _add(*waiting, tick)

    def _compile(self, options: RestoreOptions) -> Any:
        """One compilation for each options; a tile's index in its image seeds its samples."""
        if options not in self._compiled:

            def run(
                params: Params, lr: jax.Array, indices: jax.Array, bases: jax.Array
            ) -> Restored:
                keys = jax.vmap(jax.random.fold_in)(bases, indices)
                return self.method.restore(params, lr, keys, options)

            self._compiled[options] = jax.jit(run)
        return self._compiled[options]


def check_scale(scale: float) -> None:
    """Raises UserError for a scale out of range."""
    if not 0 < scale <= MAX_SCALE:
        raise UserError(f"scale: expected above 0 and at most {MAX_SCALE:g}, found {scale:g}")


def _add(
    places: Sequence[tuple[Mosaic, int]], started: Restored, tick: Callable[[int], None] | None
) -> Iterator[Mosaic]:
    """Puts the tiles of a call where they belong; the mosaics that this completes."""
    restored = fetch(len(places), started)
    for (mosaic, index), tile in zip(places, zip_tiles(restored), strict=True):
        mosaic.add(*tile)
        if index + 1 == mosaic.count:
            yield mosaic
    if tick is not None:
        tick(len(places))


def fetch(count: int, restored: Restored) -> Restored:
    """The first `count` tiles on the host."""
    return jax.tree.map(lambda part: part[:count], jax.device_get(restored))


def zip_tiles(restored: Restored) -> Iterator[tuple[Any, Any, Any]]:
    """(image, confidence or None, tokens) of every tile."""
    none = [None] * len(restored.image)
    scores = none if restored.confidence is None else restored.confidence
    return zip(restored.image, scores, restored.tokens, strict=True)


def finish(picture: Picture, color: np.ndarray, scale: float) -> Picture:
    """`picture` with the network's output [4H, 4W, 3] for colour, at `scale`."""
    height, width = picture.color.shape[:2]
    out_height, out_width = (max(1, round(side * scale)) for side in (height, width))
    if (out_height, out_width) != color.shape[:2]:
        color = images.resize(color, out_height, out_width)
    alpha = picture.alpha
    if alpha is not None:
        alpha = images.resize(alpha, out_height, out_width)
    if picture.grey:  # the network's slight tints are not part of a grey picture
        luma = color.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        color = quantize(luma / peak(color.dtype), color.dtype)[..., None].repeat(3, -1)
    return dataclasses.replace(picture, color=color, alpha=alpha)
