"""Decoding of photographs for training: any file → uint8 [H, W, 3] RGB.

EXIF orientation is applied, greyscale becomes three equal channels, alpha is dropped, CMYK is
converted and 16-bit images are reduced to 8 bits. Colour profiles are not applied. Pillow decodes,
because it refuses truncated files that OpenCV fills with grey.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from etils import epath
from PIL import Image, ImageOps

SUFFIXES = frozenset(
    ".png .jpg .jpeg .mpo .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pnm .avif .jp2 .j2k".split()
)

MAX_PIXELS = 200_000_000

# Named, so that Pillow never hands a file to an external program (EPS goes to Ghostscript).
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "JPEG2000")


_ORIENTATION = 274  # the EXIF tag; 5 and above swap the sides


class UnreadableImage(ValueError):
    """A file that is no image, or a damaged one; the message names it and says why."""


def decode(data: bytes, name: str) -> np.ndarray:
    """Decodes one file's bytes to uint8 [H, W, 3] RGB.

    Args:
      name: of the file, for the message.

    Raises:
      UnreadableImage: not an image, truncated or corrupt, or over `MAX_PIXELS` pixels.
    """
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and of large images
            image = Image.open(io.BytesIO(data), formats=[f for f in _FORMATS if f in Image.OPEN])
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{name}: more than {MAX_PIXELS:,} pixels")
            return np.asarray(_eight_bits(ImageOps.exif_transpose(image)).convert("RGB"))
    except UnreadableImage:
        raise
    except Exception as error:  # each of Pillow's decoders fails in ways of its own
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else error
        reason = "empty file" if not data else reason
        raise UnreadableImage(f"{name}: {str(reason).splitlines()[0]}") from error


def size(path: epath.Path) -> tuple[int, int]:
    """(height, width) of an upright image, from the head of its file.

    Raises:
      UnreadableImage: not an image.
    """
    try:
        with path.open("rb") as file, Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
    except OSError as error:  # Pillow's complaint about files that are no image is one as well
        raise UnreadableImage(f"{path}: not an image") from error
    return (width, height) if turned else (height, width)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of 16 bits, which `convert` would clip, divided by 257."""
    if not image.mode.startswith("I"):
        return image
    samples = np.clip(np.asarray(image, np.int64), 0, 65535)
    return Image.fromarray(((samples + 128) // 257).astype(np.uint8))
