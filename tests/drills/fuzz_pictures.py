"""Picture files made here, and their mutations; see `fuzz`."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from fuzz import Fault, refusal
from fuzz_files import chunk, exif, seeds

from maskgit_sr import images
from maskgit_sr.errors import UserError

KINDS = ("PNG", "TIFF", "WEBP", "JPEG")
_WRITE_BACK = 1_000_000
"""Most pixels of a picture that is written again."""


def trial(data: bytes, seed: int) -> tuple[str, str]:
    """Reads a file, writes the picture again and reads that.

    Raises:
        Fault: the picture is none, or what was written cannot be read.
        Exception: anything that is not a UserError.
    """
    try:
        picture = images.from_bytes(data)
    except UserError as error:
        return "refused", refusal(error)
    color = picture.color
    sound = color.ndim == 3 and color.shape[2] == 3 and color.size
    if not sound or color.dtype not in (np.uint8, np.uint16, np.float32):
        raise Fault(f"no picture: {color.dtype} {color.shape}")
    for note in picture.notes:
        refusal(UserError(note))
    if color.size > 3 * _WRITE_BACK:
        return "read", ""
    kind = KINDS[seed % len(KINDS)]
    try:
        written, _ = images.to_bytes(picture, kind)
    except UserError as error:
        return "read, not written", refusal(error)
    try:
        again = images.from_bytes(written)
    except UserError as error:
        raise Fault(f"{kind} written of it cannot be read: {error}") from error
    if again.color.shape != color.shape:
        raise Fault(f"{kind} written of it: {color.shape} became {again.color.shape}")
    return "read", ""


def case(seed: int) -> bytes:
    """Returns the mutated file of a seed."""
    return _mutated(seed)[0]


def told(seed: int) -> str:
    """Returns how that file was made."""
    return _mutated(seed)[1]


def _mutated(seed: int) -> tuple[bytes, str]:
    rng = random.Random(f"picture {seed}")
    name = rng.choice(sorted(seeds()))
    data, said = seeds()[name], [name]
    # By far most cases are mutated a little: with much, the first check ends it.
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        own = [m for magic, some in OWN.items() if data.startswith(magic) for m in some]
        # Those that know the format get further in.
        mutation = rng.choice(own if own and rng.random() < 0.75 else GENERIC)
        data = mutation(data, rng)
        said.append(mutation.__name__)
    return data, " + ".join(said)


# ---------------------------------------------------------------- mutations of any bytes

EXTREMES: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
)
EXTREMES += (4000, 7900, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64)) if found else 0):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def cut_short(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def splice(data: bytes, rng: random.Random) -> bytes:
    other = seeds()[rng.choice(sorted(seeds()))]
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def insert_run(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    count = rng.choice((1, 4, 300, 70_000))
    run = rng.choice((bytes(1), b"\xff", b"A", b"\xff\xd8", rng.randbytes(16))) * count
    return data[:at] + run + data[at:]


def repeat_part(data: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    times = rng.choice((2, 3, min(1000, 200_000 // max(1, end - begin))))
    return data[:begin] + data[begin:end] * times + data[end:]


def leave_out(data: bytes, rng: random.Random) -> bytes:
    begin = rng.randrange(len(data) + 1)
    return data[:begin] + data[begin + rng.choice((1, 2, 4, 100)) :]


def set_number(data: bytes, rng: random.Random) -> bytes:
    """Sets a number of 1, 2, 4 or 8 bytes to an extreme, mostly where the header is."""
    form = rng.choice(("<", ">")) + rng.choice("BHIIQ")
    size = struct.calcsize(form)
    if len(data) < size:
        return data
    last = len(data) - size
    at = rng.randrange(1 + (min(last, 64) if rng.random() < 0.6 else last))
    value = rng.choice((*EXTREMES, rng.getrandbits(32))) & (256**size - 1)
    return data[:at] + struct.pack(form, value) + data[at + size :]


GENERIC: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bits, cut_short, splice, insert_run, repeat_part, leave_out, set_number, set_number,
)  # fmt: skip


# ---------------------------------------------------------------- PNG


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def png_chunks(data: bytes, rng: random.Random) -> bytes:
    """Changes, drops, repeats or moves chunks, or adds one, with right checksums."""
    chunks = list(_chunks(data))
    if not chunks:
        return data
    place = rng.randrange(len(chunks))
    name, body = chunks[place]
    what = rng.randrange(7)
    if what == 0:
        chunks[place] = name, rng.choice(GENERIC)(body, rng)
    elif what == 1:
        chunks[place] = rng.choice(list(_chunks(data)))[0], body
    elif what == 2:
        del chunks[place]
    elif what == 3:
        chunks[place:place] = [(name, body)] * rng.choice((1, 2, 500))
    elif what == 4:
        rng.shuffle(chunks)
    elif what == 5:
        chunks.insert(place, _odd_chunk(rng))
    elif body and name == b"IHDR":
        at = rng.choice((8, 9, 10, 11, 12, 0, 4))
        body = bytearray(body)
        size = 4 if at < 8 else 1
        number = rng.choice(EXTREMES) if size == 4 else rng.randrange(17)
        body[at : at + size] = (number & (256**size - 1)).to_bytes(size, "big")
        chunks[place] = name, bytes(body)
    found = data[:8] + b"".join(chunk(*part) for part in chunks)
    return found if rng.random() < 0.9 else flip_bits(found, rng)


def _odd_chunk(rng: random.Random) -> tuple[bytes, bytes]:
    size = rng.choice((0, 3, 50_000, 2_000_000))
    packed = zlib.compress(bytes(rng.choice((10, 40_000_000))), 9)
    return rng.choice(
        (
            (b"tEXt", b"Title\0" + b"x" * size),
            (b"tEXt", rng.randbytes(min(size, 5000))),
            (b"zTXt", b"Title\0\0" + packed),
            (b"zTXt", b"Title\0\7" + b"junk" * 9),
            (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x>" * size),
            (b"iCCP", b"icc\0\0" + packed),
            (b"iCCP", b"icc\0\0" + zlib.compress(rng.randbytes(200))),
            (b"eXIf", rng.randbytes(rng.choice((2, 60)))),
            (b"eXIf", exif(rng.choice(EXTREMES), rng.choice(EXTREMES))),
            (b"tRNS", rng.randbytes(rng.choice((0, 1, 2, 6, 300)))),
            (b"PLTE", rng.randbytes(rng.choice((0, 1, 3, 768, 900)))),
            (b"gAMA", struct.pack(">I", rng.choice(EXTREMES))),
            (b"cHRM", rng.randbytes(rng.choice((4, 32)))),
            (b"pHYs", struct.pack(">IIB", rng.choice(EXTREMES), rng.choice(EXTREMES), 1)),
            (b"acTL", struct.pack(">II", rng.choice(EXTREMES), 0)),
            (b"fcTL", rng.randbytes(26)),
            (b"IDAT", zlib.compress(bytes(rng.choice((10, 40_000_000))))),
            (b"IEND", b""),
            (bytes(rng.choices(b"ABYZabyz", k=4)), rng.randbytes(20)),
        )
    )


def png_samples(data: bytes, rng: random.Random) -> bytes:
    """Changes the decompressed image data, filter types among them."""
    chunks = [part for part in _chunks(data) if part[0] != b"IDAT"]
    try:
        raw = zlib.decompress(b"".join(body for name, body in _chunks(data) if name == b"IDAT"))
    except zlib.error:
        return data
    body = zlib.compress(rng.choice(GENERIC)(raw, rng))
    return data[:8] + b"".join(chunk(*c) for c in (*chunks[:-1], (b"IDAT", body), *chunks[-1:]))


# ---------------------------------------------------------------- JPEG


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """Returns (marker, begin, end) of the segments before the first scan's data and after it."""
    found, at = [], 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0, 0xFF, *range(0xD0, 0xDA)):
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], at, end))
        at = end
    return found


