"""Pictures survive files, arrays and other sizes, and a failed write leaves nothing behind."""

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.images.decode import TooManyPixels
from tests.inference.pictures import gradient, noise

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
on_disk = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@on_disk
@given(size=SIZES)
def test_lossless_round_trip_is_exact(tmp_path, suffix, dtype, channels, size):
    array = noise(*size, channels, dtype)
    path = tmp_path / f"x{suffix}"
    notes = images.write(images.from_array(array), path)
    back = images.read(path)
    wide = suffix != ".png" and dtype == np.uint16 and channels == 2  # no reader for this TIFF
    assert notes == (("16-bit grey with alpha stored as RGBA",) if wide else ())
    assert back.grey == (channels < 3 and not wide)
    assert (back.alpha is not None) == (channels in (2, 4))
    assert back.color.dtype == dtype
    np.testing.assert_array_equal(images.to_array(back, array), array)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3)])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".tif"])
def test_extreme_sizes(tmp_path, size, suffix):
    path = tmp_path / f"x{suffix}"
    images.write(images.from_array(noise(*size, 3)), path)
    assert images.read(path).color.shape == (*size, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_files_are_what_another_reader_expects(tmp_path, suffix, channels):
    array = noise(33, 21, channels, np.uint16)
    path = tmp_path / f"x{suffix}"
    images.write(images.from_array(array), path)
    other = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).reshape(33, 21, channels)
    np.testing.assert_array_equal(
        other, array[..., [[0], 0, [2, 1, 0], [2, 1, 0, 3]][channels - 1]]
    )


def test_large_16_bit_tiff_has_several_strips(tmp_path):
    array = noise(700, 400, 4, np.uint16)
    images.write(images.from_array(array), tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as image:
        assert len(image.tag_v2[273]) > 1
    np.testing.assert_array_equal(images.to_array(images.read(tmp_path / "x.tif"), array), array)


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("AVIF", ".avif")])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossy_formats_keep_channels_and_are_close(tmp_path, kind, suffix, mode):
    image = Image.fromarray(gradient()).convert(mode)
    images.write(images.from_pil(image), tmp_path / f"x{suffix}")
    with Image.open(tmp_path / f"x{suffix}") as back:
        assert (back.format, back.mode) == (kind, mode)
        assert np.abs(np.asarray(back, int) - np.asarray(image, int)).max() < 12


def test_webp_keeps_alpha(tmp_path):
    array = np.dstack([gradient(), noise(24, 40, 0)])
    images.write(images.from_array(array), tmp_path / "x.webp")
    np.testing.assert_array_equal(images.read(tmp_path / "x.webp").alpha, array[..., 3])


@pytest.mark.parametrize("channels", [2, 4])
def test_avif_keeps_alpha(tmp_path, channels):
    smooth = np.dstack([gradient(), gradient()[..., 0]])[..., -channels:]
    images.write(images.from_array(smooth), tmp_path / "x.avif")
    back = images.read(tmp_path / "x.avif")
    assert np.abs(back.alpha.astype(int) - smooth[..., -1]).max() < 12
    assert np.abs(back.color[..., 0].astype(int) - smooth[..., 0]).max() < 24


@pytest.mark.parametrize(
    ("suffix", "dtype", "note", "tolerance"),
    [
        (".jpg", np.uint16, "JPEG has 8 bits: uint16 samples rounded", 12 / 255),
        (".webp", np.uint16, "WEBP has 8 bits: uint16 samples rounded", 12 / 255),
        (".avif", np.uint16, "AVIF has 8 bits: uint16 samples rounded", 12 / 255),
        (".png", np.float32, "floats stored as 16 bits", 0.6 / 65535),
        (".tif", np.float32, "floats stored as 16 bits", 0.6 / 65535),
    ],
)
def test_samples_of_other_depths_are_cast_with_a_note(tmp_path, suffix, dtype, note, tolerance):
    picture = images.from_array(gradient().astype(np.float32) / 255)
    array = images.to_array(picture, np.zeros((1, 1, 3), dtype))
    assert images.write(images.from_array(array), tmp_path / f"x{suffix}") == (note,)
    back = images.read(tmp_path / f"x{suffix}")
    assert back.color.dtype == (np.uint8 if dtype == np.uint16 else np.uint16)
    found = images.to_array(back, np.zeros((1, 1, 3), np.float32))
    np.testing.assert_allclose(found, picture.color, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@settings(max_examples=20, deadline=None)
@given(size=SIZES, channels=st.integers(0, 4))
def test_array_round_trip(dtype, size, channels):
    array = noise(*size, channels, dtype)
    back = images.to_array(images.from_array(array), array)
    assert back.shape == array.shape and back.dtype == dtype
    np.testing.assert_allclose(back, array, rtol=1e-6)  # float64 passes through float32


def test_to_array_takes_only_layout_and_dtype_from_like():
    picture = images.from_array(noise(8, 8, 3))
    deep = images.to_array(picture, np.zeros((2, 2, 4), np.uint16))
    assert deep.shape == (8, 8, 4) and (deep[..., 3] == 65535).all()
    assert images.to_array(picture, np.zeros((2, 2, 3))).max() <= 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), np.int64), "expected uint8, uint16 or float samples, found int64"),
        (np.zeros((2, 2), bool), "found bool"),
        (np.zeros((2, 2, 5), np.uint8), r"found \(2, 2, 5\)"),
        (np.zeros(4, np.uint8), r"found \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"found \(0, 4, 3\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), "expected shape"),
        (np.full((2, 2), np.nan, np.float32), "found nan"),
        (np.full((2, 2), 1.5), "found 1.5"),
        (np.full((2, 2), -0.5, np.float16), "found -0.5"),
        (np.broadcast_to(np.uint8(0), (8001, 8000)), "limit of 64,000,000 pixels"),
    ],
)
def test_arrays_that_are_refused(array, message):
    with pytest.raises(UserError, match=message):
        images.from_array(array)


