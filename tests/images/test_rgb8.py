"""images.decode.rgb8: what training sees of every kind of file."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from maskgit_sr.errors import UserError
from maskgit_sr.images.decode import header_size, rgb8


def encoded(image, form="PNG", **options):
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "AVIF", "JPEG2000"])
def test_every_format_is_read(form):
    image = Image.new("RGB", (6, 4), (0, 0, 255))
    options = {"lossless": True} if form in ("WEBP",) else {}
    found = rgb8(encoded(image, form, **options), "x")
    assert found.shape == (4, 6, 3) and found.dtype == np.uint8
    np.testing.assert_allclose(found, np.broadcast_to([0, 0, 255], (4, 6, 3)), atol=3)


def test_grey_palette_alpha_and_16_bit_become_rgb8():
    grey = np.full((4, 5), 50, np.uint8)
    files = {
        "grey": encoded(Image.fromarray(grey)),
        "alpha": cv2.imencode(".png", np.full((4, 5, 4), 50, np.uint8))[1].tobytes(),
        "deep colour": cv2.imencode(".png", np.full((4, 5, 3), 50 * 257, np.uint16))[1].tobytes(),
        "deep grey": cv2.imencode(".png", np.full((4, 5), 50 * 257, np.uint16))[1].tobytes(),
        "palette": encoded(Image.fromarray(grey).convert("P")),
    }
    for name, data in files.items():
        found = rgb8(data, name)
        assert found.dtype == np.uint8 and found.shape == (4, 5, 3)
        assert np.all(found == 50), name
    bit = rgb8(encoded(Image.new("1", (3, 3), 1)), "one bit")
    assert np.all(bit == 255)


def test_cmyk_is_converted():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    found = rgb8(encoded(red, "JPEG", quality=95), "cmyk.jpg")
    np.testing.assert_allclose(found[8, 8], [255, 0, 0], atol=6)


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[274] = 6  # turn a quarter clockwise to see it upright
    found = rgb8(encoded(image, exif=exif), "turned.png")
    assert found.shape == (8, 4, 3)
    assert found[0, 3].tolist() == [255, 255, 255] and found.sum() == 3 * 255


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"this is a text", "not a picture"),
        (encoded(Image.effect_noise((64, 64), 60).convert("RGB"))[:2000], "truncated"),
    ],
)
def test_unreadable_bytes_are_named_in_one_line(data, why):
    with pytest.raises(UserError, match=r"^photo\.png: ") as error:
        rgb8(data, "photo.png")
    assert "\n" not in str(error.value)
    assert why in str(error.value)


def test_a_truncated_jpeg_is_refused_not_filled_with_grey():
    data = encoded(Image.effect_noise((64, 64), 60).convert("RGB"), "JPEG")
    with pytest.raises(UserError, match="truncated"):
        rgb8(data[: len(data) // 2], "a.jpg")


def test_too_many_pixels_are_refused():
    data = encoded(Image.new("RGB", (11, 10)))
    with pytest.raises(UserError, match=r"^large\.png: 11x10 is more than the limit of 100 pixels"):
        rgb8(data, "large.png", limit=100)
    assert rgb8(data, "large.png", limit=110).shape == (10, 11, 3)


def size(path):
    with path.open("rb") as file:
        return header_size(file)


def test_size_reads_the_head_and_turns_with_exif(tmp_path):
    exif = Image.Exif()
    exif[274] = 8
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (8, 4)), exif=exif))
    assert size(path) == (8, 4)
    path.write_bytes(encoded(Image.new("RGB", (8, 4))))
    assert size(path) == (4, 8)
    path.write_bytes(b"text")
    with pytest.raises(UserError, match="not a picture"):
        size(path)
