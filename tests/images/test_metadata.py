"""What a file says beside its pixels arrives in the output, or a note tells that it does not."""

import dataclasses
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin, PngImagePlugin

from maskgit_sr import images
from maskgit_sr.images import png
from maskgit_sr.images.metadata import Metadata, photoshop
from tests.images.test_decode import ICC, chunk, exif
from tests.inference.pictures import gradient, noise

XMP = (
    b'<x:xmpmeta><rdf:Description tiff:Orientation="6" exif:PixelXDimension="40" '
    b'dc:rights="Jos\xc3\xa9"><tiff:ImageWidth>40</tiff:ImageWidth></rdf:Description></x:xmpmeta>'
)
TIDY = (
    b'<x:xmpmeta><rdf:Description tiff:Orientation="1" dc:rights="Jos\xc3\xa9">'
    b"</rdf:Description></x:xmpmeta>"
)
IPTC = b"\x1c\x02\x50\x00\x06Author"
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "AVIF": ".avif", "TIFF": ".tif"}


def bare(kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(gradient()).save(file, kind, **options)
    return file.getvalue()


def with_chunks(*chunks):
    return png.insert(bare(), chunks)


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_everything_survives_where_the_format_has_a_place(tmp_path, kind, dtype):
    full = Metadata(ICC, exif(), TIDY, IPTC, (300.0, 150.0), b"hello", ((b"tEXt", b"Title\0x"),))
    picture = dataclasses.replace(images.from_array(noise(9, 9, 3, dtype)), metadata=full)
    notes = images.write(picture, tmp_path / f"x{SUFFIXES[kind]}")
    back = images.read(tmp_path / f"x{SUFFIXES[kind]}").metadata
    assert back.icc == ICC and back.xmp == TIDY and b"Maker" in back.exif
    told = " ".join(notes)
    for name, mine, found in (
        ("IPTC", full.iptc, back.iptc),
        ("Title", full.chunks[0], back.chunks[0] if back.chunks else None),
        ("density", full.density, back.density and tuple(np.round(back.density, 1))),
    ):
        assert (found == mine) != (name in told), name
    comments = [body for _, body in back.chunks if body == b"Comment\0hello"]
    assert bool(back.comment == b"hello" or comments) != ("comment" in told)


@pytest.mark.parametrize("source", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize("kind", SUFFIXES)
def test_density_goes_from_any_format_to_any(tmp_path, source, kind):
    picture = images.from_bytes(bare(source, dpi=(300, 300)))
    assert images.write(picture, tmp_path / f"x{SUFFIXES[kind]}") == ()
    with Image.open(tmp_path / f"x{SUFFIXES[kind]}") as image:
        dpi = image.info.get("dpi") or image.getexif().get_ifd(0).get(282) or image.getexif()[282]
        assert np.allclose(np.asarray(dpi, float), 300, atol=0.02)


def test_density_turns_with_the_picture():
    data = bare("JPEG", dpi=(300, 100), exif=exif(t274=6))
    assert images.from_bytes(data).metadata.density == (100.0, 300.0)


def test_no_density_is_made_up():
    for data in (bare(), bare("TIFF"), bare("JPEG"), bare("JPEG", exif=exif()), bare("WEBP")):
        assert images.from_bytes(data).metadata.density is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_xmp_no_longer_tells_of_the_inputs_size_and_orientation(kind):
    if kind == "PNG":
        data = with_chunks((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
    else:
        data = bare(kind, xmp=XMP)
    assert images.from_bytes(data).metadata.xmp == TIDY


def test_padding_of_xmp_costs_no_time():
    padded = XMP + b" " * 60_000 + b"\n" * 5000  # a second even at a microsecond for each pair
    assert images.from_bytes(bare("JPEG", xmp=padded)).metadata.xmp.startswith(TIDY)


def test_xmp_of_an_appended_video_is_left_out_with_a_note():
    picture = images.from_bytes(bare("JPEG", xmp=b'<x GCamera:MotionPhoto="1"/>'))
    assert picture.metadata.xmp is None and "XMP" in picture.notes[0]


def test_iptc_of_jpeg_is_read_by_pillow_from_our_jpeg(tmp_path):
    segment = b"\xff\xed" + struct.pack(">H", 2 + len(photoshop(IPTC))) + photoshop(IPTC)
    picture = images.from_bytes(bare("JPEG", extra=segment))
    assert picture.metadata.iptc == IPTC
    for suffix in (".jpg", ".png", ".tif"):
        assert images.write(picture, tmp_path / f"x{suffix}") == ()
        assert images.read(tmp_path / f"x{suffix}").metadata.iptc == IPTC
    with Image.open(tmp_path / "x.jpg") as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        assert image.info["photoshop"][0x0404] == IPTC


@pytest.mark.parametrize("name", [b"gAMA", b"cHRM", b"sRGB", b"cICP", b"tIME", b"zTXt"])
def test_chunks_of_png_stay_in_png_and_are_told_elsewhere(name):
    bodies = {
        b"gAMA": struct.pack(">I", 100_000),
        b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
        b"sRGB": b"\0",
        b"cICP": bytes([9, 16, 0, 1]),
        b"tIME": struct.pack(">H5B", 2024, 1, 2, 3, 4, 5),
        b"zTXt": b"Author\0\0" + zlib.compress(b"me"),
    }
    picture = images.from_bytes(with_chunks((name, bodies[name])))
    assert picture.notes == () and picture.metadata.chunks == ((name, bodies[name]),)
    data, notes = images.to_bytes(picture, "PNG")
    assert notes == () and images.from_bytes(data).metadata.chunks == ((name, bodies[name]),)
    assert struct.pack(">I4s", len(bodies[name]), name) + bodies[name] in data
    told = {b"sRGB": (), b"zTXt": ("Author left out: JPEG has no place for it",)}
    wanted = told.get(name, (f"{name.decode()} left out: JPEG has no place for it",))
    assert images.to_bytes(picture, "JPEG")[1] == wanted


def test_text_and_profiles_of_any_length_are_read_back(tmp_path):
    """Above the megabyte at which Pillow refuses the whole picture."""
    large = np.random.default_rng(0).bytes(3 << 20)
    icc = ICC[:128] + large
    long = (b"zTXt", b"workflow\0\0" + zlib.compress(b"a" * (50 << 20)))
    full = Metadata(icc, exif(), TIDY + b" " * (2 << 20), None, None, large[:99], (long,))
    for dtype in (np.uint8, np.uint16):
        picture = dataclasses.replace(images.from_array(noise(5, 7, 3, dtype)), metadata=full)
        images.write(picture, tmp_path / "x.png")
        back = images.read(tmp_path / "x.png")
        np.testing.assert_array_equal(back.color, picture.color)
        assert back.metadata.icc == icc and back.metadata.xmp == full.xmp and not back.notes
        assert long in back.metadata.chunks


def test_imagemagicks_profiles_in_text():
    def raw(kind, content):
        text = b"\n%s\n%8d\n%s\n" % (kind, len(content), content.hex().encode())
        return b"zTXt", b"Raw profile type " + kind + b"\0\0" + zlib.compress(text)

    data = with_chunks(raw(b"exif", exif(t274=6)), raw(b"xmp", XMP), raw(b"iptc", IPTC))
    picture = images.from_bytes(data)
    assert picture.color.shape == (40, 24, 3)  # by the orientation
    metadata = picture.metadata
    assert metadata.xmp == TIDY and metadata.iptc == IPTC and b"Maker" in metadata.exif
    assert metadata.chunks == ()  # or the output would be turned again


@pytest.mark.parametrize("name", [b"tEXt", b"gAMA", b"iCCP", b"pHYs", b"eXIf", b"tIME", b"prVt"])
def test_a_damaged_chunk_beside_the_pixels_costs_only_itself(name):
    data = bytearray(with_chunks((name, b"Title\0some text")))
    data[33 + 8 + 15] ^= 0xFF  # its checksum
    picture = images.from_bytes(bytes(data))
    np.testing.assert_array_equal(picture.color, gradient())
    assert picture.notes == (f"damaged {name.decode()} left out",)
    assert picture.metadata == Metadata()


@pytest.mark.parametrize(
    "damaged",
    [
        (b"pHYs", b"abc"),
        (b"iCCP", b"x"),
        (b"iCCP", b"x\0\0no zlib"),
        (b"acTL", b""),
        (b"tRNS", b"1"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no zlib"),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n3\nxyz")),
    ],
)
def test_a_chunk_of_wrong_content_costs_only_itself(damaged):
    picture = images.from_bytes(with_chunks(damaged))
    np.testing.assert_array_equal(picture.color, gradient())
    assert picture.notes == (f"damaged {damaged[0].decode()} left out",)


def test_pixels_without_an_end_chunk_are_whole():
    np.testing.assert_array_equal(images.from_bytes(bare()[:-12]).color, gradient())


def test_many_profiles_are_not_unpacked():
    """Each would cost 16 MB; the ninth and later ones are not looked at."""
    bomb = (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n" * (15 << 20), 9))
    picture = images.from_bytes(with_chunks(*[bomb] * 2000))
    assert picture.notes == ("damaged zTXt left out",)


def test_pil_images_keep_density_xmp_and_comment():
    image = Image.open(io.BytesIO(bare("JPEG", dpi=(300, 300), xmp=TIDY, comment=b"hello")))
    info = images.to_pil(images.from_pil(image)).info
    assert (info["dpi"], info["xmp"], info["comment"]) == ((300, 300), TIDY, b"hello")


def test_pngs_are_by_the_book(tmp_path):
    """Other readers find what was written: Pillow checks order and checksums of all chunks."""
    full = Metadata(
        ICC, exif(), TIDY, IPTC, (300.0, 150.0), "é".encode(), ((b"tEXt", b"Title\0x"),)
    )
    picture = dataclasses.replace(images.from_array(noise(9, 9, 3)), metadata=full)
    images.write(picture, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        image.verify()
    with Image.open(tmp_path / "x.png") as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        image.load()
        assert image.info["icc_profile"] == ICC and image.text["Title"] == "x"
        assert image.text["Comment"] == "é" and image.info["xmp"] == TIDY
        assert np.allclose(image.info["dpi"], (300, 150), atol=0.02)
    assert chunk(b"gAMA", b"1234") == b"".join(png._chunk(b"gAMA", b"1234"))
