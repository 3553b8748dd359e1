"""Decoding of image files and Pillow images to samples and metadata.

Pillow knows the formats; OpenCV reads the 16-bit colour files that Pillow would round to 8 bits.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from maskgit_sr.errors import UserError
from maskgit_sr.images.encode import EXIF_IFD, GPS_IFD, tags_of
from maskgit_sr.images.samples import Picture, cast, from_samples

MAX_PIXELS = 64_000_000
RGB8_PIXELS = 178_956_970  # photographs for training may be larger; Pillow itself refuses more

# Named, so that Pillow never hands a file to an external program (EPS goes to Ghostscript).
_READABLE = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "JPEG2000")
_KINDS = "PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, AVIF or JPEG 2000"
_PHOTOMETRIC, _BITS, _EXTRA_SAMPLES = 262, 258, 338
_ORIENTATION = 274
_SIZE_TAGS, _EXIF_SIZE_TAGS = {256, 257}, {40962, 40963}
# What describes the photograph; a TIFF keeps the layout of its samples among the same tags.
_TIFF_KEPT = {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD}


class TooManyPixels(UserError):
    """An image with more pixels than the limit."""


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

    PNG and TIFF (and binary PPM of maximum 65535) keep 16 bits. Of an animation or a TIFF of
    several pages the first is taken, with a note. Palettes, CMYK, LAB and so on become RGB; a
    profile of a colour space that was left is applied, and not kept.

    Raises:
      UserError: missing, empty, unreadable, of an unknown format, truncated or damaged, or of more
        than `MAX_PIXELS` pixels, which is found out before anything is decoded.
    """
    data = _file_bytes(Path(path))
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
            image = Image.open(io.BytesIO(data), formats=_formats())
            check_size(*image.size, limit)  # before `load`: a small file may declare any size
            if image.format == "PNG":
                Image.open(io.BytesIO(data)).verify()  # decoding does not look at checksums
            notes = _frame_note(image)
            image.load()
            samples = _decode_16_bit(image, data)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"more than the limit of {limit:,} pixels") from error
    except UnidentifiedImageError as error:
        raise UserError(f"not a picture that can be decoded ({_KINDS})") from error
    except MemoryError:  # says nothing of the file
        raise
    # Decoders meet a damaged file with whatever exception they stumbled over.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"damaged or truncated picture ({reason})") from error
    return _upright(image, samples, notes)


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
            return cast(_decoded(data, limit).color, np.uint8)
    except MemoryError as error:  # training goes on with the next file
        raise UserError(f"{name}: does not fit into memory") from error


