"""Encoders: samples and metadata to the bytes of a PNG, JPEG, WebP, AVIF or TIFF file.

Pillow does the 8-bit work. PNG of 16 bits and TIFF are put together here, because neither Pillow
nor OpenCV writes 16-bit colour together with its metadata, nor 16-bit grey with alpha at all.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from maskgit_sr.images import png
from maskgit_sr.images.metadata import (
    IPTC_TAG,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    XMP_TAG,
    Y_RESOLUTION,
    Metadata,
    left_out,
    photoshop,
    tags_of,
)
from maskgit_sr.images.samples import cast

LOSSY = ("JPEG", "WEBP", "AVIF")
"""Formats that have a quality."""
# libjpeg's own limit, WebP's 14 bits, and what libavif reads again
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768}
_MAX_JPEG_SEGMENT = 65_533  # a JPEG segment counts its bytes in 16 bits
_MAX_JPEG_DENSITY = 65_535
_STRIP_BYTES = 1 << 20
_INCHES = 2


def encode(
    samples: np.ndarray, kind: str, quality: int, metadata: Metadata
) -> tuple[bytes, tuple[str, ...]]:
    """Encodes uint8, uint16 or [0, 1] float `samples` [H, W, 1..4] as `kind`.

    Returns:
      The file, and notes on what the format could not keep.
    """
    channels = samples.shape[2]
    notes = []
    if kind in LOSSY and samples.dtype != np.uint8:
        notes.append(f"{kind} has 8 bits: {samples.dtype} samples rounded")
        samples = cast(samples, np.uint8)
    elif samples.dtype.kind == "f":
        notes.append("floats stored as 16 bits")
        samples = cast(samples, np.uint16)
    metadata, more = _storable(metadata, kind)
    notes += more

    if kind == "TIFF":
        if channels == 2 and samples.dtype == np.uint16:
            # Pillow and OpenCV cannot read 16-bit grey with alpha.
            notes.append("16-bit grey with alpha stored as RGBA")
            samples = samples[..., [0, 0, 0, 1]]
        data, more = _tiff(samples, metadata)
        return data, (*notes, *more)
    if kind == "PNG":
        bare = _png_16_bit(samples) if samples.dtype == np.uint16 else _pillow(samples, kind)
        m = metadata
        chunks = png.described(m.icc, m.exif, m.xmp, m.iptc, m.density)
        chunks += [*m.chunks, *([png.comment(m.comment)] if m.comment else [])]
        return png.insert(bare, chunks), tuple(notes)
    options: dict[str, Any] = {"quality": quality, **described(metadata)}
    if kind == "JPEG":
        options["subsampling"] = 0  # chroma at full resolution
        if metadata.iptc:
            content = photoshop(metadata.iptc)
            options["extra"] = b"\xff\xed" + struct.pack(">H", 2 + len(content)) + content
    else:
        options.pop("dpi", None)
        if kind == "WEBP":
            options["exact"] = True  # keeps colours under transparent pixels
        else:
            # 8: 2.3 times as fast as Pillow's 6, for files 8 % larger
            options |= {"subsampling": "4:0:0" if channels < 3 else "4:4:4", "speed": 8}
    return _pillow(samples, kind, **options), tuple(notes)


def described(metadata: Metadata) -> dict[str, Any]:
    """Returns what is present, by Pillow's names for it."""
    names = ("icc_profile", "exif", "xmp", "dpi", "comment")
    m = metadata
    found = zip(names, (m.icc, m.exif, m.xmp, m.density, m.comment), strict=True)
    return {name: value for name, value in found if value}


def _storable(metadata: Metadata, kind: str) -> tuple[Metadata, tuple[str, ...]]:
    """Returns what a file of `kind` can hold, and notes on the rest."""
    m, lost = metadata, []
    if kind != "PNG":
        # sRGB is what readers assume anyway.
        lost += [png.keyword(chunk) for chunk in m.chunks if chunk[0] != b"sRGB"]
        m = dataclasses.replace(m, chunks=())
    if kind in ("TIFF", "WEBP", "AVIF") and m.comment:
        lost.append("comment")
        m = dataclasses.replace(m, comment=None)
    if kind in ("WEBP", "AVIF"):
        if m.iptc:
            lost.append("IPTC")
            m = dataclasses.replace(m, iptc=None)
        if m.density and m.exif is None:  # which is the only place for it
            m = dataclasses.replace(m, exif=_density_exif(m.density))
        elif m.density and m.exif and X_RESOLUTION not in _tiff_tags(m.exif):
            lost.append("density")
    if kind == "JPEG":
        parts = {"EXIF": m.exif, "XMP": m.xmp and png.XMP_HEADER + m.xmp, "IPTC": m.iptc}
        long = [name for name, part in parts.items() if part and len(part) > _MAX_JPEG_SEGMENT - 64]
        lost += [f"{name} of more than 64 kB" for name in long]
        absent: dict[str, Any] = {name.lower(): None for name in long}
        m = dataclasses.replace(m, **absent)
        if m.comment and len(m.comment) > _MAX_JPEG_SEGMENT:
            lost.append("comment of more than 64 kB")
            m = dataclasses.replace(m, comment=None)
        if m.density and not all(1 <= round(x) <= _MAX_JPEG_DENSITY for x in m.density):
            lost.append("density")
            m = dataclasses.replace(m, density=None)
    return m, left_out(lost, kind)


def _density_exif(density: tuple[float, float]) -> bytes:
    block = Image.Exif()
    block[X_RESOLUTION], block[Y_RESOLUTION] = map(_rational, density)
    block[RESOLUTION_UNIT] = _INCHES
    return block.tobytes()


def _rational(value: float) -> IFDRational:
    return IFDRational(min(round(value * 100), 2**32 - 1), 100)


def _pillow(samples: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png_16_bit(samples: np.ndarray) -> bytes:
    height, width, channels = samples.shape
    color_type = (0, 4, 2, 6)[channels - 1]
    # PNG is big-endian, and its filter's differences wrap around at 256, as those of bytes do.
    rows = samples.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 1  # every row as differences to the pixel on its left
    filtered[:, 1:] = rows
    filtered[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    packed = zlib.compress(filtered.tobytes(), 6)
    return png.assemble([(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")])


def _tiff(samples: np.ndarray, metadata: Metadata) -> tuple[bytes, tuple[str, ...]]:
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
    exif = metadata.exif
    profiles = {34675: metadata.icc, XMP_TAG: metadata.xmp, IPTC_TAG: metadata.iptc}
    tags |= {tag: profile for tag, profile in profiles.items() if profile}
    if metadata.density:
        across, down = map(_rational, metadata.density)
        tags |= {X_RESOLUTION: across, Y_RESOLUTION: down, RESOLUTION_UNIT: _INCHES}
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