def jpeg_segments(data: bytes, rng: random.Random) -> bytes:
    """Changes a segment's body, length or marker; drops, repeats or adds one; repeats scans."""
    segments = _segments(data)
    if not segments:
        return data
    marker, begin, end = rng.choice(segments)
    what, body = rng.randrange(7), data[begin + 4 : end]
    if what == 0:
        body = rng.choice(GENERIC)(body, rng)[:65_000]
    elif what == 1:
        return (
            data[: begin + 2] + struct.pack(">H", rng.choice(EXTREMES) & 0xFFFF) + data[begin + 4 :]
        )
    elif what == 2:
        marker = rng.choice(
            (0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC9, 0xDB, 0xDD, 0xDC, 0xE0, 0xE1, 0xEE)
        )
    elif what == 3:
        return data[:begin] + data[end:]
    elif what == 4:
        body += data[begin:end] * rng.choice((1, 3))
        return data[:end] + data[begin:end] * rng.choice((1, 40)) + data[end:]
    elif what == 5:
        added = rng.choice(
            (
                b"Exif\0\0" + exif(rng.choice(EXTREMES), rng.choice(EXTREMES)),
                b"ICC_PROFILE\0" + bytes((rng.randrange(4), rng.randrange(4))) + rng.randbytes(50),
                b"http://ns.adobe.com/xap/1.0/\0" + b"<a>" * rng.choice((1, 20_000)),
                b"MPF\0" + exif(rng.choice(EXTREMES), rng.choice(EXTREMES)),
                b"Photoshop 3.0\0" + b"8BIM" + rng.randbytes(20),
            )
        )
        marker = 0xE2 if added[:3] in (b"ICC", b"MPF") else 0xED if added[0] == 80 else 0xE1
        return data[:2] + _segment(marker, added) + data[2:]
    else:  # the scans again: work that does not grow with the size
        scan = data.find(b"\xff\xda")
        last = data.rfind(b"\xff\xd9")
        if 0 < scan < last and last - scan < 200_000:
            times = min(rng.choice((2, 100, 5000)), 2_000_000 // (last - scan))
            return data[:last] + data[scan:last] * times + data[last:]
    return data[:begin] + _segment(marker, body) + data[end:]


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(body)) + body


