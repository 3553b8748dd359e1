"""What a file says about its picture: profile, EXIF, XMP, IPTC, density, comment, PNG's text.

What stays true of the output is kept, in whatever place the output's format has for it; what has
to be left out is told in a note.
"""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from maskgit_sr.images import png

EXIF_IFD, GPS_IFD, _INTEROP_IFD = 34665, 34853, 40965
ORIENTATION = 274
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
XMP_TAG, IPTC_TAG = 700, 33723
_SIZE_TAGS, _EXIF_SIZE_TAGS = {256, 257}, {40962, 40963}
_CENTIMETRES = 3
# What describes the photograph; a TIFF keeps the layout of its samples among the same tags.
_TIFF_KEPT = {270, 271, 272, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD}
_TIFF_KEPT |= {X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT}

# Properties of XMP that the restored picture has not: its input's size and orientation, and files
# that were appended to the input's.
# Spaces are counted: packets are padded by thousands, which a `\s+` would search quadratically.
_XMP_SIZE = rb"(?:tiff:ImageWidth|tiff:ImageLength|exif:PixelXDimension|exif:PixelYDimension)"
_XMP_WRONG = re.compile(
    rb"\s" + _XMP_SIZE + rb"\s{0,9}=\s{0,9}(?:\"\d{0,9}\"|'\d{0,9}')"
    rb"|<(" + _XMP_SIZE + rb")>\s{0,9}\d{0,9}\s{0,9}</\1>"
)
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s{0,9}(?:=\s{0,9}[\"']|>)\s{0,9})\d")
_XMP_APPENDED = re.compile(
    rb"(?:hdrgm:Version|Container:Directory|GCamera:MicroVideo|GCamera:MotionPhoto|HasExtendedXMP)"
)


@dataclass(frozen=True)
class Metadata:
    """Everything but samples.

    Attributes:
      icc: ICC profile that the colours are to be read with.
      exif: EXIF block, beginning with `Exif\\0\\0`.
      xmp: XMP packet, an XML text.
      iptc: IPTC records (IIM).
      density: (x, y) pixels an inch; of the output as of the input.
      comment: text of unknown encoding.
      chunks: text, time and colorimetry of a PNG file, as `png.parse` returns them.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    density: tuple[float, float] | None = None
    comment: bytes | None = None
    chunks: tuple[png.Chunk, ...] = ()


def of(image: Image.Image) -> tuple[int, Metadata, tuple[str, ...]]:
    """Returns the orientation, 1 to 8, what is said of an image once it is upright, and notes."""
    orientation, exif, density, notes = _exif(image)
    info = image.info
    icc = info.get("icc_profile") or None
    xmp, more = _tidy_xmp(info.get("xmp"))
    # Pillow makes up a density for a TIFF without any, and for a JPEG whose EXIF has none.
    made_up = {"TIFF": True, "JPEG": info.get("jfif_unit") not in (1, 2)}
    if not made_up.get("JPEG" if image.format == "MPO" else image.format or "", False):
        density = _density(info.get("dpi")) or density
    if density and orientation >= 5:
        density = density[::-1]
    comment = info.get("comment")
    if isinstance(comment, str):
        comment = comment.encode("utf-8", "replace")
    metadata = Metadata(icc, exif, xmp, _iptc(image), density, comment or None)
    return orientation, metadata, notes + more


def tags_of(block: Image.Exif) -> dict[int, Any]:
    """Returns the entries of an EXIF block, with those of its directories, to be written anew."""
    nested = {tag: dict(block.get_ifd(tag)) for tag in (EXIF_IFD, GPS_IFD) if tag in block}
    for directory in nested.values():
        directory.pop(_INTEROP_IFD, None)  # an offset into the old block
    return {tag: _plain_text(value) for tag, value in block.items()} | nested


def left_out(names: Iterable[str], kind: str) -> tuple[str, ...]:
    """Returns the note on what a format has no place for."""
    some = list(dict.fromkeys(names))
    if not some:
        return ()
    shown = ", ".join(name[:40] for name in some[:6]) + (", …" if len(some) > 6 else "")
    return (f"{shown} left out: {kind} has no place for it",)


def _exif(
    image: Image.Image,
) -> tuple[int, bytes | None, tuple[float, float] | None, tuple[str, ...]]:
    """Returns orientation, EXIF that stays true of the output or None, its density, and notes."""
    orientation: int = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = image.getexif()
            if image.format != "TIFF":  # which is turned upright by whoever decodes it
                found = tags.get(ORIENTATION, 1)
                orientation = found if found in range(1, 9) else 1
            raw = image.info.get("exif")
            if raw is None or image.format == "TIFF":
                raw = _block(tags, _TIFF_KEPT if image.format == "TIFF" else None)
            unit = 2.54 if tags.get(RESOLUTION_UNIT) == _CENTIMETRES else 1
            pair = [unit * float(tags.get(tag, 0)) for tag in (X_RESOLUTION, Y_RESOLUTION)]
            return orientation, _tidy_exif(raw), _density(pair), ()
    # As with pixels, damaged metadata raises anything.
    except Exception:
        return orientation, None, None, ("EXIF is damaged and left out",)


def _density(found: Any) -> tuple[float, float] | None:
    """Returns pixels an inch, or None of what is no density."""
    try:
        x, y = (float(value) for value in found)
    except (TypeError, ValueError, ZeroDivisionError):  # Pillow passes on what files hold
        return None
    return (x, y) if 0 < x < math.inf and 0 < y < math.inf else None


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
    kept = cut(first, {ORIENTATION} | _SIZE_TAGS)
    if EXIF_IFD in kept:
        cut(kept[EXIF_IFD], _EXIF_SIZE_TAGS)
    return b"Exif\0\0" + bytes(data) if kept else None


def _tidy_xmp(raw: Any) -> tuple[bytes | None, tuple[str, ...]]:
    """Returns XMP that is true of the output, or None, and notes."""
    if isinstance(raw, tuple):  # of a TIFF whose tag has another type
        raw = bytes(raw) if all(x in range(256) for x in raw) else None
    text = raw.encode() if isinstance(raw, str) else raw
    text = text.strip(b"\0") if text else None
    if not text:
        return None, ()
    if _XMP_APPENDED.search(text):
        return None, ("XMP left out: it describes data that was appended to the file",)
    return _XMP_WRONG.sub(b"", _XMP_ORIENTATION.sub(rb"\g<1>1", text)), ()


def _iptc(image: Image.Image) -> bytes | None:
    """Returns the IPTC records of a JPEG's Photoshop block, a TIFF's tag or a PNG's text."""
    found = image.info.get("iptc")
    if found is None:
        blocks = image.info.get("photoshop")
        found = blocks.get(_IPTC_BLOCK) if isinstance(blocks, dict) else None
    if found is None and image.format == "TIFF":
        found = getattr(image, "tag_v2", {}).get(IPTC_TAG)
    if not isinstance(found, bytes):
        return None
    if found.startswith(b"8BIM"):
        # Records in one block of Photoshop's: name, an empty title of two bytes, length.
        start = found.find(struct.pack(">4sHH", b"8BIM", _IPTC_BLOCK, 0))
        if start < 0 or start + 12 > len(found):
            return None
        (length,) = struct.unpack_from(">I", found, start + 8)
        found = found[start + 12 : start + 12 + length]
    return found if found.startswith(b"\x1c") else None


_IPTC_BLOCK = 0x0404


def photoshop(iptc: bytes) -> bytes:
    """Returns the content of a JPEG's APP13 that holds IPTC records."""
    header = struct.pack(">4sHHI", b"8BIM", _IPTC_BLOCK, 0, len(iptc))
    return b"Photoshop 3.0\0" + header + iptc + b"\0" * (len(iptc) % 2)


def _plain_text(value: Any) -> Any:
    """Returns text of a tag as the bytes it was read from: Pillow decodes Latin-1, writes ASCII."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("latin-1", "replace")
    return value