def from_pil(image: Image.Image) -> Picture:
    """Returns the picture of a Pillow image of any mode, with its ICC profile and EXIF.

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
    try:
        with Image.open(file, formats=_formats()) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= 5  # 5 to 8 swap the sides
    except OSError as error:  # Pillow's complaint about files that are no picture is one as well
        raise UserError(f"not a picture that can be decoded ({_KINDS})") from error
    return (width, height) if turned else (height, width)


def _formats() -> list[str]:
    # Without `init` the table lacks formats; AVIF and JPEG 2000 depend on how Pillow was built.
    Image.init()
    return [name for name in _READABLE if name in Image.OPEN]


def _file_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise UserError(f"{path}: expected a picture file, found a folder")
    if path.exists() and not path.is_file():  # reading a pipe or a device may never end
        raise UserError(f"{path}: expected a picture file, found a special file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def check_size(width: int, height: int, limit: int = MAX_PIXELS) -> None:
    """Raises UserError for an image without pixels, TooManyPixels for more than `limit`."""
    if width < 1 or height < 1:
        raise UserError(f"expected at least one pixel, found {width}x{height}")
    if width * height > limit:
        raise TooManyPixels(f"{width}x{height} is more than the limit of {limit:,} pixels")


def _frame_note(image: Image.Image) -> tuple[str, ...]:
    # An MPO is one photograph; its other frames are previews or the second eye.
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return ()
    if image.format == "TIFF":
        return ("several pages: first page used",)
    return ("animated: first frame used",)


def _decode_16_bit(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Returns uint16 [H, W, C] of 16-bit files that Pillow would round to 8 bits, else None."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if image.format == "PNG":
        deep = data[24] == 16  # bit depth in IHDR, which comes first
    elif image.format == "PPM":
        deep = image.mode == "RGB" and data[:64].split(None, 4)[3:4] == [b"65535"]
    else:
        deep = set(tags.get(_BITS, ())) == {16} and image.mode in ("RGB", "RGBA", "I;16", "I;16B")
    if not deep:
        return None
    # Unchanged: with 16 bits, alpha, and EXIF orientation not applied, which `_upright` does.
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.shape[1::-1] != image.size:
        raise OSError("16-bit samples cannot be decoded")
    if array.ndim == 2:
        array = array[..., None]
        if tags.get(_PHOTOMETRIC) == 0:
            array = 65535 - array  # white is zero
    else:
        array = array[..., (2, 1, 0, 3)[: array.shape[2]]]
    if image.format == "PNG":
        if data[25] == 4:  # grey and alpha, which OpenCV spreads over four channels
            array = array[..., 2:]
        key = image.info.get("transparency")
        if key is not None and array.shape[2] in (1, 3):
            opaque = np.where((array == key).all(-1, keepdims=True), 0, 65535)
            array = np.concatenate([array, opaque.astype(np.uint16)], axis=-1)
    elif image.mode == "RGB":
        array = array[..., :3]  # a fourth channel of unknown meaning
    elif tags.get(_EXTRA_SAMPLES) in (1, (1,)):  # colour multiplied by alpha
        alpha = array[..., 3:]
        color = np.rint(array[..., :3] * (65535 / np.maximum(alpha, 1).astype(np.float64)))
        array = np.concatenate([color.clip(0, 65535).astype(np.uint16), alpha], axis=-1)
    return array


def _upright(
    image: Image.Image, samples: np.ndarray | None, notes: tuple[str, ...] = ()
) -> Picture:
    """Returns a loaded image, upright; `samples` are its 16-bit ones where Pillow has only 8."""
    orientation, exif, more = _exif(image)
    notes += more
    icc = image.info.get("icc_profile") or None
    if samples is None:
        if image.mode in ("CMYK", "LAB"):
            notes += (f"{image.mode} converted to sRGB",)
            image, icc = _to_srgb(image, icc), None
        samples, more = _pillow_samples(image)
        notes += more
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return from_samples(samples, icc, exif, notes)


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


def _exif(image: Image.Image) -> tuple[int, bytes | None, tuple[str, ...]]:
    """Returns orientation, 1 to 8, the EXIF that stays true of the output or None, and notes."""
    orientation: int = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = image.getexif()
            if image.format != "TIFF":  # which is turned upright by whoever decodes it
                found = tags.get(_ORIENTATION, 1)
                orientation = found if found in range(1, 9) else 1
            raw = image.info.get("exif")
            if raw is None or image.format == "TIFF":
                raw = _block(tags, _TIFF_KEPT if image.format == "TIFF" else None)
            return orientation, _tidy_exif(raw), ()
    # As with pixels, damaged metadata raises anything.
    except Exception:
        return orientation, None, ("EXIF is damaged and left out",)


def _block(tags: Image.Exif, only: set[int] | None) -> bytes:
    block = Image.Exif()  # a new one: the caller's image keeps its tags
    kept = tags_of(tags).items()
    block.update({tag: value for tag, value in kept if only is None or tag in only})
    return block.tobytes() if len(block) else b""


def _tidy_exif(raw: bytes) -> bytes | None:
    """Returns EXIF without orientation, pixel size and thumbnail, which are wrong for the output.

    Entries are cut out in place: a block written anew loses text that is not ASCII, and moves maker
    notes, whose inner offsets then point nowhere.
    """
    data = bytearray(raw.removeprefix(b"Exif\0\0"))
    if not data:
        return None
    order = {b"II*\0": "<", b"MM\0*": ">"}[bytes(data[:4])]

    def cut(offset: int, unwanted: set[int]) -> dict[int, int]:
        (count,) = struct.unpack_from(order + "H", data, offset)
        end = offset + 2 + 12 * count + 4
        entries = [
            struct.unpack_from(order + "HHII", data, offset + 2 + 12 * i) for i in range(count)
        ]
        kept = [entry for entry in entries if entry[0] not in unwanted]
        packed = struct.pack(order + "H", len(kept))
        packed += b"".join(struct.pack(order + "HHII", *entry) for entry in kept)
        data[offset:end] = packed.ljust(end - offset, b"\0")  # zero: no thumbnail directory
        return {tag: value for tag, _, _, value in kept}

    (first,) = struct.unpack_from(order + "I", data, 4)
    kept = cut(first, {_ORIENTATION} | _SIZE_TAGS)
    if EXIF_IFD in kept:
        cut(kept[EXIF_IFD], _EXIF_SIZE_TAGS)
    return b"Exif\0\0" + bytes(data) if kept else None
