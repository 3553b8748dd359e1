"""What the header of an encoded image says, read by TensorFlow operations before it is decoded.

A graph cannot catch an error, and a decoder allocates whatever the file claims; so everything that
can be refused is refused by what stands here. Offsets past the end read as zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

JPEG, PNG, WEBP, OTHER = range(4)
NAMES = ("JPEG", "PNG", "WebP")


class Header(NamedTuple):
    """Scalars of the graph.

    Attributes:
        kind: JPEG, PNG, WEBP or OTHER.
        width, height: as encoded, int64; 0 where there is no header.
        channels: of a JPEG.
        deep: 16 bits a sample.
        grey: one channel of colour.
        palette: colours come from a table.
        alpha: it may be transparent.
        animated: several pictures.
        profile: bytes of the colour profile, of a PNG its whole chunk; empty: there is none.
        split: the profile is spread over several segments of a JPEG.
        orientation: EXIF, 1 to 8.
    """

    kind: Any
    width: Any
    height: Any
    channels: Any
    deep: Any
    grey: Any
    palette: Any
    alpha: Any
    animated: Any
    profile: Any
    split: Any
    orientation: Any


class Bytes:
    """A file as numbers, int64."""

    def __init__(self, text: Any):
        self.length = tf.cast(tf.strings.length(text), tf.int64)
        self._data = tf.concat([tf.io.decode_raw(text, tf.uint8), tf.zeros([1], tf.uint8)], 0)

    def at(self, index: Any) -> Any:
        """The bytes at those offsets."""
        index = tf.cast(index, tf.int64)
        inside = (index >= 0) & (index < self.length)
        return tf.cast(tf.gather(self._data, tf.where(inside, index, self.length)), tf.int64)

    def number(self, index: Any, count: int, little: Any = False) -> Any:
        """The unsigned number of `count` bytes at each offset."""
        index = tf.cast(index, tf.int64)
        places = self.at(index[..., None] + tf.range(count, dtype=tf.int64))
        powers = [256**k for k in range(count)]
        weights = [tf.constant(order, tf.int64) for order in (powers, powers[::-1])]
        return tf.reduce_sum(places * tf.where(little, *weights), -1)

    def is_text(self, index: Any, text: bytes) -> Any:
        """Whether `text` stands there."""
        places = self.at(tf.cast(index, tf.int64) + tf.range(len(text), dtype=tf.int64))
        return tf.reduce_all(places == tf.constant(list(text), tf.int64))


def _zero() -> Any:
    return tf.constant(0, tf.int64)


def _whether(value: bool) -> Any:
    return tf.constant(value)


def read(text: Any) -> Header:
    """The header of a file's bytes."""
    data = Bytes(text)
    kind = tf.case(
        [
            (data.is_text(0, b"\xff\xd8\xff"), lambda: tf.constant(JPEG)),
            (data.is_text(0, b"\x89PNG\r\n\x1a\n"), lambda: tf.constant(PNG)),
            (data.is_text(0, b"RIFF") & data.is_text(8, b"WEBP"), lambda: tf.constant(WEBP)),
        ],
        default=lambda: tf.constant(OTHER),
        exclusive=True,
    )
    readers = [lambda: _jpeg(data), lambda: _png(data), lambda: _webp(data), _nothing]
    *rest, profile, size, split, exif = tf.switch_case(kind, readers)
    begin = tf.minimum(profile, data.length)
    profile = tf.strings.substr(text, begin, tf.minimum(size, data.length - begin))
    return Header._make([kind, *rest, profile, split, _orientation(data, exif)])


def _nothing() -> tuple[Any, ...]:
    zeros = [_zero() for _ in range(3)]
    return (*zeros, *[_whether(False)] * 5, _zero(), _zero(), _whether(False), _zero())


def _jpeg(data: Bytes) -> tuple[Any, ...]:
    """Segments up to the first scan: the frame's size, the first EXIF block and colour profile."""

    def body(at: Any, frame: Any, exif: Any, profile: Any) -> Any:
        marker = data.at(at + 1)
        bare = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        step = tf.where(bare, tf.constant(2, tf.int64), 2 + data.number(at + 2, 2))
        step = tf.where(marker == 0xFF, tf.constant(1, tf.int64), step)  # a fill byte
        tables = (marker == 0xC4) | (marker == 0xC8) | (marker == 0xCC)
        is_frame = (marker >= 0xC0) & (marker <= 0xCF) & ~tables
        frame = tf.where(is_frame & (frame == 0), at, frame)
        is_exif = (marker == 0xE1) & data.is_text(at + 4, b"Exif\0\0")
        exif = tf.where(is_exif & (exif == 0), at + 10, exif)
        is_profile = (marker == 0xE2) & data.is_text(at + 4, b"ICC_PROFILE\0")
        profile = tf.where(is_profile & (profile == 0), at + 18, profile)
        end = (marker == 0xDA) | (marker == 0xD9) | (data.at(at) != 0xFF)
        return tf.where(end, data.length, at + step), frame, exif, profile

    start = (tf.constant(2, tf.int64), _zero(), _zero(), _zero())
    _, frame, exif, profile = tf.while_loop(
        lambda at, *_: at < data.length, body, start, parallel_iterations=1
    )
    size = tf.where(profile > 0, data.number(profile - 16, 2) - 16, 0)
    split = (profile > 0) & (data.at(profile - 1) > 1)
    found = frame > 0
    height = tf.where(found, data.number(frame + 5, 2), 0)
    width = tf.where(found, data.number(frame + 7, 2), 0)
    channels = tf.where(found, data.at(frame + 9), 0)
    deep = found & (data.at(frame + 4) != 8)
    no = _whether(False)
    return width, height, channels, deep, channels == 1, no, no, no, profile, size, split, exif


