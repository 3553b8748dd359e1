"""Decoding of image files and Pillow images to samples and metadata.

Pillow knows the formats; OpenCV reads the 16-bit colour files that Pillow would round to 8 bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from maskgit_sr.errors import UserError
from maskgit_sr.images import bounds, metadata, netpbm, png
from maskgit_sr.images.alpha import visible
from maskgit_sr.images.bounds import MAX_PIXELS, TooManyPixels, check_size
from maskgit_sr.images.samples import Picture, cast, from_samples

RGB8_PIXELS = 178_956_970  # photographs for training may be larger; Pillow itself refuses more

_KINDS = "PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, AVIF, HEIC, JPEG 2000, ICO or TGA"
_PHOTOMETRIC, _BITS, _EXTRA_SAMPLES = 262, 258, 338


@contextlib.contextmanager
def about(name: str | os.PathLike[str]) -> Iterator[None]:
    """Prefixes the message of a UserError raised in the block with the file's name."""
    try:
        yield
    except UserError as error:
        # Of the same type: the server tells TooManyPixels from other mistakes.
        raise type(error)(f"{os.fspath(name)}: {error}") from error.__cause__


def read(path: str | os.PathLike[str]) -> Picture:
    """Decodes an image file; its content decides the format, not its suffix.

    PNG, TIFF and PNM keep 16 bits. Of an animation or a TIFF of several pages the first is taken,
    with a note. Palettes, CMYK, LAB and so on become RGB; a profile of a colour space that was left
    is applied, and not kept.

    Raises:
      UserError: missing, empty, unreadable, of an unknown format, truncated or damaged, of more
        than `MAX_PIXELS` pixels, or more work than its pixels; the last two are found out before
        anything is decoded.
    """
    data = bounds.file_bytes(Path(path))
    with about(path):
        return from_bytes(data)


def from_bytes(data: bytes, *, limit: int = MAX_PIXELS) -> Picture:
    """Decodes the bytes of an image file as `read` does.

    Raises:
      TooManyPixels: more than `limit` pixels by its header; nothing was decoded.
      UserError: any other of `read`'s; the messages name no file.
    """
    return _decoded(data, min(limit, MAX_PIXELS))


def _decoded(data: bytes, limit: int) -> Picture:
    if not data:
        raise UserError("expected a picture, found an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large and damaged files, which are judged here
            bounds.check_work(data)
            if found := png.size(data):
                check_size(*found, limit)
                return _from_png(png.parse(data))
            if netpbm.deep(data):
                return from_samples(netpbm.read(data, limit))
            image = _open(data)
            check_size(*image.size, limit)  # before `load`: a small file may declare any size
            if image.format == "ICO":
                _check_icon(image, data, limit)
            notes = _frame_note(image)
            samples, more = _deep(image, data)
            notes += more
            if samples is None:
                image.load()
                check_size(*image.size, limit)  # some formats tell only now
            return _upright(image, samples, notes)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"more than the limit of {limit:,} pixels") from error
    except MemoryError:  # says nothing of the file
        raise
    # Decoders meet a damaged file with whatever exception they stumbled over.
    except Exception as error:
        if data.startswith(b"\xff\xd8") and (reason := bounds.unsupported(data)):
            raise UserError(reason) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        what = "not supported" if "upported" in reason else "damaged or truncated picture"
        raise UserError(f"{what} ({reason})") from error


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=bounds.formats())
    except UnidentifiedImageError as error:
        reason = bounds.unsupported(data) or f"not a picture that can be decoded ({_KINDS})"
        raise UserError(reason) from error


def rgb8(data: bytes, name: str, limit: int = RGB8_PIXELS) -> np.ndarray:
    """Decodes the bytes of the file `name` for training, otherwise as `from_bytes` does.

    Returns:
      uint8 [H, W, 3] RGB: without alpha, deeper samples rounded to 8 bits. The colour profile of
      an RGB or grey image is not applied.

    Raises:
      UserError: see `read`; more than `limit` pixels, or more than memory holds.
    """
    try:
        with about(name):
            return cast(visible(_decoded(data, limit)), np.uint8)
    except MemoryError as error:  # training goes on with the next file
        raise UserError(f"{name}: does not fit into memory") from error


