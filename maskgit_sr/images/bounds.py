"""What is found out about a file before it is decoded: its size, and whether its work is bounded.

A decoder's time and memory must follow from the number of pixels, which is checked; here are the
formats' ways around that.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from maskgit_sr.errors import UserError
from maskgit_sr.images import png

# Named, so that Pillow never hands a file to an external program (EPS goes to Ghostscript). TGA is
# last, as it is known by the plausibility of its header alone.
_READABLE = (
    *("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "JPEG2000"),
    *("HEIF", "ICO", "TGA"),
)
MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 30
"""Of one file; 64 megapixels of 16-bit RGBA without compression are half of it."""
_PEEKED_BYTES = 1 << 25  # the header of larger files is looked at before they are read
_PEEKED_HEAD = 1 << 20
_MAX_JUNK = 1 << 16  # bytes between a JPEG's segments, which Pillow passes over one by one
_MAX_SCANS = 100  # of a JPEG; encoders write 10, and at most 64 in search of the smallest file
_MAX_TAGS = 1000
_MAX_ENTRIES = 1 << 18  # of one TIFF tag; 64 megapixels in strips of one row have fewer
_BYTES = {1, 2, 6, 7}  # types of TIFF values
_SPARE_PIXELS = 1 << 22  # a small TIFF may consist of one tile of 2048x2048

# A marker that is neither a stuffed zero, nor a restart, nor a fill byte before another.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_PROCESS = {3: "lossless", 5: "hierarchical", 6: "hierarchical", 7: "lossless hierarchical"}
_JPEG_PROCESS |= {11: "lossless", 13: "hierarchical", 14: "hierarchical", 15: "lossless"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


class TooManyPixels(UserError):
    """An image with more pixels than the limit."""


class Tag(NamedTuple):
    """A TIFF tag: number of values, the first of them where it is a small integer, and type."""

    values: int
    value: int
    kind: int = 3


def formats() -> list[str]:
    """Returns Pillow's names of the formats that can be read here."""
    # Without `init` the table lacks formats; AVIF and JPEG 2000 depend on how Pillow was built.
    Image.init()
    _add_heif()
    return [name for name in _READABLE if name in Image.OPEN]


@functools.cache  # a module that is absent would be looked for at every picture
def _add_heif() -> None:
    with contextlib.suppress(ImportError):  # the extra `heif`
        import pillow_heif

        pillow_heif.register_heif_opener()


def check_size(width: int, height: int, limit: int = MAX_PIXELS) -> None:
    """Raises UserError for an image without pixels, TooManyPixels for more than `limit`."""
    if width < 1 or height < 1:
        raise UserError(f"expected at least one pixel, found {width}x{height}")
    if width * height > limit:
        raise TooManyPixels(f"{width}x{height} is more than the limit of {limit:,} pixels")


def file_bytes(path: Path, limit: int = MAX_PIXELS) -> bytes:
    """Returns the bytes of a picture's file, of which no more are read than a picture can have.

    Raises:
      UserError: missing, no file, unreadable, or too large; too many pixels by its header.
    """
    if path.is_dir():
        raise UserError(f"{path}: expected a picture file, found a folder")
    if path.exists() and not path.is_file():  # reading a pipe or a device may never end
        raise UserError(f"{path}: expected a picture file, found a special file")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _PEEKED_BYTES:
                _peek(file, path, size, limit)
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _peek(file: BinaryIO, path: Path, size: int, limit: int) -> None:
    """Raises UserError for a large file that is too large, or no picture, by its header."""
    head = file.read(_PEEKED_HEAD)
    file.seek(0)
    tags = tiff_tags(file)
    file.seek(0)
    found = png.size(head)
    if 256 in tags and 257 in tags:
        found = tags[256].value, tags[257].value
    elif found is None:
        # A decoder stumbles over damaged files with whatever exception; of one that is not too
        # large it tells later what is wrong.
        with contextlib.suppress(Exception):
            found = Image.open(io.BytesIO(head), formats=formats()).size
    if found is not None:
        try:
            check_size(*found, limit)
        except UserError as error:
            raise type(error)(f"{path}: {error}") from None
    if size > MAX_BYTES:
        raise UserError(
            f"{path}: file of {size:,} bytes, expected at most {MAX_BYTES:,}"
            + ("" if found else ", and no picture that is known")
        )


