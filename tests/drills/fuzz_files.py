"""Sound picture files of every format and kind of samples, made here; see `fuzz_pictures`."""

from __future__ import annotations

import functools
import io
import itertools
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, features

from maskgit_sr import images


def chunk(name: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG, its checksum with it."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def exif(tag: int = 6, count: int = 1) -> bytes:
    """Returns a TIFF directory: orientation, make, a rational and an Exif directory."""
    tag, count = tag & 0xFFFF, count & 0xFFFFFFFF
    entries = [
        struct.pack("<HHI4s", 271, 2, 4, b"abc\0"),
        struct.pack("<HHIHH", 274, 3, 1, tag, 0),
        struct.pack("<HHII", 282, 5, count, 100),
        struct.pack("<HHII", 34665, 4, 1, 8 if tag == 0x7F else 90),
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    own = struct.pack("<H", 1) + struct.pack("<HHI4s", 36864, 7, 4, b"0232") + bytes(4)
    return head.ljust(90, b"\0") + own + struct.pack("<II", 72, 1)


def _texture(height: int, width: int, channels: int) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :channels]
    waves = 120 + 60 * np.sin(x / 3 + c) + 50 * np.cos(y / 4 - c)
    return np.clip(waves, 0, 255).astype(np.uint8)


def _png(color: int, depth: int, interlaced: bool, extra: bool) -> bytes:
    """Returns a PNG of noise, of any of the 15 kinds of samples, with or without passes."""
    side, channels = 13, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    rng = random.Random(depth * 100 + color)

    def rows(height: int, width: int) -> bytes:
        if not height or not width:
            return b""
        size = -(-width * channels * depth // 8)
        return b"".join(bytes((rng.randrange(5),)) + rng.randbytes(size) for _ in range(height))

    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    steps += ((1, 0, 2, 1),)
    passes = steps if interlaced else ((0, 0, 1, 1),)
    body = b"".join(
        rows(len(range(top, side, down)), len(range(left, side, right)))
        for top, left, down, right in passes
    )
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, color, 0, 0, interlaced))]
    if extra:
        chunks += [(b"gAMA", struct.pack(">I", 45455)), (b"pHYs", struct.pack(">IIB", 99, 99, 1))]
        chunks += [(b"eXIf", exif()), (b"iCCP", b"s\0\0" + zlib.compress(_profile()))]
    if color == 3:
        chunks.append((b"PLTE", rng.randbytes(3 * 2**depth)))
    if extra and color in (0, 2, 3):
        chunks.append((b"tRNS", {0: b"\0\1", 2: bytes(6), 3: b"\0\x80"}[color]))
    if extra:
        chunks += [(b"tEXt", b"Title\0of it"), (b"iTXt", b"Author\0\0\0\0\0who")]
    chunks += [(b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


@functools.cache
def _profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _tiled_tiff(
    order: str, depth: int, channels: int, planar: int, packed: bool, side: int = 16
) -> bytes:
    """Returns a TIFF of 32×32 in four tiles, or in one much larger one, deflated or not."""
    samples = bytes(side * side * depth // 8 * (channels if planar == 1 else 1))
    tile = zlib.compress(samples) if packed else samples
    count = (4 if side == 16 else 1) * (1 if planar == 1 else channels)
    tags = [(256, 3, [32]), (257, 3, [32]), (258, 3, [depth] * channels)]
    tags += [(259, 3, [8 if packed else 1]), (262, 3, [2 if channels >= 3 else 1])]
    tags += [(277, 3, [channels]), (284, 3, [planar]), (322, 3, [side]), (323, 3, [side])]
    tags += [(324, 4, [0] * count), (325, 4, [len(tile)] * count)]
    if channels in (2, 4):
        tags.append((338, 3, [2]))
    # Values of more than four bytes come behind the directory, the tiles behind those.
    place = 8 + 2 + 12 * len(tags) + 4
    begin = place + sum(4 * len(values) for _, _, values in tags)
    outside, entries = b"", b""
    for tag, kind, values in tags:
        if tag == 324:
            values = [begin + len(tile) * i for i in range(count)]
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        at = packed.ljust(4, b"\0")
        if len(packed) > 4:
            at = struct.pack(f"{order}I", place + len(outside))
            outside += packed
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + at
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return (head + directory + outside).ljust(begin, b"\0") + tile * count


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _tiffs() -> Iterator[tuple[str, bytes]]:
    color = Image.fromarray(_texture(40, 30, 3))
    for mode, packing in itertools.product(
        ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB"),
        ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group3", "group4"),
    ):
        image = color.convert("L") if mode in ("I;16", "LAB") else color.convert(mode)
        if mode == "I;16":
            image = Image.fromarray(_texture(40, 30, 1)[..., 0].astype(np.uint16) * 257)
        if mode == "LAB":
            image = Image.merge("LAB", color.split())
        fax = packing.startswith("group")
        if fax != (mode == "1") or (packing == "jpeg" and mode not in ("L", "RGB", "CMYK")):
            continue
        yield f"{mode}.{packing}.tif", _saved(image, "TIFF", compression=packing, dpi=(72, 72))
    for kind in itertools.product("<>", (8, 16), (1, 3, 4), (1, 2), (False, True)):
        yield f"tiles.{'.'.join(map(str, kind))}.tif", _tiled_tiff(*kind)
    yield "vast.tif", _tiled_tiff("<", 8, 3, 1, True, side=8192)
    pages = {"save_all": True, "append_images": [color, color]}
    yield "pages.tif", _saved(color, "TIFF", **pages)
    yield "big.tif", _saved(color, "TIFF", big_tiff=True)
    yield "exif.tif", _saved(color, "TIFF", exif=exif(), icc_profile=_profile())
    deep = images.from_array(_texture(20, 30, 4).astype(np.uint16) * 257)
    yield "deep.tif", images.to_bytes(deep, "TIFF")[0]


@functools.cache
def seeds() -> dict[str, bytes]:
    """Returns sound files by name, of every format and kind of samples that can be made here."""
    found: dict[str, bytes] = {}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    for color, some in depths.items():
        for depth, interlaced, extra in itertools.product(some, (False, True), (False, True)):
            name = f"color{color}.{depth}{'.passes' * interlaced}{'.extra' * extra}.png"
            found[name] = _png(color, depth, interlaced, extra)
    color = Image.fromarray(_texture(40, 30, 3))
    clear = Image.fromarray(_texture(40, 30, 4))
    several = {"save_all": True, "append_images": [color.rotate(90), color]}
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>" * 9, zip=True)
    found["anim.png"] = _saved(color, "PNG", **several)
    found["xmp.png"] = _saved(clear, "PNG", pnginfo=text, icc_profile=_profile(), exif=exif())
    deep = images.from_array(_texture(20, 30, 4).astype(np.uint16) * 257)
    found["deep.png"] = images.to_bytes(deep, "PNG")[0]
    described = {"exif": b"Exif\0\0" + exif(), "icc_profile": _profile(), "dpi": (300, 300)}
    for mode in ("L", "RGB", "CMYK"):
        image = color.convert(mode)
        found[f"{mode}.jpg"] = _saved(image, "JPEG")
        found[f"{mode}.progressive.jpg"] = _saved(image, "JPEG", progressive=True)
        found[f"{mode}.described.jpg"] = _saved(image, "JPEG", comment=b"c", **described)
    # Each scan of it costs its whole area.
    flat = Image.new("RGB", (1600, 1600), (99, 120, 30))
    found["flat.jpg"] = _saved(flat, "JPEG", progressive=True, quality=10)
    found["444.restart.jpg"] = _saved(color, "JPEG", subsampling=0, restart_marker_rows=1)
    found["two.mpo"] = _saved(color, "MPO", **several)
    found |= dict(_tiffs())
    found["lossy.webp"] = _saved(color, "WEBP", quality=70, **{k: described[k] for k in ("exif",)})
    found["lossless.webp"] = _saved(clear, "WEBP", lossless=True, icc_profile=_profile())
    found["anim.webp"] = _saved(color, "WEBP", **several)
    found["one.gif"] = _saved(color, "GIF")
    found["anim.gif"] = _saved(color, "GIF", loop=0, transparency=3, **several)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        image = clear.convert(mode)
        found[f"{mode}.bmp"] = _saved(image, "BMP")
        found[f"{mode}.tga"] = _saved(image, "TGA", compression="tga_rle" if mode != "1" else None)
        if mode != "P":
            found[f"{mode}.ppm"] = _saved(image, "PPM")
    found["F.pfm"] = _saved(color.convert("F"), "PPM")
    plain = " ".join(map(str, range(48)))
    found["plain.ppm"] = f"P3 4 4 255 {plain}\n".encode()
    found["plain.pbm"] = b"P1 # c\n4 4 0101 1010 0101 1010\n"
    found["deep.ppm"] = b"P6\n# comment\n4 4\n1023\n" + bytes(range(96))
    found["deep.pgm"] = b"P5 4 4 65535\n" + bytes(range(32))
    found["one.pam"] = b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
    found["one.pam"] += bytes(range(16))
    found["icon.ico"] = _saved(clear.resize((32, 32)), "ICO")
    found["icon.bmp.ico"] = _saved(clear.resize((32, 32)), "ICO", bitmap_format="bmp")
    if features.check("avif"):
        found["one.avif"] = _saved(clear, "AVIF", speed=10, exif=exif())
    if features.check("jpg_2000"):
        found["one.jp2"] = _saved(color, "JPEG2000")
        found["clear.jp2"] = _saved(clear, "JPEG2000", irreversible=True)
        found["raw.j2k"] = _saved(color, "JPEG2000", no_jp2=True)
    return found
