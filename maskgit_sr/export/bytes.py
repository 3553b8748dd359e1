"""Encoded image in, encoded image out, or the reason why not; TensorFlow operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from maskgit_sr.export import graph as export_graph
from maskgit_sr.export import headers as export_headers
from maskgit_sr.export import profile as export_profile
from maskgit_sr.export.headers import JPEG, NAMES, OTHER, PNG, WEBP, Header

Restore = Callable[[Any, Any], Any]
"""(uint8 or uint16 [H, W, 3], whether it is grey) → restored, of the same dtype."""


def restore_bytes(text: Any, restore: Restore, scale: int, max_pixels: int, webp: bool) -> Any:
    """(PNG, "") or ("", reason) of one encoded image.

    EXIF orientation is applied, and its block not kept; transparency, greyscale, 16 bits and the
    colour profile are.
    """
    header = export_headers.read(text)
    problem = refusal(text, header, max_pixels, webp)

    def run() -> Any:
        return tf.cond(
            header.deep,
            lambda: _restored(text, header, restore, scale, webp, tf.uint16),
            lambda: _restored(text, header, restore, scale, webp, tf.uint8),
        )

    return tf.cond(problem == "", run, lambda: (tf.constant(b""), problem))


def refusal(text: Any, header: Header, max_pixels: int, webp: bool) -> Any:
    """Why the image is not decoded, as far as its header tells; else empty."""
    name = tf.gather([*NAMES, ""], header.kind)
    size = tf.strings.join(
        [tf.strings.as_string(header.width), "x", tf.strings.as_string(header.height)]
    )
    too_long = header.split | (tf.strings.length(header.profile) > export_profile.MAX_PROFILE)
    too_long = too_long & (header.kind != PNG)
    reasons: list[tuple[Any, Any]] = [
        (tf.strings.length(text) == 0, "expected an image, found no bytes"),
        (header.kind == OTHER, "not an image that can be decoded (JPEG, PNG or WebP)"),
        (
            (header.width == 0) | (header.height == 0),
            tf.strings.join(["damaged or truncated ", name, ": no image size in its header"]),
        ),
        (
            header.width * header.height > max_pixels,
            tf.strings.join([size, f" is more than the limit of {max_pixels:,} pixels"]),
        ),
        ((header.kind == JPEG) & header.deep, "a JPEG of 12 bits cannot be decoded"),
        (header.channels > 3, "a CMYK JPEG cannot be decoded, send RGB"),
        (header.animated, "an animation cannot be decoded, send one image"),
    ]
    reasons.append((too_long, "a colour profile of more than 64 KiB cannot be kept, send sRGB"))
    if not webp:
        reasons.append((header.kind == WEBP, "WebP was left out of this export, send JPEG or PNG"))
    problem = tf.constant("")
    for wrong, reason in reversed(reasons):
        problem = tf.where(wrong, reason, problem)
    return problem


def _restored(
    text: Any, header: Header, restore: Restore, scale: int, webp: bool, dtype: Any
) -> Any:
    samples = _upright(_decode(text, header, webp, dtype), header.orientation)
    sides = tf.cast(tf.shape(samples)[:2], tf.int64)
    # orientations from 5 on lie on their side
    wanted = tf.where(
        header.orientation >= 5,
        tf.stack([header.width, header.height]),
        tf.stack([header.height, header.width]),
    )

    def run() -> Any:
        color, alpha = samples[..., :3], samples[..., 3:]
        # as Pillow's palettes are read: a profile may be for colours only
        plain = header.palette & (tf.strings.length(header.profile) == 0)
        grey = header.grey | (plain & tf.reduce_all(color == color[..., :1]))
        png = _encode(restore(color, grey), alpha, grey, header.alpha, scale)
        return _with_profile(png, header), tf.constant("")

    reason = tf.strings.join(["damaged or truncated ", tf.gather([*NAMES, ""], header.kind)])
    whole = tf.reduce_all(sides == wanted)
    return tf.cond(whole, run, lambda: (tf.constant(b""), reason))


def _decode(text: Any, header: Header, webp: bool, dtype: Any) -> Any:
    """[H, W, 4], or [0, 0, 4] of what cannot be decoded: only datasets get over an error."""

    def opaque(color: Any) -> Any:
        return tf.concat([color, tf.ones_like(color[..., :1]) * 255], -1)

    def jpeg(text: Any) -> Any:
        # as Pillow decodes; TensorFlow's own default is faster and less exact
        return opaque(tf.io.decode_jpeg(text, channels=3, dct_method="INTEGER_ACCURATE"))

    def frame(text: Any, channels: int) -> Any:
        samples = tf.image.decode_webp(text, channels=channels)  # which must be the file's own
        return tf.reshape(samples, tf.shape(samples)[-3:])

    def decode(text: Any) -> Any:
        if dtype == tf.uint16:  # nothing but a PNG
            return tf.io.decode_png(text, channels=4, dtype=dtype)
        decoders = {JPEG: lambda: jpeg(text), PNG: lambda: tf.io.decode_png(text, channels=4)}
        if webp:
            decoders[WEBP] = lambda: tf.cond(
                header.alpha, lambda: frame(text, 4), lambda: opaque(frame(text, 3))
            )
        return tf.switch_case(header.kind, decoders)

    found = tf.data.Dataset.from_tensors(text).map(decode).ignore_errors()
    nothing = tf.data.Dataset.from_tensors(tf.zeros([0, 0, 4], dtype))
    samples = found.concatenate(nothing).take(1).get_single_element()
    return tf.ensure_shape(samples, [None, None, 4])


def _upright(samples: Any, orientation: Any) -> Any:
    """Turned and mirrored as the EXIF orientation says."""

    def among(*values: int) -> Any:
        return tf.reduce_any(orientation == tf.constant(values, tf.int64))

    for values, turn in (
        ((5, 6, 7, 8), lambda samples: tf.transpose(samples, [1, 0, 2])),
        ((3, 4, 7, 8), lambda samples: tf.reverse(samples, [0])),
        ((2, 3, 6, 7), lambda samples: tf.reverse(samples, [1])),
    ):
        samples = tf.cond(among(*values), partial(turn, samples), partial(tf.identity, samples))
    return tf.ensure_shape(samples, [None, None, 4])


def _encode(color: Any, alpha: Any, grey: Any, has_alpha: Any, scale: int) -> Any:
    """PNG of one to four channels."""
    dtype = color.dtype

    def with_alpha(samples: Any) -> Any:
        small = tf.cast(alpha, tf.float32) / export_graph.peak(dtype)
        sides = tf.shape(alpha)[:2] * scale
        large = tf.image.resize(small, sides, tf.image.ResizeMethod.BICUBIC, antialias=True)
        return tf.concat([samples, export_graph.quantize(large, dtype)], -1)

    def finish(samples: Any) -> Any:
        return tf.cond(
            has_alpha,
            lambda: tf.io.encode_png(with_alpha(samples)),
            lambda: tf.io.encode_png(samples),
        )

    return tf.cond(grey, lambda: finish(color[..., :1]), lambda: finish(color))


def _with_profile(png: Any, header: Header) -> Any:
    """The PNG with the original's colour profile."""

    def insert() -> Any:
        chunk = tf.cond(
            header.kind == PNG,
            lambda: header.profile,
            lambda: export_profile.chunk(header.profile),
        )
        return export_profile.insert(png, chunk)

    return tf.cond(tf.strings.length(header.profile) > 0, insert, lambda: png)