def _png(data: Bytes) -> tuple[Any, ...]:
    """The first chunk, and where some of the others are."""

    def body(at: Any, key: Any, exif: Any, profile: Any) -> Any:
        key = key | data.is_text(at + 4, b"tRNS")
        exif = tf.where(data.is_text(at + 4, b"eXIf") & (exif == 0), at + 8, exif)
        profile = tf.where(data.is_text(at + 4, b"iCCP"), at, profile)
        return at + 12 + data.number(at, 4), key, exif, profile

    start = (tf.constant(8, tf.int64), _whether(False), _zero(), _zero())
    _, key, exif, profile = tf.while_loop(
        lambda at, *_: at < data.length, body, start, parallel_iterations=1
    )
    size = tf.where(profile > 0, data.number(profile, 4) + 12, 0)
    first = data.is_text(12, b"IHDR")
    width = tf.where(first, data.number(16, 4), 0)
    height = tf.where(first, data.number(20, 4), 0)
    color = data.at(25)
    grey = (color == 0) | (color == 4)
    alpha = (color == 4) | (color == 6) | key
    deep = data.at(24) == 16
    no = _whether(False)
    return width, height, _zero(), deep, grey, color == 3, alpha, no, profile, size, no, exif


def _webp(data: Bytes) -> tuple[Any, ...]:
    """Lossy, lossless or extended; the last has chunks for EXIF and a colour profile."""

    def lossy() -> tuple[Any, ...]:
        size = [tf.bitwise.bitwise_and(data.number(at, 2, True), 0x3FFF) for at in (26, 28)]
        return (*size, _whether(False), _whether(False))

    def lossless() -> tuple[Any, ...]:
        bits = data.number(21, 4, True)
        low = tf.bitwise.bitwise_and(bits, 0x3FFF)
        high = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 14), 0x3FFF)
        alpha = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 28), 1) == 1
        return low + 1, high + 1, alpha, _whether(False)

    def extended() -> tuple[Any, ...]:
        flags = data.at(20)
        alpha, animated = (tf.bitwise.bitwise_and(flags, bit) != 0 for bit in (0x10, 0x02))
        return data.number(24, 3, True) + 1, data.number(27, 3, True) + 1, alpha, animated

    def neither() -> tuple[Any, ...]:
        return _zero(), _zero(), _whether(False), _whether(False)

    width, height, alpha, animated = tf.case(
        [
            (data.is_text(12, b"VP8 "), lossy),
            (data.is_text(12, b"VP8L"), lossless),
            (data.is_text(12, b"VP8X"), extended),
        ],
        default=neither,
        exclusive=True,
    )

    def body(at: Any, exif: Any, profile: Any) -> Any:
        size = data.number(at + 4, 4, True)
        # some writers repeat the mark of a JPEG's block
        begin = at + 8 + tf.where(data.is_text(at + 8, b"Exif\0\0"), tf.constant(6, tf.int64), 0)
        exif = tf.where(data.is_text(at, b"EXIF") & (exif == 0), begin, exif)
        profile = tf.where(data.is_text(at, b"ICCP"), at + 8, profile)
        return at + 8 + size + size % 2, exif, profile

    start = (tf.constant(12, tf.int64), _zero(), _zero())
    _, exif, profile = tf.while_loop(
        lambda at, *_: at < data.length, body, start, parallel_iterations=1
    )
    size = tf.where(profile > 0, data.number(profile - 4, 4, True), 0)
    no = _whether(False)
    return width, height, _zero(), no, no, no, alpha, animated, profile, size, no, exif


def _orientation(data: Bytes, exif: Any) -> Any:
    """The tag of the EXIF block at that offset, 1 where there is none or it makes no sense."""
    little = data.is_text(exif, b"II*\0")
    known = (exif > 0) & (little | data.is_text(exif, b"MM\0*"))
    table = exif + data.number(exif + 4, 4, little)
    entries = table + 2 + 12 * tf.range(data.number(table, 2, little))
    kinds = data.number(entries + 2, 2, little)
    short, long = (data.number(entries + 8, size, little) for size in (2, 4))
    values = tf.where(kinds == 3, short, tf.where(kinds == 4, long, 1))
    value = tf.concat([values[data.number(entries, 2, little) == 274][:1], [1]], 0)[0]
    return tf.where(known & (value >= 1) & (value <= 8), value, 1)
