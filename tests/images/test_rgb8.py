"""images.decode.rgb8 and header_size: what training sees of a file."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from maskgit_sr.errors import UserError
from maskgit_sr.images.decode import header_size, rgb8


def encoded(image, **options):
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    return data.getvalue()


GREY = np.full((4, 5), 50, np.uint8)
FILES = {
    "grey": encoded(Image.fromarray(GREY)),
    "alpha": cv2.imencode(".png", np.full((4, 5, 4), 50, np.uint8))[1].tobytes(),
    "deep colour": cv2.imencode(".png", np.full((4, 5, 3), 50 * 257, np.uint16))[1].tobytes(),
    "deep grey": cv2.imencode(".png", GREY * np.uint16(257))[1].tobytes(),
    "palette": encoded(Image.fromarray(GREY).convert("P")),
    "one bit": encoded(Image.new("1", (5, 4), 1)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_becomes_rgb8(name):
    found = rgb8(FILES[name], name)
    assert found.dtype == np.uint8 and found.shape == (4, 5, 3)
    assert (found == (255 if name == "one bit" else 50)).all()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"this is a text", "not a picture"),
        (encoded(Image.effect_noise((64, 64), 60).convert("RGB"))[:2000], "truncated"),
    ],
)
def test_unreadable_bytes_are_named_in_one_line(data, why):
    with pytest.raises(UserError, match=rf"^photo\.png: .*{why}.*$"):
        rgb8(data, "photo.png")


def test_too_many_pixels_are_refused():
    data = encoded(Image.new("RGB", (11, 10)))
    with pytest.raises(UserError, match=r"^large\.png: 11x10 is more than the limit of 100 pixels"):
        rgb8(data, "large.png", limit=100)
    assert rgb8(data, "large.png", limit=110).shape == (10, 11, 3)


def test_size_reads_the_head_and_turns_with_exif():
    exif = Image.Exif()
    exif[274] = 8
    image = Image.new("RGB", (8, 4))
    assert header_size(io.BytesIO(encoded(image, exif=exif))) == (8, 4)
    assert header_size(io.BytesIO(encoded(image))) == (4, 8)
    with pytest.raises(UserError, match="not a picture"):
        header_size(io.BytesIO(b"text"))
