"""Ramps that keep their order in grey, and what an error map shows."""

import numpy as np
import pytest

from maskgit_sr.images import colormaps


@pytest.mark.parametrize("colors", [colormaps.ERROR, colormaps.CONFIDENCE])
def test_lightness_rises_evenly(colors):
    assert colors.shape == (256, 3)
    srgb = colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lightness = (linear @ [0.2126, 0.7152, 0.0722]) ** (1 / 3)
    rises = np.diff(lightness[::16])
    assert (rises > 0).all()
    assert rises.max() < 3 * rises.mean()


def test_error_is_the_mean_over_channels_up_to_its_peak():
    reference = np.full((1, 4, 3), 100, np.uint8)
    picture = reference.copy()
    picture[0, 1] -= 32
    picture[0, 2, 0] += 96  # 32 on average
    picture[0, 3] += 155
    found = colormaps.error(picture, reference)
    half = colormaps.ERROR[255 * 32 // colormaps.ERROR_PEAK]
    np.testing.assert_array_equal(found[0], [colormaps.ERROR[0], half, half, colormaps.ERROR[255]])


def test_css_has_both_ends():
    text = colormaps.css(np.array([[0, 0, 0], [255, 0, 16]], np.uint8), stops=2)
    assert text == "linear-gradient(to right,#000000,#ff0010)"
