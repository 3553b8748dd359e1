"""Chunks of PNG files: the pixels apart from what is said about them.

Decoders get the chunks that pixels depend on and no others, so that no text, profile or date of
whatever size or with whatever error keeps a picture from being read.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from maskgit_sr.errors import UserError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]

_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_TEXT = {b"tEXt", b"zTXt", b"iTXt"}
_KEPT = _TEXT | {b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tIME"}
_MAX_CHUNKS = 200_000  # 64 megapixels of 16-bit RGBA in pieces of 8 kB need 64,000
_MAX_INFLATED = 1 << 24  # bytes of a profile; ICC's own are below 4 MB
_MAX_PROFILES = 8  # stored as text, of a file
_XMP = b"XML:com.adobe.xmp"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_RAW_PROFILE = re.compile(rb"Raw profile type (exif|APP1|xmp|iptc|8bim)$", re.IGNORECASE)


@dataclass
class Png:
    """Parts of a PNG file.

    Attributes:
      pixels: a PNG file of the chunks that its pixels depend on.
      depth: bits a sample.
      color_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
      info: `icc_profile`, `exif`, `xmp`, `iptc` and `dpi` by Pillow's names, as far as present.
      chunks: text, time and colorimetry, which other PNG files can take over as they are.
      animated: the file has more frames than one.
      notes: for the user, on what was left out.
    """

    pixels: bytes
    depth: int
    color_type: int
    info: dict[str, object] = field(default_factory=dict)
    chunks: tuple[Chunk, ...] = ()
    animated: bool = False
    notes: tuple[str, ...] = ()


def size(data: bytes) -> tuple[int, int] | None:
    """Returns (width, height) of a file that begins as a PNG does, else None."""
    if len(data) < 24 or not data.startswith(SIGNATURE) or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def parse(data: bytes) -> Png:
    """Takes a PNG file apart.

    An ancillary chunk that is damaged is left out, with a note. A file that ends too early is not
    found out here, but by whoever decodes the pixels.

    Raises:
      UserError: a damaged chunk that pixels depend on, or more chunks than a picture needs.
    """
    needed: list[Chunk] = []
    others: list[Chunk] = []
    damaged: list[bytes] = []
    for name, body, whole in _walk(data):
        if name in _CRITICAL:
            if not whole:
                raise UserError(f"damaged or truncated picture (checksum of {name.decode()})")
            needed.append((name, body))
        elif name == b"tRNS":
            fits = whole and len(body) in {0: {2}, 2: {6}, 3: range(1, 257)}.get(data[25], ())
            if fits:
                # Beyond the palette it says nothing, and decoders stumble over it.
                entries = len(needed[-1][1]) // 3 if data[25] == 3 else len(body)
                needed.append((name, body[:entries]))
            elif data[25] in (0, 2, 3):
                damaged.append(name)
        elif whole:
            others.append((name, body))
        else:
            damaged.append(name)
    if not needed or needed[0][0] != b"IHDR" or len(needed[0][1]) != 13:
        raise UserError("damaged or truncated picture (no header)")
    if needed[-1][0] != b"IEND":
        needed.append((b"IEND", b""))
    found = Png(assemble(needed), needed[0][1][8], needed[0][1][9])
    damaged += _describe(found, others)
    if damaged:
        names = ", ".join(dict.fromkeys(name.decode("latin-1") for name in damaged))
        found.notes = (f"damaged {names} left out",)
    return found


def assemble(chunks: Iterable[Chunk]) -> bytes:
    """Returns the PNG file of these chunks; neighbouring IDAT become one."""
    parts: list[bytes] = [SIGNATURE]
    pixels: list[bytes] = []
    for name, body in chunks:
        if name == b"IDAT":
            pixels.append(body)
            continue
        if pixels:
            parts += _idat(b"".join(pixels))
            pixels = []
        parts += _chunk(name, body)
    return b"".join(parts)


def insert(data: bytes, chunks: Iterable[Chunk]) -> bytes:
    """Returns a PNG file with more chunks behind its header, where all ancillary ones may stand."""
    end = len(SIGNATURE) + 25
    parts = [part for name, body in chunks for part in _chunk(name, body)]
    return b"".join([data[:end], *parts, data[end:]])


def described(
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    iptc: bytes | None,
    density: tuple[float, float] | None,
) -> list[Chunk]:
    """Returns the chunks of a profile, EXIF, XMP, IPTC and pixels an inch."""
    chunks: list[Chunk] = []
    if icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if density:
        metre = (min(2**31 - 1, round(value / 0.0254)) for value in density)
        chunks.append((b"pHYs", struct.pack(">IIB", *metre, 1)))
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    if xmp:
        chunks.append((b"iTXt", _XMP + b"\0\0\0\0\0" + xmp))
    if iptc:  # has no chunk of its own; this is ImageMagick's, which ExifTool reads, too
        text = b"\niptc\n%8d\n" % len(iptc) + iptc.hex().encode() + b"\n"
        chunks.append((b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text)))
    return chunks


def comment(text: bytes) -> Chunk:
    """Returns the chunk of a comment, whose encoding is not known: UTF-8, or else Latin-1."""
    with contextlib.suppress(UnicodeDecodeError):
        if not text.decode().isascii():
            return b"iTXt", b"Comment\0\0\0\0\0" + text
    return b"tEXt", b"Comment\0" + text.replace(b"\0", b"")


def keyword(chunk: Chunk) -> str:
    """Returns the keyword of a text chunk, or the name of another."""
    name, body = chunk
    return body[:79].split(b"\0")[0].decode("latin-1") if name in _TEXT else name.decode("latin-1")


def _walk(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yields (name, body, True where the checksum fits) up to the end of picture or file."""
    at = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        tail = data[at + 8 + length : at + 12 + length]
        if len(tail) < 4:
            # Pixels as far as they go: the decoder tells whether that is all of them.
            if name == b"IDAT":
                yield name, body, True
            return
        yield name, body, zlib.crc32(body, zlib.crc32(name)) == int.from_bytes(tail, "big")
        if name == b"IEND":
            return
        at += 12 + length
    raise UserError(f"damaged picture (more than {_MAX_CHUNKS:,} chunks)")


