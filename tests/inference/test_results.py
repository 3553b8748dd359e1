"""Images as users have them, and results as they use them."""

import doctest
import io

import numpy as np
import pytest
from PIL import Image

import maskgit_sr
from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.inference import load as loading
from tests.inference.test_upscaler import Nearest, load, pixels, repeated


@pytest.fixture(scope="module")
def upscaler():
    return load(Nearest())


@pytest.fixture
def files(tmp_path):
    """Three pictures of different sizes, and their samples."""
    made = [pixels(5 + i, 9 - i) for i in range(3)]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, samples in zip(paths, made, strict=True):
        Image.fromarray(samples).save(path)
    return paths, made


def test_files_lists_and_arrays_give_the_same(upscaler, files):
    paths, made = files
    found = upscaler([str(paths[0]), paths[1], Image.fromarray(made[2])])
    for result, samples in zip(found, made, strict=True):
        np.testing.assert_array_equal(np.asarray(result.image), repeated(samples, 4))
        assert isinstance(result.image, Image.Image)
    assert isinstance(upscaler(made[0]).image, np.ndarray)
    assert upscaler(made[0]) == found[0] and upscaler(paths[0]) == found[0] != found[1]
    assert found[0] != "another type"


def test_a_stream_has_the_noise_of_single_calls(upscaler, files):
    paths, _ = files
    told = []
    given = dict(seed=5, temperature=1.0, scale=3)
    streamed = list(upscaler.stream(paths, progress=lambda *now: told.append(now), **given))
    assert streamed == [upscaler(path, **given) for path in paths]
    assert streamed[0] != upscaler(paths[0], **(given | {"seed": 6}))
    counts = [upscaler.mosaic(images.read(path), upscaler.options()).count for path in paths]
    assert told[-1][1] == sum(counts)


def test_a_stream_ends_at_what_cannot_be_read(upscaler, files):
    paths, made = files
    paths[1].write_bytes(b"no picture")
    found = upscaler.stream(paths)
    np.testing.assert_array_equal(np.asarray(next(found).image), repeated(made[0], 4))
    with pytest.raises(UserError, match=r"1\.png"):
        next(found)
    with pytest.raises(UserError, match="steps: expected at least 1, found 0"):
        upscaler.stream(paths, steps=0)  # at once, before a picture is asked for


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://example.org/photo.jpg", "expected a file on this machine, found the address"),
        ("gs://bucket/photo.png", "expected a file on this machine, found the address"),
        ("gone.png", "gone.png: cannot be read"),
        (3, "expected a path, a PIL image or an array, found int"),
    ],
)
def test_what_is_no_image_is_refused(upscaler, given, message):
    with pytest.raises(UserError, match=message):
        upscaler(given)


def test_a_result_is_saved_and_shown(upscaler, tmp_path):
    deep = pixels(6, 7, dtype=np.uint16)
    result = upscaler(deep, confidence=True)
    result.save(tmp_path / "new" / "deep.png")
    np.testing.assert_array_equal(images.read(tmp_path / "new" / "deep.png").color, result.image)
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert shown.size == (28, 24)
    assert repr(result) == "Result(28×24, ndarray, confidence, tokens)"
    with pytest.raises(UserError, match="quality"):
        result.save(tmp_path / "deep.jpg", quality=0)
    assert not (tmp_path / "deep.jpg").exists()
    with pytest.raises(TypeError):
        hash(result)


def test_the_example_of_load():
    assert doctest.testmod(loading) == doctest.TestResults(failed=0, attempted=4)


def test_the_package_shows_what_it_offers():
    shown = dir(maskgit_sr)
    assert {"load", "Upscaler", "list_models", "Result"} <= set(shown)
    assert all(hasattr(maskgit_sr, name) for name in shown)
    assert "os" not in shown and "annotations" not in shown