# ---------------------------------------------------------------- TIFF


def tiff_tags(data: bytes, rng: random.Random) -> bytes:
    """Sets id, type, count or value of a tag to an extreme, or the place of the next directory."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8 or data[2:4] not in (b"*\0", b"\0*"):
        return set_number(data, rng)
    (place,) = struct.unpack(f"{order}I", data[4:8])
    if place + 2 > len(data):
        return set_number(data, rng)
    (count,) = struct.unpack(f"{order}H", data[place : place + 2])
    at = place + 2 + 12 * rng.randrange(max(1, min(count, 60)))
    form, offset = rng.choice(
        (("H", 0), ("H", 2), ("I", 4), ("I", 8), ("H", 8), ("H", 8), ("I", 8))
    )
    if rng.random() < 0.05:
        form, offset, at = "I", 0, place + 2 + 12 * count
    if rng.random() < 0.1:  # sides of the picture, of its tiles, rows of a strip
        side = rng.choice((16, 1024, 7984, 16384, 65520))
        for i in range(count):
            tag = place + 2 + 12 * i
            if struct.unpack(f"{order}H", data[tag : tag + 2].rjust(2))[0] in rng.choice(
                ((322, 323), (256, 257), (278,), (256, 257, 322, 323))
            ):
                number = struct.pack(f"{order}HII", 4, 1, side)
                data = data[: tag + 2] + number + data[tag + 12 :]
        return data
    value = rng.choice((*EXTREMES, place, len(data), rng.randrange(20), 32773, 50_000))
    packed = struct.pack(order + form, value & (256 ** struct.calcsize(form) - 1))
    at += offset
    return data[:at] + packed + data[at + len(packed) :]


OWN: dict[bytes, list[Callable[[bytes, random.Random], bytes]]] = {
    b"\x89PNG": [png_chunks, png_chunks, png_samples],
    b"\xff\xd8": [jpeg_segments],
    b"II": [tiff_tags],
    b"MM": [tiff_tags],
}
