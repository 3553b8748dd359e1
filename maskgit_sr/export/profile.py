"""A colour profile as a chunk of a PNG, put together by TensorFlow operations.

No operation there compresses or computes a CRC-32. Deflate allows for stored blocks, and the CRC is
linear, so that its bits are sums modulo 2 of the message's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

MAX_PROFILE = 65_535  # bytes of a stored block
_BLOCK = 1024
_HEADER_END = 33  # of a PNG: signature and IHDR
_NAME = b"iCCP"


def insert(png: Any, chunk: Any) -> Any:
    """The PNG with a chunk behind its header."""
    rest = tf.strings.substr(png, _HEADER_END, tf.strings.length(png) - _HEADER_END)
    return tf.strings.join([tf.strings.substr(png, 0, _HEADER_END), chunk, rest])


def chunk(profile: Any) -> Any:
    """The iCCP chunk of a profile of at most `MAX_PROFILE` bytes, both strings."""
    length = tf.strings.length(profile)
    stored = tf.strings.join(
        [
            b"\x78\x01\x01",
            _number(length, 2, little=True),
            _number(65_535 - length, 2, little=True),
            profile,
            _number(adler32(profile), 4),
        ]
    )
    body = tf.strings.join([_NAME + b"ICC Profile\0\0", stored])
    size = _number(tf.strings.length(body) - len(_NAME), 4)
    return tf.strings.join([size, body, _number(crc32(body), 4)])


def adler32(text: Any) -> Any:
    """zlib's checksum, int64."""
    data = tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int64)
    length = tf.size(data, tf.int64)
    low = (1 + tf.reduce_sum(data)) % 65_521
    high = (length + tf.reduce_sum(data * tf.range(length, 0, -1))) % 65_521
    return high * 65_536 + low


def crc32(text: Any) -> Any:
    """PNG's checksum of four bytes and more, int64."""
    # The register starts with ones, which is as if the first four bytes were inverted; zeros in
    # front of a message then change nothing.
    first = tf.range(tf.strings.length(text)) < 4
    data = tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int64)
    data = tf.bitwise.bitwise_xor(data, tf.where(first, tf.constant(255, tf.int64), 0))
    data = tf.concat([tf.zeros([-tf.size(data) % _BLOCK], tf.int64), data], 0)
    table, bits = tf.constant(_contributions()), tf.range(8, dtype=tf.int64)

    def body(row: Any, register: Any) -> Any:
        block = data[row * _BLOCK : (row + 1) * _BLOCK]
        carried = tf.bitwise.right_shift(register, 8 * tf.range(4, dtype=tf.int64)) % 256
        head = tf.bitwise.bitwise_xor(block[:4], carried)
        block = tf.reshape(tf.concat([head, block[4:]], 0), [_BLOCK])
        chosen = tf.bitwise.right_shift(block[:, None], bits) % 2 == 1
        values = tf.reshape(tf.where(chosen, table, 0), [-1])
        while values.shape[0] > 1:
            half = values.shape[0] // 2
            values = tf.bitwise.bitwise_xor(values[:half], values[half:])
        return row + 1, values[0]

    rows = tf.size(data) // _BLOCK
    start = (tf.constant(0), tf.constant(0, tf.int64))
    _, register = tf.while_loop(lambda row, _: row < rows, body, start, parallel_iterations=1)
    return tf.bitwise.bitwise_xor(register, 0xFFFFFFFF)


def _contributions() -> np.ndarray:
    """[block, 8]: what each bit of a block adds to the register after the block."""
    shift = np.arange(256, dtype=np.int64)
    for _ in range(8):
        shift = np.where(shift & 1, (shift >> 1) ^ 0xEDB88320, shift >> 1)
    table = np.empty((_BLOCK, 8), np.int64)
    values = shift[1 << np.arange(8)]
    for place in reversed(range(_BLOCK)):
        table[place] = values
        values = (values >> 8) ^ shift[values & 255]
    return table


def _number(value: Any, count: int, *, little: bool = False) -> Any:
    """An unsigned number as bytes."""
    places = range(count) if little else reversed(range(count))
    shifts = tf.constant([8 * place for place in places], tf.int64)
    digits = tf.bitwise.right_shift(tf.cast(value, tf.int64), shifts) % 256
    letters = tf.constant([bytes([k]) for k in range(256)])
    return tf.strings.reduce_join(tf.gather(letters, digits))
