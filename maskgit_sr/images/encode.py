"""Encoders: samples, ICC profile and EXIF to the bytes of a PNG, JPEG, WebP or TIFF file.

Pillow does the 8-bit work. PNG of 16 bits and TIFF are put together here, because neither Pillow
nor OpenCV writes 16-bit colour together with its metadata, nor 16-bit grey with alpha at all.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from maskgit_sr.images.samples import cast

MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # libjpeg's own limit, WebP's 14 bits
_MAX_JPEG_EXIF = 65_533  # a JPEG segment counts its bytes in 16 bits
_STRIP_BYTES = 1 << 20
EXIF_IFD, GPS_IFD, _INTEROP_IFD = 34665, 34853, 40965


def encode(
    samples: np.ndarray, kind: str, quality: int, icc: bytes | None, exif: bytes | None
) -> tuple[bytes, tuple[str, ...]]:
    """Encodes uint8, uint16 or [0, 1] float `samples` [H, W, 1..4] as `kind`.

    Returns:
      The file, and notes on what the format could not keep.
    """
    channels = samples.shape[2]
    notes = []
    lossy = kind in ("JPEG", "WEBP")
    if lossy and samples.dtype != np.uint8:
        notes.append(f"{kind} has 8 bits: {samples.dtype} samples rounded")
        samples = cast(samples, np.uint8)
    elif samples.dtype.kind == "f":
        notes.append("floats stored as 16 bits")
        samples = cast(samples, np.uint16)
    if kind == "JPEG" and exif is not None and len(exif) > _MAX_JPEG_EXIF:
        notes.append("EXIF is too long for JPEG and left out")
        exif = None

    if kind == "TIFF":
        if channels == 2 and samples.dtype == np.uint16:
            # Pillow and OpenCV cannot read 16-bit grey with alpha.
            notes.append("16-bit grey with alpha stored as RGBA")
            samples = samples[..., [0, 0, 0, 1]]
        data, more = _tiff(samples, icc, exif)
        return data, (*notes, *more)
    if samples.dtype == np.uint16:
        return _png_16_bit(samples, icc, exif), tuple(notes)
    options: dict[str, Any] = {
        "PNG": {},
        "JPEG": {"quality": quality, "subsampling": 0},  # chroma at full resolution
        "WEBP": {"quality": quality, "exact": True},  # keeps colours under transparent pixels
    }[kind]
    options |= described(icc, exif)
    buffer = io.BytesIO()
    Image.fromarray(samples[..., 0] if channels == 1 else samples).save(buffer, kind, **options)
    return buffer.getvalue(), tuple(notes)


def described(icc: bytes | None, exif: bytes | None) -> dict[str, bytes]:
    """Returns the ICC profile and EXIF block that are present, by Pillow's names for them."""
    return {name: data for name, data in (("icc_profile", icc), ("exif", exif)) if data}


def _chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _png_16_bit(samples: np.ndarray, icc: bytes | None, exif: bytes | None) -> bytes:
    height, width, channels = samples.shape
    color_type = (0, 4, 2, 6)[channels - 1]
    # PNG is big-endian, and its filter's differences wrap around at 256, as those of bytes do.
    rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 1  # every row as differences to the pixel on its left
    filtered[:, 1:] = rows
    filtered[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
    packed = zlib.compress(filtered.tobytes(), 6)

    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))]
    if icc:
        chunks.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if exif:
        chunks.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    longest = 1 << 30  # a chunk counts its bytes in 31 bits
    chunks += [_chunk(b"IDAT", packed[i : i + longest]) for i in range(0, len(packed), longest)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b"")


def _tiff(
    samples: np.ndarray, icc: bytes | None, exif: bytes | None
) -> tuple[bytes, tuple[str, ...]]:
    """Returns a baseline little-endian TIFF in deflated strips with horizontal differencing."""
    height, width, channels = samples.shape
    bits = samples.dtype.itemsize * 8
    rows = max(1, _STRIP_BYTES // (width * channels * samples.dtype.itemsize))
    strips = []
    for y in range(0, height, rows):
        strip = samples[y : y + rows].astype(samples.dtype.newbyteorder("<"))
        strip[:, 1:] -= strip[:, :-1].copy()
        strips.append(zlib.compress(strip.tobytes(), 6))
    sizes = [len(strip) for strip in strips]
    tags: dict[int, Any] = {
        256: width,
        257: height,
        258: (bits,) * channels,
        259: 8,  # deflate
        262: 1 if channels < 3 else 2,  # black is zero, or RGB
        273: tuple(int(x) for x in np.cumsum([0, *sizes[:-1]])),
        277: channels,
        278: rows,
        279: tuple(sizes),
        284: 1,  # samples of a pixel side by side
        317: 2,  # horizontal differencing
    }
    if channels in (2, 4):
        tags[338] = (2,)  # alpha that the colour is not multiplied by
    if icc:
        tags[34675] = icc
    try:
        described = _tiff_tags(exif) if exif else {}
        # Layout tags win: those in the EXIF block describe another file.
        return _with_directory({**described, **tags}, strips), ()
    # Tags of a wrong type; there is no list of what Pillow raises on them.
    except Exception:
        if not exif:
            raise
        return _with_directory(tags, strips), ("EXIF cannot be stored as TIFF and is left out",)


def _with_directory(tags: dict[int, Any], strips: list[bytes]) -> bytes:
    directory = ImageFileDirectory_v2(b"II\x2a\0\x08\0\0\0")
    for tag, value in tags.items():
        directory[tag] = value
    # Pillow picks the narrowest type before it has moved the offsets behind the directory.
    directory.tagtype[273] = directory.tagtype[279] = 4
    buffer = io.BytesIO()
    directory.save(buffer)
    return buffer.getvalue() + b"".join(strips)


def _tiff_tags(exif: bytes) -> dict[int, Any]:
    """Returns EXIF as tags of a TIFF directory: the block is itself a small TIFF file."""
    block = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block.load(exif)
        return tags_of(block)


def tags_of(block: Image.Exif) -> dict[int, Any]:
    """Returns the entries of an EXIF block, with those of its directories, to be written anew."""
    nested = {tag: dict(block.get_ifd(tag)) for tag in (EXIF_IFD, GPS_IFD) if tag in block}
    for directory in nested.values():
        directory.pop(_INTEROP_IFD, None)  # an offset into the old block
    return {tag: _plain_text(value) for tag, value in block.items()} | nested


def _plain_text(value: Any) -> Any:
    """Returns text of a tag as the bytes it was read from: Pillow decodes Latin-1, writes ASCII."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("latin-1", "replace")
    return value