def test_suffixes_and_limits_that_are_refused(tmp_path):
    picture = images.from_array(gradient())
    for name in ("x.gif", "x", "x.bmp"):
        with pytest.raises(UserError, match="expected a suffix of .png, .jpg"):
            images.write(picture, tmp_path / name)
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(UserError, match="dir.png: cannot be written"):  # more in test_paths.py
        images.write(picture, tmp_path / "dir.png")
    long = images.from_array(np.zeros((1, 16_384), np.uint8))
    with pytest.raises(UserError, match="at most 16383 pixels a side, found 16384x1"):
        images.write(long, tmp_path / "x.webp")
    assert [path.name for path in tmp_path.iterdir()] == ["dir.png"]


def test_transparency_in_jpeg_is_refused_unless_all_opaque(tmp_path):
    opaque = np.dstack([gradient(), np.full((24, 40), 255, np.uint8)])
    images.write(images.from_array(opaque), tmp_path / "x.jpg")
    opaque[0, 0, 3] = 254
    with pytest.raises(UserError, match="y.jpg: JPEG cannot hold transparency; use PNG or WebP"):
        images.write(images.from_array(opaque), tmp_path / "y.jpg")
    with pytest.raises(UserError, match="^JPEG cannot hold transparency"):
        images.to_bytes(images.from_array(opaque), "JPEG")


def test_check_target_foresees_the_size(tmp_path):
    picture = images.from_array(np.zeros((1, 4100), np.uint8))
    assert images.check_target(picture, tmp_path / "x.webp") == "WEBP"
    assert images.check_target(picture, tmp_path / "x.png", scale=4) == "PNG"
    with pytest.raises(UserError, match="x.webp: WEBP has at most 16383 .* found 16400x4"):
        images.check_target(picture, tmp_path / "x.webp", scale=4)


def test_permissions_follow_the_umask(tmp_path):
    path = tmp_path / "x.png"
    images.write(images.from_array(gradient()), path)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@settings(max_examples=20, deadline=None)
@given(size=SIZES, target=SIZES, channels=st.integers(0, 4))
def test_resize_keeps_type_and_range(dtype, size, target, channels):
    array = noise(*size, channels, dtype)
    out = images.resize(array, *target)
    assert out.shape == (*target, *array.shape[2:]) and out.dtype == dtype
    assert out.min() >= 0 and (dtype != np.float32 or out.max() <= 1)
    flat = np.full_like(array, array.flat[0])
    tolerance = 1e-6 if dtype == np.float32 else 0
    np.testing.assert_allclose(images.resize(flat, *target), array.flat[0], atol=tolerance)


def test_resize_is_pillows_antialiased_bicubic():
    array = noise(40, 30, 3)
    expected = Image.fromarray(array).resize((7, 11), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(images.resize(array, 11, 7), np.asarray(expected))
    deep = images.resize(array.astype(np.uint16) * 257, 11, 7)
    assert np.abs(deep / 257 - np.asarray(expected)).max() < 1.1


@pytest.mark.parametrize(("suffix", "kind"), images.WRITABLE.items())
def test_bytes_are_those_of_the_file(tmp_path, suffix, kind):
    picture = images.from_array(gradient())
    path = tmp_path / f"x{suffix}"
    notes = images.write(picture, path, quality=80)
    data = path.read_bytes()
    assert images.to_bytes(picture, kind, quality=80) == (data, notes)
    back, same = images.from_bytes(data), images.read(path)
    np.testing.assert_array_equal(back.color, same.color)
    assert back.notes == same.notes


def test_limit_of_pixels_is_found_in_the_header():
    data, _ = images.to_bytes(images.from_array(gradient(24, 40)), "PNG")
    assert images.from_bytes(data, limit=960).color.shape == (24, 40, 3)
    header_only = data[:60]  # damaged, but too large before that
    with pytest.raises(TooManyPixels, match="40x24 is more than the limit of 959 pixels"):
        images.from_bytes(header_only, limit=959)


def test_confidence_is_grey():
    picture = images.from_confidence(np.full((2, 3), 0.5, np.float32), 8, 12)
    assert picture.grey and picture.color.shape == (8, 12, 3) and (picture.color == 128).all()
