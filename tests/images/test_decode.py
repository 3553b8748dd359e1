"""What is taken over from a file: metadata, orientation, every mode; and what is refused."""

import dataclasses
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.images.metadata import Metadata
from tests.inference.pictures import gradient, noise

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def chunk(name, data):
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(samples, color_type, *extra):
    """A PNG of 16 bits by the book, to check the readers against something else than our writer."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def exif(**more):
    block = Image.Exif()
    block[271] = "Maker"
    block[34665] = {36867: "2024:01:02 03:04:05", 40962: 9, 40963: 9}
    block[34853] = {1: "N", 2: (48.0, 12.0, 30.0)}
    for tag, value in more.items():
        block[int(tag.removeprefix("t"))] = value
    return block.tobytes()


def entries(raw):
    block = Image.Exif()
    block.load(raw)
    return block


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_icc_and_exif_survive(tmp_path, suffix, dtype):
    source = images.from_array(noise(9, 9, 3, dtype))
    source = dataclasses.replace(source, metadata=Metadata(icc=ICC, exif=exif()))
    images.write(source, tmp_path / f"x{suffix}")
    back = images.read(tmp_path / f"x{suffix}")
    assert back.metadata.icc == ICC
    block = entries(back.metadata.exif)
    assert block[271] == "Maker"
    assert block.get_ifd(34665)[36867] == "2024:01:02 03:04:05"
    assert tuple(map(float, block.get_ifd(34853)[2])) == (48.0, 12.0, 30.0)
    with Image.open(tmp_path / f"x{suffix}") as image:
        assert image.info["icc_profile"] == ICC
        assert image.getexif()[271] == "Maker"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_orientation_is_applied_and_its_tag_removed(tmp_path, orientation, kind):
    path = tmp_path / f"x.{kind}"
    image = Image.fromarray(gradient())
    image.save(path, exif=exif(t274=orientation), **({"lossless": True} if kind == "webp" else {}))
    with Image.open(path) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    picture = images.read(path)
    np.testing.assert_array_equal(picture.color, upright)
    block = entries(picture.metadata.exif)
    assert 274 not in block and block[271] == "Maker"
    assert 40962 not in block.get_ifd(34665)  # the width changes, too

    images.write(picture, path)
    tolerance = 12 if kind in ("jpg", "webp") else 0
    np.testing.assert_allclose(images.read(path).color, upright, atol=tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_16_bit_files(tmp_path, orientation):
    array = noise(5, 7, 3, np.uint16)
    block = exif(t274=orientation)
    (tmp_path / "x.png").write_bytes(png(array, 2, chunk(b"eXIf", block[6:])))
    described = dataclasses.replace(images.from_array(array), metadata=Metadata(exif=block))
    images.write(described, tmp_path / "x.tif")
    eight = Image.fromarray((array >> 8).astype(np.uint8))
    eight.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(eight))
    for name in ("x.png", "x.tif"):
        color = images.read(tmp_path / name).color
        assert color.dtype == np.uint16
        np.testing.assert_array_equal(color >> 8, upright)


def test_exif_bytes_are_otherwise_untouched(tmp_path):
    """Text that is not ASCII stays, and a maker note stays where its inner offsets expect it."""
    note = bytes(range(200))
    block = Image.Exif()
    block[274] = 6
    block[315] = "José Müller".encode()
    block[34665] = {37500: note}
    raw = block.tobytes()
    Image.fromarray(gradient()).save(tmp_path / "x.jpg", exif=raw)
    kept = images.read(tmp_path / "x.jpg").metadata.exif
    assert "José Müller".encode() in kept
    assert kept.index(note) == raw.index(note)
    for source, target in (("x.jpg", "x.tif"), ("x.tif", "y.png")):
        images.write(images.read(tmp_path / source), tmp_path / target)
        assert "José Müller".encode() in (tmp_path / target).read_bytes()


def test_exif_of_nothing_but_orientation_leaves_none(tmp_path):
    block = Image.Exif()
    block[274] = 8
    Image.fromarray(gradient()).save(tmp_path / "x.jpg", exif=block.tobytes())
    picture = images.read(tmp_path / "x.jpg")
    assert picture.metadata.exif is None and picture.color.shape == (40, 24, 3)


@pytest.mark.parametrize("raw", [b"Exif\0\0MM", b"Exif\0\0II*\0\xff\xff\0\0", b"Exif\0\0rubbish!"])
def test_damaged_exif_costs_only_the_exif(tmp_path, raw):
    path = tmp_path / "x.png"
    Image.fromarray(gradient()).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk(b"eXIf", raw[6:]) + data[33:])
    picture = images.read(path)
    assert picture.metadata.exif is None and picture.notes == ("EXIF is damaged and left out",)
    np.testing.assert_array_equal(picture.color, gradient())


def test_exif_too_long_for_jpeg_is_left_out_with_a_note(tmp_path):
    long = Metadata(exif=exif(t37500=b"x" * 70_000))
    picture = dataclasses.replace(images.from_array(gradient()), metadata=long)
    (note,) = images.write(picture, tmp_path / "x.jpg")
    assert "EXIF" in note and "left out" in note
    assert images.read(tmp_path / "x.jpg").metadata.exif is None


def test_tiff_layout_tags_do_not_leak_into_exif(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "x.tif", exif=exif())
    with Image.open(tmp_path / "x.tif") as image:
        image.load()
        before = set(image.getexif())
        images.from_pil(image)
        assert set(image.getexif()) == before  # the image is left alone
    images.write(images.read(tmp_path / "x.tif"), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert set(image.getexif()) == {271, 34665, 34853}


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "F"])
def test_pil_round_trip(mode):
    if mode in ("I;16", "F"):
        image = Image.fromarray(noise(6, 7, 0, np.uint16 if mode == "I;16" else np.float32))
    else:
        image = Image.fromarray(noise(6, 7, 4)).convert(mode)
    image.info.update(icc_profile=ICC, exif=exif())
    back = images.to_pil(images.from_pil(image))
    assert back.mode == mode and back.info["icc_profile"] == ICC
    assert back.getexif()[271] == "Maker"
    np.testing.assert_array_equal(np.asarray(back), np.asarray(image))


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]


@pytest.mark.parametrize("mode", [*MODES, "LAB"])
def test_every_pillow_mode_is_accepted(mode):
    rgb = Image.fromarray(gradient())
    if mode == "LAB":
        image = Image.new("LAB", (40, 24), (128, 128, 128))
    elif mode in ("La", "RGBa"):
        image = rgb.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    else:
        image = rgb.convert("P").convert("PA") if mode == "PA" else rgb.convert(mode)
    picture = images.from_pil(image)
    assert picture.color.shape == (24, 40, 3) and picture.color.dtype == np.uint8
    assert picture.grey == (mode in ("1", "L", "LA", "La"))
    assert (picture.alpha is not None) == (mode[-1] in "Aa")
    if mode in ("RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr"):
        assert np.abs(picture.color.astype(int) - gradient()).max() <= 3


def test_pillow_modes_of_more_than_8_bits():
    deep = noise(4, 5, 0, np.uint16)
    for mode in ("I;16", "I"):
        image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(deep.astype(np.int32))
        assert image.mode == mode
        picture = images.from_pil(image)
        assert picture.grey and picture.color.dtype == np.uint16
        np.testing.assert_array_equal(picture.color[..., 1], deep)
    with pytest.raises(UserError, match=r"\[0, 65535\], found 0 to 70000"):
        images.from_pil(Image.fromarray(np.array([[0, 70_000]], np.int32)))

    unit = noise(4, 5, 0, np.float32)
    picture = images.from_pil(Image.fromarray(unit))
    np.testing.assert_array_equal(picture.color[..., 2], unit)
    picture = images.from_pil(Image.fromarray(unit * 255))
    np.testing.assert_allclose(picture.color[..., 2], unit, atol=1e-6)
    assert picture.notes == ("floats above 1: read as [0, 255]",)
    for bad in (np.nan, -1, 1e4):
        with pytest.raises(UserError, match="expected floats"):
            images.from_pil(Image.fromarray(np.full((2, 2), bad, np.float32)))


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
def test_palette_transparency(tmp_path, transparency):
    palette = Image.new("P", (3, 1))
    palette.putdata([0, 1, 2])
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "x.png", transparency=transparency)
    picture = images.read(tmp_path / "x.png")
    assert picture.color.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert picture.alpha.tolist() == [[0, 255, 255] if transparency == 0 else [0, 128, 255]]


def test_palette_without_transparency_and_palette_of_greys(tmp_path):
    image = Image.fromarray(gradient()).quantize(16)
    image.save(tmp_path / "x.png")
    picture = images.read(tmp_path / "x.png")
    assert picture.alpha is None and not picture.grey
    np.testing.assert_array_equal(picture.color, np.asarray(image.convert("RGB")))
    Image.fromarray(gradient()).convert("L").quantize(16).save(tmp_path / "g.png")
    assert images.read(tmp_path / "g.png").grey


@pytest.mark.parametrize("color_type", [0, 2])
def test_16_bit_png_with_transparent_colour(tmp_path, color_type):
    array = noise(4, 5, 3 if color_type else 1, np.uint16)
    key = chunk(b"tRNS", array[2, 3].astype(">u2").tobytes())
    (tmp_path / "x.png").write_bytes(png(array, color_type, key))
    picture = images.read(tmp_path / "x.png")
    np.testing.assert_array_equal(picture.color, np.broadcast_to(array, (4, 5, 3)))
    assert picture.alpha[2, 3] == 0 and (picture.alpha == 0).sum() == 1
    assert picture.grey == (color_type == 0)


def test_16_bit_ppm_and_pgm(tmp_path):
    array = noise(4, 5, 3, np.uint16)
    (tmp_path / "x.ppm").write_bytes(b"P6\n5 4\n65535\n" + array.astype(">u2").tobytes())
    np.testing.assert_array_equal(images.read(tmp_path / "x.ppm").color, array)
    (tmp_path / "x.pgm").write_bytes(b"P5\n5 4\n65535\n" + array[..., 0].astype(">u2").tobytes())
    picture = images.read(tmp_path / "x.pgm")
    assert picture.grey
    np.testing.assert_array_equal(picture.color[..., 0], array[..., 0])


FORMATS = ("png", "webp", "tiff", "bmp", "gif", "ppm", "jpeg", "jpeg2000", "avif")


@pytest.mark.parametrize("kind", FORMATS)
def test_content_decides_not_the_suffix(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, kind)
    (tmp_path / "x.jpg").write_bytes(buffer.getvalue())
    color = images.read(tmp_path / "x.jpg").color
    assert np.abs(color.astype(int) - gradient()).mean() < 5


def test_cmyk_is_converted_through_its_profile_which_is_dropped(tmp_path):
    image = Image.fromarray(gradient()).convert("CMYK")
    image.save(tmp_path / "x.jpg", icc_profile=ICC)  # not a CMYK profile: cannot be used
    picture = images.read(tmp_path / "x.jpg")
    assert picture.metadata.icc is None and picture.notes == ("CMYK converted to sRGB",)
    assert np.abs(picture.color.astype(int) - gradient()).mean() < 6
    image.save(tmp_path / "x.tif", exif=exif())
    assert b"Maker" in images.read(tmp_path / "x.tif").metadata.exif


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_the_first_frame_or_page_is_used_with_a_note(tmp_path, kind):
    first, second = (Image.new("RGB", (8, 6), color) for color in ("red", "blue"))
    path = tmp_path / f"x.{kind}"
    options = {"webp": {"lossless": True, "duration": 50}, "tif": {}}.get(kind, {"duration": 50})
    first.save(path, save_all=True, append_images=[second], **options)
    picture = images.read(path)
    pages = "several pages: first page" if kind == "tif" else "animated: first frame"
    assert picture.notes == (f"{pages} used",) and (picture.color == [255, 0, 0]).all()


def refused(path, *parts):
    with pytest.raises(UserError) as caught:
        images.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    for part in parts:
        assert part in message


def test_files_that_are_no_pictures(tmp_path):
    refused(tmp_path / "missing.png", "No such file")
    refused(tmp_path, "found a folder")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty file")
    # PostScript must not be handed to Ghostscript
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    for data in (b"not a picture\n" * 50, postscript):
        (tmp_path / "text.png").write_bytes(data)
        refused(tmp_path / "text.png", "not a picture that can be decoded")
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "special file")


@pytest.mark.parametrize("side", [8_001, 20_000, 2_000_000])
def test_header_bomb_is_refused_before_decoding(tmp_path, monkeypatch, side):
    path = tmp_path / "bomb.png"
    Image.new("RGB", (1, 1)).save(path)
    data = path.read_bytes()
    header = struct.pack(">II", side, side) + data[24:29]
    path.write_bytes(data[:8] + chunk(b"IHDR", header) + data[33:])
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    refused(path, "limit of 64,000,000 pixels")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "ppm", "tiff", "deep"])
@pytest.mark.parametrize("share", [0.4, 0.8, 0.97])
def test_truncated_files(tmp_path, kind, share):
    buffer = io.BytesIO()
    if kind == "deep":
        buffer.write(png(noise(64, 64, 3, np.uint16), 2))
    else:
        Image.fromarray(noise(64, 64, 3)).save(buffer, kind)
    data = buffer.getvalue()
    (tmp_path / "x.png").write_bytes(data[: int(len(data) * share)])
    refused(tmp_path / "x.png")


@pytest.mark.parametrize("place", [60, 2000, 5000, 9000])
def test_png_with_a_flipped_bit(tmp_path, place):
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[place] ^= 4
    (tmp_path / "x.png").write_bytes(data)
    refused(tmp_path / "x.png", "damaged or truncated")
