"""Conversion of pictures from arrays, and to arrays, Pillow images and files."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image, features

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.images import decode, encode
from maskgit_sr.images.samples import Picture, cast, from_samples, peak

WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


def from_confidence(confidence: np.ndarray, height: int, width: int) -> Picture:
    """Returns a confidence map, float32 [H, W] in [0, 1], as a grey uint8 [height, width]."""
    large = resize(confidence.astype(np.float32), height, width)
    return from_array(np.rint(large * 255).astype(np.uint8))


def from_array(array: np.ndarray) -> Picture:
    """Returns the picture of [H, W] or [H, W, C]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.

    Raises:
      UserError: not uint8, uint16 or float16/32/64; another shape; no or too many pixels; floats
        that are NaN or outside [0, 1].
    """
    array = np.asarray(array)
    if array.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise UserError(f"array: expected uint8, uint16 or float samples, found {array.dtype}")
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if channels not in (1, 2, 3, 4) or 0 in array.shape:
        raise UserError(f"array: expected shape [H, W] or [H, W, 1..4], found {array.shape}")
    decode.check_size(array.shape[1], array.shape[0])
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise UserError(f"array: expected floats in [0, 1], found {low:g} to {high:g}")
        array = array.astype(np.float32)
    return from_samples(array.reshape(*array.shape[:2], channels))


def to_pil(picture: Picture) -> Image.Image:
    """Returns a Pillow image of mode L, LA, RGB or RGBA, with its metadata in `info`.

    Grey without alpha keeps 16-bit samples (I;16) and floats (F); for all else Pillow has 8 bits.
    """
    samples = _samples(picture)
    grey = samples.shape[2] == 1
    image = Image.fromarray(samples[..., 0] if grey else cast(samples, np.uint8))
    image.info.update(encode.described(picture.metadata))
    return image


def to_array(picture: Picture, like: np.ndarray) -> np.ndarray:
    """Returns the samples with the dtype, dimensions and channels of `like`, but not its size."""
    channels = 1 if like.ndim == 2 else like.shape[-1]
    color, alpha = picture.color, None
    if channels in (2, 4):
        opaque = np.full(color.shape[:2], peak(color.dtype), color.dtype)
        alpha = opaque if picture.alpha is None else picture.alpha
    array = cast(_samples(Picture(color, alpha, grey=channels < 3)), like.dtype)
    return array[..., 0] if like.ndim == 2 else np.ascontiguousarray(array)


def write(picture: Picture, path: str | os.PathLike[str], *, quality: int = 95) -> tuple[str, ...]:
    """Encodes `picture` in the format of the suffix, one of `WRITABLE`.

    Missing folders are made, and the file appears whole or not at all. PNG and TIFF are lossless
    and keep 16 bits (floats become 16 bits); `quality`, 1 to 100, is for the lossy ones.

    Returns:
      Notes on what the format could not keep.
    Raises:
      UserError: another suffix, transparency in a JPEG, a side longer than the format allows, or a
        file that cannot be written (full disk, no permission).
    """
    path = Path(path)
    kind = check_target(picture, path)
    with decode.about(path):
        data, notes = to_bytes(picture, kind, quality=quality)
    paths.write(path, data)
    return notes


def to_bytes(picture: Picture, kind: str, *, quality: int = 95) -> tuple[bytes, tuple[str, ...]]:
    """Returns the file that `write` would write, of a `kind` of `WRITABLE`, and its notes.

    Raises:
      UserError: transparency in a JPEG, a side longer than the format allows, or another quality.
    """
    if not 1 <= quality <= 100:
        raise UserError(f"quality: expected 1 to 100, found {quality}")
    check_kind(picture, kind)
    if kind == "JPEG":
        picture = dataclasses.replace(picture, alpha=None)  # `check_kind` found it all opaque
    try:
        return encode.encode(_samples(picture), kind, quality, picture.metadata)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise UserError(f"cannot be encoded as {kind} ({error})") from error


def check_target(picture: Picture, path: str | os.PathLike[str], *, scale: float = 1.0) -> str:
    """Raises the UserError of `write` for what is known before `picture` is upscaled by `scale`.

    Returns:
      The format that `path` asks for, of `WRITABLE`.
    """
    path = Path(path)
    kind = WRITABLE.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(WRITABLE)
        raise UserError(f"{path}: expected a suffix of {known}, found '{path.suffix}'")
    with decode.about(path):
        check_kind(picture, kind, scale=scale)
    return kind


def check_kind(picture: Picture, kind: str, *, scale: float = 1.0) -> None:
    """Raises the UserError of `to_bytes` for what is known before `picture` is upscaled."""
    height, width = (round(side * scale) for side in picture.color.shape[:2])
    limit = encode.MAX_SIDE.get(kind, 2**31 - 1)  # PNG has 31 bits for a side
    if max(height, width) > limit:
        raise UserError(f"{kind} has at most {limit} pixels a side, found {width}x{height}")
    if kind == "AVIF" and not features.check("avif"):
        raise UserError("AVIF: this Pillow was built without it")
    alpha = picture.alpha
    if kind == "JPEG" and alpha is not None and (alpha < peak(alpha.dtype)).any():
        raise UserError("JPEG cannot hold transparency; use PNG or WebP")


def resize(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resamples [H, W] or [H, W, C] by Pillow's antialiased bicubic; the dtype is kept.

    uint8, uint16, or float32 in [0, 1]; what the filter overshoots is clipped.
    """
    if array.shape[:2] == (height, width):
        return array.copy()
    # Plane by plane: Pillow has floats, which hold 16-bit samples, in a single channel only.
    planes = array[..., None] if array.ndim == 2 else array
    planes = planes if array.dtype == np.uint8 else planes.astype(np.float32)
    pictures = (Image.fromarray(np.ascontiguousarray(p)) for p in np.moveaxis(planes, -1, 0))
    resized = [p.resize((width, height), Image.Resampling.BICUBIC) for p in pictures]
    out = np.stack([np.asarray(plane) for plane in resized], axis=-1)
    if array.dtype != np.uint8:  # which Pillow has clipped itself
        out = out.clip(0, peak(array.dtype))
        out = np.rint(out).astype(array.dtype) if array.dtype == np.uint16 else out
    return out[..., 0] if array.ndim == 2 else out


def _samples(picture: Picture) -> np.ndarray:
    """Returns [H, W, C]: grey, grey and alpha, RGB, or RGB and alpha."""
    color = picture.color[..., :1] if picture.grey else picture.color
    if picture.alpha is None:
        return color
    return np.concatenate([color, picture.alpha[..., None]], axis=-1)
