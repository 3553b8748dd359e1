"""Decoding, restoring and encoding of image files as TensorFlow operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from maskgit_sr.export import graph
from maskgit_sr.images.alpha import VISIBLE
from maskgit_sr.images.samples import MAX_MEAN_TINT, MAX_TINT

_NAMES = ("JPEG", "PNG", "WebP", "")
_PNG, _WEBP, _OTHER = 1, 2, 3
# The orientation in the directory right behind the header of an EXIF block, of either byte order.
# \C is RE2's "any byte"; a dot would stand for a character of UTF-8.
_EXIF = (
    r"^(?:\C*?(?:Exif\x00\x00|eXIf|EXIF\C{4})"
    r"(?:II\*\x00\x08\x00\x00\x00\C\C(?:\C{12}){0,60}?\x12\x01\x03\x00\x01\x00\x00\x00(\C)\x00"
    r"|MM\x00\*\x00\x00\x00\x08\C\C(?:\C{12}){0,60}?\x01\x12\x00\x03\x00\x00\x00\x01\x00(\C)))?"
    r"\C*$"
)
_LEVELS = 16  # halvings of a side until one pixel is left
_SEARCHED = 65_536  # bytes from either end of a file in which its EXIF block is looked for
Restore = Callable[[Any, Any], Any]
"""(uint8 or uint16 [H, W, 3], scalar bool: greyscale) → restored samples of the same dtype."""


def restore_bytes(text: Any, restore: Restore, scale: int, max_pixels: int, webp: bool) -> Any:
    """Returns (PNG, "") or ("", reason) for one encoded image.

    EXIF orientation is applied; transparency, greyscale and the 16 bits of a PNG are kept; EXIF
    block and colour profile are not.
    """
    # A graph cannot catch an error, and a decoder allocates whatever the file claims: images that
    # are too large are rejected by their first bytes if these tell. Bytes past the end read as 0.
    start = tf.strings.join([tf.strings.substr(text, 0, 32), b"\0" * 32])
    kind = _kind(start)

    def run(dtype: Any) -> Any:
        samples = _attempt(text, partial(_decode, kind=kind, webp=webp, dtype=dtype), [0, 0, 1])
        height, width = (tf.shape(samples, tf.int64)[axis] for axis in (0, 1))
        damaged = tf.strings.join(["damaged or truncated ", tf.gather(_NAMES, kind)])
        wrong = tf.where(height * width == 0, damaged, _too_large(height, width, max_pixels))
        return tf.cond(
            wrong == "",
            lambda: (_restored(_upright(samples, text), restore, scale), wrong),
            lambda: (tf.constant(b""), wrong),
        )

    # byte 24 of a PNG is its bit depth; all other files have 8 bits, or are decoded to 8
    deep = (kind == _PNG) & (tf.strings.substr(start, 24, 1) == b"\x10")
    problem = _refusal(text, start, kind, max_pixels, webp)
    return tf.cond(
        problem == "",
        lambda: tf.cond(deep, lambda: run(tf.uint16), lambda: run(tf.uint8)),
        lambda: (tf.constant(b""), problem),
    )


def _kind(start: Any) -> Any:
    jpeg = tf.strings.substr(start, 0, 3) == b"\xff\xd8\xff"
    png = tf.strings.substr(start, 0, 8) == b"\x89PNG\r\n\x1a\n"
    webp = tf.strings.regex_full_match(start, r"RIFF\C{4}WEBP\C*")
    return tf.argmax(tf.cast([jpeg, png, webp, True], tf.int32), output_type=tf.int32)


def _refusal(text: Any, start: Any, kind: Any, max_pixels: int, webp: bool) -> Any:
    """Returns why the image cannot be decoded, as far as its first bytes tell, or ""."""

    def png() -> Any:
        sides = tf.io.decode_raw(tf.strings.substr(start, 16, 8), tf.int32, little_endian=False)
        # sides of 2³¹ and more, which PNG forbids, read as negative
        return tf.concat([tf.maximum(sides[::-1], 0), [0]], 0)

    # a WebP has at most 16,383 pixels a side, and is counted once it is decoded
    shape = tf.switch_case(
        kind,
        [lambda: _attempt(text, tf.io.extract_jpeg_shape, [3]), png],
        default=lambda: tf.zeros([3], tf.int32),
    )
    # int64, as the product of two sides may need more than 32 bits
    height, width, components = (tf.cast(shape[place], tf.int64) for place in range(3))
    # the header of an extended WebP (VP8X) flags an animation by bit 1 of byte 20
    flags = tf.io.decode_raw(tf.strings.substr(start, 20, 1), tf.uint8)[0]
    extended = (kind == _WEBP) & (tf.strings.substr(start, 12, 4) == b"VP8X")
    reasons = [
        (tf.strings.length(text) == 0, "expected an image, found no bytes"),
        (kind == _OTHER, "not an image that can be decoded (JPEG, PNG or WebP)"),
        (components > 3, "a CMYK JPEG cannot be decoded, send RGB"),
        (extended & (flags // 2 % 2 == 1), "an animation cannot be decoded, send one image"),
        ((kind == _WEBP) & (not webp), "WebP was left out of this export, send JPEG or PNG"),
    ]
    problem = _too_large(height, width, max_pixels)
    for wrong, reason in reversed(reasons):  # so that the first reason that holds is told
        problem = tf.where(wrong, reason, problem)
    return problem


def _too_large(height: Any, width: Any, max_pixels: int) -> Any:
    text = f"{{}}x{{}} is more than the limit of {max_pixels:,} pixels"
    return tf.where(height * width > max_pixels, tf.strings.format(text, (width, height)), "")


def _attempt(text: Any, call: Callable[[Any], Any], nothing: list[int]) -> Any:
    """Returns `call(text)`, or zeros of shape `nothing` if it raises.

    By way of a dataset, which can skip an element that fails.
    """
    found = tf.data.Dataset.from_tensors(text).map(call).ignore_errors()
    other = tf.data.Dataset.from_tensors(tf.zeros(nothing, found.element_spec.dtype))
    return found.concatenate(other).take(1).get_single_element()


def _decode(text: Any, *, kind: Any, webp: bool, dtype: Any) -> Any:
    """Returns [H, W, channels] with the channels of the file."""
    if dtype == tf.uint16:  # only of a PNG
        return tf.io.decode_png(text, dtype=dtype)
    decoders = [
        # the exact method, as Pillow uses; TensorFlow's default is faster
        lambda: tf.io.decode_jpeg(text, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(text),
        lambda: tf.image.decode_webp(text)[0],
    ]
    # TensorFlow before 2.20 does not load a graph that so much as names its WebP decoder
    samples = tf.switch_case(kind, decoders if webp else decoders[:2])
    return tf.ensure_shape(samples, [None, None, None])


def _upright(samples: Any, text: Any) -> Any:
    """Returns the samples rotated and mirrored by the EXIF orientation, if there is one."""
    # WebP has its EXIF block after the pixels, JPEG before them
    tail = tf.maximum(tf.strings.length(text) - _SEARCHED, 0)
    ends = [tf.strings.substr(text, begin, _SEARCHED) for begin in (0, tail)]
    found = tf.strings.regex_replace(tf.strings.join(ends), _EXIF, r"\1\2")
    # the zero stands for a missing orientation, and turns nothing
    orientation = tf.io.decode_raw(tf.strings.join([found, b"\0"]), tf.uint8)[0]
    for values, turn in (  # transposed first: the flips of 6 to 8 are those of the result
        ((5, 6, 7, 8), lambda samples: tf.transpose(samples, [1, 0, 2])),
        ((3, 4, 7, 8), lambda samples: tf.reverse(samples, [0])),
        ((2, 3, 6, 7), lambda samples: tf.reverse(samples, [1])),
    ):
        among = tf.reduce_any(orientation == tf.constant(values, tf.uint8))
        samples = tf.cond(among, partial(turn, samples), partial(tf.identity, samples))
    return samples


def _restored(samples: Any, restore: Restore, scale: int) -> Any:
    """Returns a PNG of as many channels as the samples have."""
    channels = tf.shape(samples)[2]
    grey, has_alpha = channels < 3, channels % 2 == 0
    color = tf.cond(grey, lambda: tf.repeat(samples[..., :1], 3, -1), lambda: samples[..., :3])
    color = tf.ensure_shape(color, [None, None, 3])
    alpha = tf.cast(samples[..., -1:], tf.float32) / graph.peak(samples.dtype)
    alpha = tf.cond(has_alpha, lambda: alpha, lambda: tf.ones_like(alpha))
    hidden = tf.reduce_any(alpha > 0) & tf.reduce_any(alpha < VISIBLE)
    seen = tf.cond(hidden, lambda: _visible(color, alpha), lambda: color)
    restored = restore(seen, grey | _monochrome(color, alpha))[..., : tf.where(grey, 1, 3)]

    def with_alpha() -> Any:
        large = tf.image.resize(alpha, tf.shape(samples)[:2] * scale, "bicubic", antialias=True)
        return tf.concat([restored, graph.quantize(large, samples.dtype)], -1)

    return tf.io.encode_png(tf.cond(has_alpha, with_alpha, lambda: restored))


def _visible(color: Any, alpha: Any) -> Any:
    """Returns what `images.alpha.visible` does."""
    plane = tf.cast(color, tf.float32) / graph.peak(color.dtype)
    weight = tf.minimum(alpha / VISIBLE, 1)
    finer = []
    for _ in range(_LEVELS):
        finer.append((plane, weight))
        half = (tf.shape(plane)[:2] + 1) // 2
        weights = tf.image.resize(weight, half, "area")
        plane = tf.math.divide_no_nan(tf.image.resize(plane * weight, half, "area"), weights)
        weight = tf.minimum(4 * weights, 1)
    for fine, weight in reversed(finer):
        around = tf.image.resize(plane, tf.shape(fine)[:2])
        plane = fine * weight + around * (1 - weight)
    return tf.where(alpha < VISIBLE, graph.quantize(plane, color.dtype), color)


def _monochrome(color: Any, alpha: Any) -> Any:
    """Returns what `images.samples.monochrome` does."""
    shown = tf.cast(alpha > 0, tf.float32)
    level = 255 / graph.peak(color.dtype)
    tints = tf.cast(color, tf.float32) * level * shown
    tints -= tints[..., 1:2]
    spread = tf.reduce_max(tints, -1) - tf.reduce_min(tints, -1)
    mean = tf.reduce_sum(tints, [0, 1]) / tf.maximum(tf.reduce_sum(shown), 1)
    return (tf.reduce_max(spread) <= MAX_TINT) & (tf.reduce_max(tf.abs(mean)) <= MAX_MEAN_TINT)