def check_work(data: bytes) -> None:
    """Raises UserError for a file whose decoding costs more than its pixels do."""
    if data.startswith(b"\xff\xd8"):
        _check_scans(data)
    tags = tiff_tags(io.BytesIO(data))
    if not tags:
        return
    # Profiles and the like are long, too, but nobody makes a list of their bytes.
    most = max((tag.values for tag in tags.values() if tag.kind not in _BYTES), default=0)
    if most > _MAX_ENTRIES:
        raise UserError(f"TIFF with a tag of {most:,} values, expected at most {_MAX_ENTRIES:,}")
    width, height, wide, high, bits = (
        tags.get(tag, Tag(1, 0)).value for tag in (256, 257, 322, 323, 258)
    )
    if wide and high:
        padded = -(-width // wide) * wide * -(-height // high) * high
        if padded > 4 * width * height + _SPARE_PIXELS:
            raise UserError(f"TIFF of {width}x{height} in tiles of {wide}x{high} pixels")
    samples, packing = (tags.get(tag, Tag(1, 1)).value for tag in (277, 259))
    # Decoders take what is missing for black.
    if packing == 1 and -(-width * samples * max(bits, 1) // 8) * height > len(data):
        raise UserError(f"truncated TIFF ({width}x{height} uncompressed in {len(data):,} bytes)")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields (marker, position behind it) of a JPEG's segments and scans, up to its end.

    Raises:
      UserError: before the first scan there is no segment where one is expected.
    """
    at, scanned = 2, False
    while found := _MARKER.search(data, at):
        if not scanned and found.start() - at > _MAX_JUNK:
            break
        marker, at = data[found.start() + 1], found.end()
        yield marker, at
        if marker == 0xD9:  # what follows is another picture, such as a preview
            return
        scanned |= marker == 0xDA
        if marker not in (0xD8, 0x01):  # which alone have no length
            at += int.from_bytes(data[at : at + 2], "big")
    if not scanned and len(data) - at > _MAX_JUNK:
        raise UserError("damaged JPEG (no segment where one is expected)")


def _check_scans(data: bytes) -> None:
    scans = 0
    for marker, _ in _segments(data):
        scans += marker == 0xDA
        if scans > _MAX_SCANS:
            raise UserError(f"JPEG of more than {_MAX_SCANS} scans")


def tiff_tags(file: BinaryIO) -> dict[int, Tag]:
    """Returns the tags of the first directory of a TIFF, none of them for other files."""

    def values(form: str, at: int) -> tuple[int, ...]:
        file.seek(at)
        return struct.unpack(order + form, file.read(struct.calcsize(order + form)))

    order = {b"II": "<", b"MM": ">"}.get(file.read(2), "")
    if not order:
        return {}
    found = {}
    try:
        (version,) = values("H", 2)
        if version not in (42, 43):  # the second is BigTIFF
            return {}
        offset, head, entry = ("I", "H", "HHI") if version == 42 else ("Q", "Q", "HHQ")
        room = struct.calcsize(offset)
        (at,) = values(offset, room)
        (count,) = values(head, at)
        at += struct.calcsize(head)
        for _ in range(min(count, _MAX_TAGS)):
            tag, kind, number = values(entry, at)
            at += struct.calcsize("<" + entry)
            form = {3: "H", 4: "I"}.get(kind, offset)
            (where,) = values(offset, at) if number * struct.calcsize(form) > room else (at,)
            value = 0
            with contextlib.suppress(struct.error, OverflowError):  # an offset beyond the file
                (value,) = values(form, where)
            found[tag] = Tag(number, value, kind)
            at += room
    except (struct.error, OverflowError):  # cut off: the decoder tells
        return {}
    return found


def depth(data: bytes, format: str | None) -> int:
    """Returns the bits a sample of an AVIF or JPEG 2000 file, 8 where it does not tell."""
    if format == "JPEG2000":
        at = data.find(b"\xff\x51")  # SIZ; 38 bytes on, the first component's depth follows
        return (data[at + 40] & 0x7F) + 1 if 0 <= at < len(data) - 40 else 8
    at = data.find(b"av1C") if format == "AVIF" else -1
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def unsupported(data: bytes) -> str | None:
    """Returns what a legal file needs that no decoder here has, or None where that is not known."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "HEIC needs pillow-heif: pip install 'maskgit-sr[heif]'"
    if data.startswith(b"\xff\xd8"):
        return _jpeg_kind(data)
    if data.startswith(b"BM") and len(data) > 34:
        bits, packing = struct.unpack_from("<HI", data, 28)
        return f"BMP of {bits} bits a pixel with compression {packing} is not supported"
    tags = tiff_tags(io.BytesIO(data))
    if 256 in tags:
        samples, bits, packing, meaning, form = (
            tags.get(tag, Tag(1, 1)).value for tag in (277, 258, 259, 262, 339)
        )
        kind = {2: "signed ", 3: "float "}.get(form, "")
        return (
            f"TIFF of {samples} {kind}samples of {bits} bits a pixel (compression {packing}, "
            f"photometric interpretation {meaning}) is not supported"
        )
    for magic, name in (
        (b"8BPS", "Photoshop"),
        (b"%PDF", "PDF"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"FUJIFILMCCD-RAW", "raw"),
    ):
        if data.startswith(magic):
            return f"{name} files are not supported"
    return None


def _jpeg_kind(data: bytes) -> str | None:
    for marker, at in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 2 < len(data):
            if data[at + 2] != 8:
                return f"JPEG of {data[at + 2]} bits is not supported"
            process = _JPEG_PROCESS.get(marker - 0xC0)
            return f"{process} JPEG is not supported" if process else None
        if marker == 0xDA:
            return None
    return None
