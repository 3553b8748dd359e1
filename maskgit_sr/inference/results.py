"""What restoration takes and gives: images as files, PIL images or arrays, and results of them."""

from __future__ import annotations

import dataclasses
import os
from typing import TypeAlias

import numpy as np
import PIL.Image

from maskgit_sr import images, paths
from maskgit_sr.errors import UserError
from maskgit_sr.images import Picture
from maskgit_sr.images.picture import to_bytes
from maskgit_sr.images.samples import monochrome, peak
from maskgit_sr.inference.consistency import Consistency, enforce
from maskgit_sr.inference.mosaic import Mosaic, quantize

Given: TypeAlias = "str | os.PathLike[str] | PIL.Image.Image | np.ndarray"
"""An image: a file's path, a PIL image of any mode, or an array of one to four channels."""


@dataclasses.dataclass(frozen=True)
class Restoration:
    """Result of `Upscaler.restore`.

    Attributes:
        picture: the restored picture.
        confidence: float32 [H, W] in [0, 1] at input size, or None.
        tokens: int32 [window rows, window columns, h, w], or None.
        consistency: how near it comes to the input, or None if that was not asked for.
    """

    picture: Picture
    confidence: np.ndarray | None
    tokens: np.ndarray | None
    consistency: Consistency | None = None

    @classmethod
    def of(
        cls, picture: Picture, mosaic: Mosaic, scale: float, consistent: float | None
    ) -> Restoration:
        """Returns what a complete mosaic makes of ``picture``, at ``scale`` times its size."""
        finished = finish(picture, mosaic.color, scale)
        reached = None
        if consistent is not None:
            reached = enforce(picture, finished, consistent)
        return cls(finished, mosaic.confidence, mosaic.tokens, reached)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Result of `Upscaler.__call__`; notebooks show it as its picture.

    Attributes:
        image: the restored image: an array with the input's dtype and channels if that was an
            array, else a PIL image.
        confidence: float32 [H, W] in [0, 1] at input size, or None.
        tokens: int32 [window rows, window columns, h, w], or None.
        consistency: how near it comes to the input, or None if that was not asked for.
        picture: the same image as files keep it: all bits, transparency, profile and metadata.
    """

    image: PIL.Image.Image | np.ndarray
    confidence: np.ndarray | None
    tokens: np.ndarray | None
    consistency: Consistency | None
    picture: Picture

    @classmethod
    def of(cls, restored: Restoration, given: Given) -> Result:
        """Returns the result of ``restored``, with an image as ``given``, which it was made of."""
        picture = restored.picture
        image: PIL.Image.Image | np.ndarray
        if isinstance(given, np.ndarray):
            image = images.to_array(picture, given)
        else:
            image = images.to_pil(picture)
        more = restored.confidence, restored.tokens, restored.consistency
        return cls(image, *more, picture)

    def save(self, path: str | os.PathLike[str], *, quality: int = 95) -> None:
        """Writes the picture as PNG, JPEG, WebP, AVIF or TIFF, by the suffix; replaces a file.

        Args:
            quality: of JPEG, WebP and AVIF, 1 to 100.

        Raises:
            UserError: another suffix, transparency in a JPEG, a side longer than the format allows,
                or a file that cannot be written.
        """
        images.write(self.picture, path, quality=quality)

    def __eq__(self, other: object) -> bool:
        """Returns True for results of the same pixels, confidence and tokens."""
        if not isinstance(other, Result):
            return NotImplemented
        return all(
            np.array_equal(mine, theirs)
            if mine is not None and theirs is not None
            else mine is theirs
            for mine, theirs in zip(self._arrays(), other._arrays(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # equal by their pixels, which nobody hashes

    def _arrays(self) -> tuple[np.ndarray | None, ...]:
        return self.picture.color, self.picture.alpha, self.confidence, self.tokens

    def __repr__(self) -> str:
        height, width = self.picture.color.shape[:2]
        parts = [f"{width}×{height}", type(self.image).__name__]
        parts += [name for name in ("confidence", "tokens") if getattr(self, name) is not None]
        return f"Result({', '.join(parts)})"

    def _repr_png_(self) -> bytes:
        return to_bytes(self.picture, "PNG")[0]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Result of `Upscaler.samples`.

    Attributes:
        results: one for each seed.
        deviation: their standard deviation (`StandardDeviation.map`), float32 [H', W'] in grey
            levels of 255, at the size of the results.
    """

    results: list[Result]
    deviation: np.ndarray


def open_picture(given: Given) -> Picture:
    """Returns the picture of an image; a file is read.

    Raises:
        UserError: an address on a network, a file that cannot be read, or an array or a PIL image
            that is no picture.
    """
    if isinstance(given, np.ndarray):
        return images.from_array(given)
    if isinstance(given, PIL.Image.Image):
        return images.from_pil(given)
    if not isinstance(given, str | os.PathLike):
        kind = type(given).__name__
        raise UserError(f"image: expected a path, a PIL image or an array, found {kind}")
    paths.check_local(given)
    return images.read(given)


def finish(picture: Picture, color: np.ndarray, scale: float) -> Picture:
    """Returns `picture` at `scale` times its size, with `color`, the network's output."""
    height, width = picture.color.shape[:2]
    # A scale below 1 would leave nothing of a side of one pixel.
    out_height, out_width = (max(1, round(side * scale)) for side in (height, width))
    if (out_height, out_width) != color.shape[:2]:
        color = images.resize(color, out_height, out_width)
    alpha = picture.alpha
    if alpha is not None:
        alpha = images.resize(alpha, out_height, out_width)
    if monochrome(picture):  # the network's slight tints are not part of a grey image
        luma = color.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        color = quantize(luma / np.float32(peak(color.dtype)), color.dtype)[..., None].repeat(3, -1)
    return dataclasses.replace(picture, color=color, alpha=alpha)
