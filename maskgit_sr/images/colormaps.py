"""Colour maps for errors, deviations and confidences.

The ramps are drawn in OKLab (Ottosson, 2020) with lightness rising evenly, so that equal steps of a
value look equal, in colour and in grey.
"""

from __future__ import annotations

import numpy as np

ERROR_PEAK = 64  # of 255; the brightest colour stands for this and all above
DEVIATION_PEAK = 16  # the same, of standard deviations


def ramp(lightness: tuple[float, float], hue: tuple[float, float], chroma: float) -> np.ndarray:
    """Returns 256 sRGB colours, uint8 [256, 3]: lightness and hue (degrees) from first to second.

    `chroma` is that of the middle; both ends have little.
    """
    t = np.linspace(0, 1, 256)
    light = lightness[0] + (lightness[1] - lightness[0]) * t
    angle = np.deg2rad(hue[0] + (hue[1] - hue[0]) * t)
    strength = chroma * (0.2 + 0.8 * np.sin(np.pi * t) ** 0.75)
    lab = np.stack([light, strength * np.cos(angle), strength * np.sin(angle)], axis=-1)
    to_lms = np.array(
        [
            [1, 0.3963377774, 0.2158037573],
            [1, -0.1055613458, -0.0638541728],
            [1, -0.0894841775, -1.2914855480],
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    # Clipped: OKLab also holds colours that sRGB has not.
    linear = ((lab @ to_lms.T) ** 3 @ to_rgb.T).clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


ERROR = ramp((0.12, 0.97), (-70, 105), 0.19)  # black, purple, red, orange, pale yellow
CONFIDENCE = ramp((0.25, 0.92), (290, 105), 0.13)  # dark blue, teal, green, yellow


def error(picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns |picture − reference|, the mean of the channels, in the colours of `ERROR`.

    Args:
      picture: uint8 [H, W, 3].
      reference: of the same shape.
    Returns:
      uint8 [H, W, 3].
    """
    # int16, since differences of bytes wrap around.
    difference = np.abs(picture.astype(np.int16) - reference).sum(axis=-1)
    return ERROR[np.minimum(difference * 255 // (3 * ERROR_PEAK), 255)]


def deviation(levels: np.ndarray) -> np.ndarray:
    """Returns standard deviations [H, W], in grey levels of 255, in the colours of `ERROR`.

    The scale is fixed, so that maps can be compared: black is 0, the brightest `DEVIATION_PEAK`.

    Returns:
      uint8 [H, W, 3].
    """
    return ERROR[np.rint(np.minimum(levels / DEVIATION_PEAK, 1) * 255).astype(np.uint8)]


def css(colors: np.ndarray, stops: int = 17) -> str:
    """Returns a ramp as a CSS gradient from left to right."""
    chosen = colors[np.linspace(0, len(colors) - 1, stops).round().astype(int)]
    return f"linear-gradient(to right,{','.join(f'#{color.tobytes().hex()}' for color in chosen)})"
