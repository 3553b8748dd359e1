"""Time and memory of a file follow from its pixels; what is not supported is named."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.images import bounds, png
from tests.inference.pictures import gradient, noise


def refused(data):
    with pytest.raises(UserError) as caught:
        images.from_bytes(data)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 200
    return message


def encoded(kind, array=None, **options):
    file = io.BytesIO()
    Image.fromarray(gradient() if array is None else array).save(file, kind, **options)
    return file.getvalue()


def with_scans(count):
    """A progressive JPEG whose last scan is repeated."""
    data = encoded("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_scans_of_a_jpeg_are_bounded():
    assert images.from_bytes(with_scans(60)).color.shape == (24, 40, 3)
    assert refused(with_scans(20_000)) == "JPEG of more than 100 scans"


@pytest.mark.parametrize("head", [b"", encoded("JPEG")[:200]])
def test_emptiness_between_segments_is_not_searched(head):
    """Byte by byte, 200 MB would take minutes."""
    assert "no segment" in refused(b"\xff\xd8\xff\xe0\0\2" + head + bytes(200_000_000))


def test_scans_of_a_preview_do_not_count():
    thumbnail = with_scans(200)
    inner = b"Exif\0\0" + thumbnail[:60_000]
    data = encoded("JPEG")
    app1 = b"\xff\xe1" + struct.pack(">H", 2 + len(inner)) + inner
    picture = images.from_bytes(data[:2] + app1 + data[2:] + thumbnail)
    assert picture.color.shape == (24, 40, 3)


def tiff(tags, body=b"", order="<"):
    """A TIFF of short tags."""
    entries = b"".join(struct.pack(order + "HHII", *tag) for tag in sorted(tags))
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4 + body


def layout(wide, high, values=1):
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: wide, 323: high}
    some = [(tag, 4, 1, value) for tag, value in tags.items()]
    return [*some, (324, 4, values, 150), (325, 4, values, wide * high)]


@pytest.mark.parametrize("tile", [(16384, 16384), (1 << 20, 16), (16, 1 << 27), (8192, 1024)])
def test_tiles_of_a_tiff_are_bounded_by_its_size(tile):
    assert refused(tiff(layout(*tile))) == f"TIFF of 16x16 in tiles of {tile[0]}x{tile[1]} pixels"


def test_usual_tiles_are_read(tmp_path):
    array = noise(16, 16, 0)
    padded = np.zeros((256, 256), np.uint8)
    padded[:16, :16] = array
    data = tiff(
        [
            (t, k, n, 150 if t == 324 else 65536 if t == 325 else v)
            for t, k, n, v in layout(256, 256)
        ]
    )
    data = data.ljust(150, b"\0") + padded.tobytes()
    np.testing.assert_array_equal(images.from_bytes(data).color[..., 0], array)


def test_pixels_that_are_missing_are_not_black():
    tags = [(256, 4, 1, 8000), (257, 4, 1, 8000), (258, 3, 1, 8), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 1), (273, 4, 1, 150), (277, 3, 1, 1), (279, 4, 1, 64_000_000)]
    assert refused(tiff(tags, bytes(6000))).startswith("truncated TIFF (8000x8000")


def test_lists_of_a_tiff_are_bounded():
    assert "4,000,000,000 values" in refused(tiff(layout(16, 16, 4_000_000_000)))


@pytest.mark.parametrize("size", [40 << 30, 3 << 30])
@pytest.mark.parametrize("head", [b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"\xff\xd8\xff"])
def test_files_larger_than_any_picture_are_not_read(tmp_path, size, head):
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)  # sparse
    with pytest.raises(UserError) as caught:
        images.read(path)
    assert str(path) in str(caught.value) and f"{size:,} bytes" in str(caught.value)


def test_large_files_are_refused_by_their_header(tmp_path):
    path = tmp_path / "x.tif"
    tags = [(256, 4, 1, 60_000), (257, 4, 1, 60_000), (258, 3, 1, 8), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 1), (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 60_000)]
    with path.open("wb") as file:
        file.write(tiff([*tags, (279, 4, 1, 3_600_000_000)]))
        file.truncate(3_600_000_200)
    with pytest.raises(bounds.TooManyPixels, match="60000x60000 is more than the limit"):
        images.read(path)


def test_icons_are_bounded_by_what_they_hold():
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    held = png.assemble([(b"IHDR", header), (b"IDAT", b"x"), (b"IEND", b"")])
    entry = struct.pack("<4B2H2I", 16, 16, 0, 0, 1, 32, len(held), 22)
    assert "limit" in refused(struct.pack("<3H", 0, 1, 1) + entry + held)


def test_what_is_not_supported_is_named():
    jpeg = bytearray(encoded("JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    assert refused(bytes(jpeg)) == "JPEG of 12 bits is not supported"
    lossless = encoded("JPEG").replace(b"\xff\xc0", b"\xff\xc3")
    assert refused(lossless) == "lossless JPEG is not supported"
    tags = [(256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 3, 170), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 176), (277, 3, 1, 3), (279, 4, 1, 192), (339, 3, 1, 3)]
    floats = tiff(tags).ljust(170, b"\0") + struct.pack("<3H", 32, 32, 32) + bytes(192)
    assert "3 float samples of 32 bits" in refused(floats)
    assert "Photoshop" in refused(b"8BPS\0\1" + bytes(100))
    bmp = bytearray(encoded("BMP"))
    bmp[28:30] = struct.pack("<H", 2)
    assert "BMP pixel depth (2)" in refused(bytes(bmp))


def test_heic_without_its_decoder_names_the_extra(monkeypatch):
    monkeypatch.setattr("maskgit_sr.images.bounds._READABLE", ("PNG", "JPEG"))
    data = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(100)
    assert refused(data) == "HEIC needs pillow-heif: pip install 'maskgit-sr[heif]'"


def test_heic_is_read_upright():
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Maker"
    picture = images.from_bytes(encoded("HEIF", exif=exif.tobytes(), quality=95))
    turned = np.rot90(gradient(), -1).astype(int)
    assert picture.color.shape == turned.shape
    assert np.abs(picture.color - turned).mean() < 3 and b"Maker" in picture.metadata.exif


@pytest.mark.parametrize("kind", ["TGA", "ICO"])
def test_tga_and_ico_are_read(kind):
    array = noise(16, 16, 3)
    np.testing.assert_array_equal(images.from_bytes(encoded(kind, array)).color, array)


def test_random_bytes_are_no_picture():
    rng = np.random.default_rng(0)
    for _ in range(300):
        assert refused(rng.bytes(200)).startswith("not a picture")


@pytest.mark.parametrize("magic", [b"P2", b"P3", b"P5", b"P6"])
@pytest.mark.parametrize("top", [256, 1023, 4095, 65535])
def test_deep_netpbm_is_scaled_by_its_maximum(magic, top):
    channels = 3 if magic in (b"P3", b"P6") else 1
    array = np.random.default_rng(top).integers(0, top + 1, (3, 4, channels))
    array[0, 0] = top
    header = magic + b"\n# a comment 255\n4 #x\n3\n#y\n%d\n" % top
    plain = magic in (b"P2", b"P3")
    body = b"\n".join(b"%d" % v for v in array.flat) if plain else array.astype(">u2").tobytes()
    picture = images.from_bytes(header + body)
    assert picture.color.dtype == np.uint16 and picture.grey == (channels == 1)
    np.testing.assert_array_equal(picture.color, np.rint(array * (65535 / top)) + np.zeros(3))
    assert "truncated" in refused(header + body[:-6])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_key_of_shallow_grey(depth):
    values = np.arange(2**depth, dtype=np.uint8)[-4:]
    levels = values * (255 // (2**depth - 1))
    key = int(values[-1])
    bits = "".join(f"{v:0{depth}b}" for v in values)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    header = struct.pack(">IIBBBBB", len(values), 1, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">H", key))]
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    picture = images.from_bytes(png.assemble(chunks))
    np.testing.assert_array_equal(picture.color[0, :, 0], levels)
    np.testing.assert_array_equal(picture.alpha[0], np.where(values == key, 0, 255))


def test_transparency_beyond_the_palette_is_ignored():
    image = Image.fromarray(gradient()).quantize(16)
    image.putpalette(image.getpalette()[:48])
    file = io.BytesIO()
    image.save(file, "PNG")
    data = file.getvalue()
    at = data.index(b"IDAT") - 4
    long = png._chunk(b"tRNS", bytes(range(200)) + bytes(56))
    picture = images.from_bytes(data[:at] + b"".join(long) + data[at:])
    assert picture.color.shape == (24, 40, 3) and picture.alpha.max() <= 15


def test_deep_jpeg_2000_keeps_its_bits():
    array = noise(40, 48, 3, np.uint16)
    lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    ok, data = cv2.imencode(".jp2", array[..., ::-1], lossless)
    assert ok
    np.testing.assert_array_equal(images.from_bytes(data.tobytes()).color, array)