def from_pil(image: Image.Image) -> Picture:
    """Returns the picture of a Pillow image of any mode, with its metadata.

    Mode I is read as 16-bit. Mode F is read as [0, 1], or as [0, 255] where it exceeds 1.

    Raises:
      UserError: too many pixels, values outside those ranges, or pixels that cannot be decoded.
    """
    check_size(*image.size)
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        raise UserError(f"image: damaged or truncated picture ({error})") from error
    return _upright(image, None)


def header_size(file: BinaryIO) -> tuple[int, int]:
    """Returns (height, width) of an image when upright, from the head of its file.

    Raises:
      UserError: not an image.
    """
    head = file.read(24)
    file.seek(0)
    if png.size(head):
        image, _ = _bare_png(png.parse(file.read()))
    else:
        try:
            image = Image.open(file, formats=bounds.formats())
        except OSError as error:  # Pillow's complaint about files that are no picture is one, too
            raise UserError(f"not a picture that can be decoded ({_KINDS})") from error
    width, height = image.size
    turned = image.getexif().get(metadata.ORIENTATION, 1) >= 5  # 5 to 8 swap the sides
    return (width, height) if turned else (height, width)


def declared_pixels(path: str | os.PathLike[str]) -> int:
    """Returns the number of pixels that the head of a file declares; none is decoded.

    Raises:
      UserError: a file that `read` refuses before it decodes.
    """
    data = bounds.file_bytes(Path(path))
    with about(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bounds.check_work(data)
        width, height = png.size(data) or _open(data).size
    return width * height


def _check_icon(image: Image.Image, data: bytes, limit: int) -> None:
    # An icon's directory may say less than the PNG files that it holds.
    for entry in image.ico.entry:  # type: ignore[attr-defined]
        if found := png.size(data[entry.offset : entry.offset + 24]):
            check_size(*found, limit)


def _frame_note(image: Image.Image) -> tuple[str, ...]:
    # An MPO is one photograph; its other frames are previews or the second eye.
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return ()
    if image.format == "TIFF":
        return ("several pages: first page used",)
    return ("animated: first frame used",)


def _from_png(found: png.Png) -> Picture:
    image, notes = _bare_png(found)
    image.load()
    samples = _deep_png(image, found) if found.depth == 16 else _keyed_grey(image, found.depth)
    picture = _upright(image, samples, notes)
    return dataclasses.replace(
        picture, metadata=dataclasses.replace(picture.metadata, chunks=found.chunks)
    )


def _bare_png(found: png.Png) -> tuple[Image.Image, tuple[str, ...]]:
    image = Image.open(io.BytesIO(found.pixels), formats=["PNG"])
    image.info.update(found.info)
    return image, found.notes + (("animated: first frame used",) if found.animated else ())


def _deep_png(image: Image.Image, found: png.Png) -> np.ndarray:
    array = _deep_samples(image, found.pixels)
    if found.color_type == 4:  # grey and alpha, which OpenCV spreads over four channels
        array = array[..., 2:]
    key = image.info.get("transparency")
    if key is not None and array.shape[2] in (1, 3):
        opaque = np.where((array == key).all(-1, keepdims=True), 0, 65535)
        array = np.concatenate([array, opaque.astype(np.uint16)], axis=-1)
    return array


def _keyed_grey(image: Image.Image, depth: int) -> np.ndarray | None:
    """Returns [H, W, 2] of 1- to 8-bit grey with a transparent key, which Pillow does not scale."""
    key = image.info.get("transparency")
    if image.mode not in ("1", "L") or not isinstance(key, int):
        return None
    grey = np.asarray(image.convert("L"))
    opaque = np.where(grey == key % 2**depth * (255 // (2**depth - 1)), 0, 255)
    return np.stack([grey, opaque.astype(np.uint8)], axis=-1)


def _deep_samples(image: Image.Image, data: bytes) -> np.ndarray:
    """Returns uint16 [H, W, C] of a 16-bit file."""
    # Unchanged: with 16 bits, alpha, and EXIF orientation not applied, which `_upright` does.
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.shape[1::-1] != image.size:
        raise OSError("16-bit samples cannot be decoded")
    if array.ndim == 2:
        return array[..., None]
    return array[..., (2, 1, 0, 3)[: array.shape[2]]]


def _deep(image: Image.Image, data: bytes) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Returns uint16 [H, W, C] of a file that Pillow would round to 8 bits, else None; notes."""
    if image.format == "TIFF":
        return _deep_tiff(image, data), ()
    bits = image.info.get("bit_depth", bounds.depth(data, image.format))
    if bits == 8 or image.mode not in ("RGB", "RGBA"):
        return None, ()
    if image.format == "JPEG2000" and bits == 16:
        return _deep_samples(image, data), ()
    return None, (f"{bits} bits: read as 8",)


def _deep_tiff(image: Image.Image, data: bytes) -> np.ndarray | None:
    tags = getattr(image, "tag_v2", {})
    if set(tags.get(_BITS, ())) != {16} or image.mode not in ("RGB", "RGBA", "I;16", "I;16B"):
        return None
    array = _deep_samples(image, data)
    if array.shape[2] == 1:
        return 65535 - array if tags.get(_PHOTOMETRIC) == 0 else array  # white is zero
    if image.mode == "RGB":
        return array[..., :3]  # a fourth channel of unknown meaning
    if tags.get(_EXTRA_SAMPLES) in (1, (1,)):  # colour multiplied by alpha
        alpha = array[..., 3:]
        color = np.rint(array[..., :3] * (65535 / np.maximum(alpha, 1).astype(np.float64)))
        return np.concatenate([color.clip(0, 65535).astype(np.uint16), alpha], axis=-1)
    return array


def _upright(
    image: Image.Image, samples: np.ndarray | None, notes: tuple[str, ...] = ()
) -> Picture:
    """Returns a loaded image, upright; `samples` are its 16-bit ones where Pillow has only 8."""
    orientation, described, more = metadata.of(image)
    notes += more
    if samples is None:
        if image.mode in ("CMYK", "LAB"):
            notes += (f"{image.mode} converted to sRGB",)
            image = _to_srgb(image, described.icc)
            described = dataclasses.replace(described, icc=None)
        samples, more = _pillow_samples(image)
        notes += more
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return from_samples(samples, described, notes)


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Returns RGB of a CMYK or LAB image, through its profile where that is usable."""
    source = ImageCms.createProfile("LAB") if image.mode == "LAB" else icc and io.BytesIO(icc)
    converted = None
    if source:
        # Files carry profiles of other colour spaces, too, which cannot be applied.
        with contextlib.suppress(ImageCms.PyCMSError):
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
    converted = converted or image.convert("RGB")
    converted.info = dict(image.info)  # a new image, which has to keep the EXIF
    return converted


def _pillow_samples(image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns [H, W, C] samples of any Pillow mode but CMYK and LAB, and notes."""
    mode = image.mode
    if mode == "F":
        array = np.asarray(image)[..., None]
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 255):  # true for NaN too
            raise UserError(f"expected floats in [0, 1] or [0, 255], found {low:g} to {high:g}")
        if high > 1:
            return array / np.float32(255), ("floats above 1: read as [0, 255]",)
        return array, ()
    if mode.startswith("I"):
        array = np.asarray(image)[..., None]
        if mode == "I" and (array.min() < 0 or array.max() > 65535):
            raise UserError(
                f"expected integers in [0, 65535], found {array.min()} to {array.max()}"
            )
        return array.astype(np.uint16), ()
    transparent = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    grey = mode in ("1", "L", "LA", "La")
    array = np.asarray(image.convert(("L" if grey else "RGB") + ("A" if transparent else "")))
    if array.ndim == 2:
        array = array[..., None]
    # With a profile a palette stays RGB: that of RGB does not fit a single channel.
    elif mode in ("P", "PA") and "icc_profile" not in image.info:
        grey = bool((array[..., 1:3] == array[..., :1]).all())
        array = array[..., 2:] if grey else array  # a palette of greys
    return array, ()