def _describe(found: Png, chunks: Iterable[Chunk]) -> list[bytes]:
    """Sorts ancillary chunks into `found`; returns the names of those that are damaged."""
    kept, damaged, profiles = [], [], 0
    for name, body in chunks:
        try:
            if name == b"iCCP":
                found.info["icc_profile"] = _inflate(body.split(b"\0", 1)[1][1:])
            elif name == b"eXIf":
                found.info["exif"] = b"Exif\0\0" + body.removeprefix(b"Exif\0\0")
            elif name == b"pHYs":
                x, y, unit = struct.unpack(">IIB", body)
                if unit == 1:
                    found.info["dpi"] = (x * 0.0254, y * 0.0254)
            elif name == b"acTL":
                found.animated = struct.unpack(">II", body)[0] > 1
            elif name in _TEXT and (raw := _profile_key(body)):
                profiles += 1
                if profiles > _MAX_PROFILES:
                    raise ValueError("more profiles than there are kinds of them")
                _profile(found, name, body, raw)
            elif name in _KEPT:
                kept.append((name, body))
        except (struct.error, zlib.error, IndexError, ValueError):
            damaged.append(name)
    found.chunks = tuple(kept)
    return damaged


def _profile_key(body: bytes) -> bytes | None:
    """Returns the kind of a profile that is stored as text, or None of other text."""
    key = body[:79].split(b"\0")[0]
    raw = _RAW_PROFILE.match(key)
    return b"xml" if key == _XMP else raw[1].lower() if raw else None


def _profile(found: Png, name: bytes, body: bytes, kind: bytes) -> None:
    """Takes XMP, EXIF or IPTC that is stored as text into `found`.

    Left among the text it would tell of the orientation that was already applied.
    """
    text = body.split(b"\0", 1)[1]
    if name == b"zTXt":
        text = _inflate(text[1:])
    elif name == b"iTXt":
        packed, text = text[0], text[2:].split(b"\0", 2)[2]
        text = _inflate(text) if packed else text
    if kind != b"xml":
        # An empty line, name, length, and lines of hexadecimal digits.
        text = bytes.fromhex(text.split(b"\n", 3)[3].decode("ascii"))
        if text.startswith(XMP_HEADER):
            kind, text = b"xmp", text.removeprefix(XMP_HEADER)
    names = {b"exif": "exif", b"app1": "exif", b"iptc": "iptc", b"8bim": "iptc"}
    found.info.setdefault(names.get(kind, "xmp"), text)


def _inflate(data: bytes) -> bytes:
    engine = zlib.decompressobj()
    out = engine.decompress(data, _MAX_INFLATED)
    if not engine.eof:
        raise ValueError("too long, or cut off")
    return out


def _chunk(name: bytes, body: bytes) -> list[bytes]:
    crc = zlib.crc32(body, zlib.crc32(name))
    return [struct.pack(">I4s", len(body), name), body, struct.pack(">I", crc)]


def _idat(body: bytes) -> list[bytes]:
    longest = 1 << 30  # a chunk counts its bytes in 31 bits
    pieces = (body[at : at + longest] for at in range(0, len(body), longest))
    return [part for piece in pieces for part in _chunk(b"IDAT", piece)]
