"""inference.upscaler around a method that only enlarges: sizes, modes, tiles and scales."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskgit_sr import images
from maskgit_sr.bundles import Metadata
from maskgit_sr.errors import UserError
from maskgit_sr.images import Picture
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.base import Restored, TileSpec
from maskgit_sr.ops.resize import upsample_nearest


class Nearest:
    """A method whose restoration is pixel repetition, so that every output is known."""

    name, scale, tile = "nearest", 4, TileSpec(size=8, stride=4)
    traces = 0

    def restore(self, params, lr, keys, options):
        Nearest.traces += 1
        image = upsample_nearest(lr, 4) * params["gain"]
        confidence = jnp.full((lr.shape[0], 4, 4), 0.25) if options.policy.score else None
        if options.policy.temperature:
            noise = jax.vmap(lambda key: jax.random.uniform(key, image.shape[1:]))(keys)
            image = image * 0 + noise
        tokens = jnp.full((lr.shape[0], 4, 4), options.policy.steps, jnp.int32)
        return Restored(image, confidence, tokens)


@pytest.fixture(scope="module")
def upscaler():
    config = {"steps": 3}
    metadata = Metadata("nearest", config, 4)
    params = {"gain": jnp.float32(1), "critic": {}}
    return Upscaler(Nearest(), params, metadata, batch=3, device=jax.devices("cpu")[0])


def pixels(height, width, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(height * 100 + width)
    top = 256 if dtype == np.uint8 else 65536
    return rng.integers(0, top, (height, width, channels)).astype(dtype)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30))
def test_any_size_gives_exactly_four_times_its_size(upscaler, height, width):
    image = pixels(height, width)
    result = upscaler(image)
    np.testing.assert_array_equal(result.image, image.repeat(4, 0).repeat(4, 1))
    assert result.confidence.shape == (height, width)
    np.testing.assert_allclose(result.confidence, 0.25, atol=1e-6)
    assert result.tokens.shape[2:] == (4, 4) and (result.tokens == 3).all()


def test_one_compilation_serves_every_size(upscaler):
    upscaler(pixels(5, 5))
    before = Nearest.traces
    for side in (1, 7, 20):
        upscaler(pixels(side, side + 3))
    assert Nearest.traces == before


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_keep_their_depth(upscaler, dtype):
    image = pixels(9, 6, dtype=dtype)
    out = upscaler(image).image
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, image.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_come_back_as_they_were(upscaler, channels):
    image = pixels(9, 6, channels)
    out = upscaler(image).image
    assert out.shape == (36, 24, channels)
    if channels == 1:  # grey: the luma of three equal channels
        np.testing.assert_array_equal(out, image.repeat(4, 0).repeat(4, 1))


def test_float_in_float_out(upscaler):
    image = np.random.default_rng(0).random((5, 4, 3), np.float32)
    out = upscaler(image).image
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, image.repeat(4, 0).repeat(4, 1), atol=1e-6)


def test_pil_in_pil_out_with_alpha(upscaler):
    image = Image.fromarray(pixels(6, 5, 4))
    out = upscaler(image).image
    assert isinstance(out, Image.Image) and out.mode == "RGBA" and out.size == (20, 24)


@pytest.mark.parametrize(
    ("scale", "size"), [(4, (24, 20)), (1, (6, 5)), (2.5, (15, 12)), (6, (36, 30))]
)
def test_scale_sets_the_output_size(upscaler, scale, size):
    assert upscaler(pixels(6, 5), scale=scale).image.shape[:2] == size


def test_tiny_scale_never_gives_an_empty_image(upscaler):
    assert upscaler(pixels(1, 3), scale=0.1).image.shape == (1, 1, 3)


def test_samples_depend_on_seed_and_not_on_batch(upscaler):
    image = pixels(20, 20)
    first = upscaler(image, temperature=1.0, seed=1).image
    np.testing.assert_array_equal(first, upscaler(image, temperature=1.0, seed=1).image)
    assert (first != upscaler(image, temperature=1.0, seed=2).image).any()
    other = Upscaler(Nearest(), upscaler.params, upscaler.metadata, batch=5, device=upscaler.device)
    np.testing.assert_array_equal(first, other(image, temperature=1.0, seed=1).image)


def test_no_confidence_unless_asked(upscaler):
    assert upscaler(pixels(6, 5), confidence=False).confidence is None


def test_device_calls_are_filled_from_several_images(upscaler, monkeypatch):
    options = upscaler.options()
    pictures = [images.from_array(pixels(side, 8)) for side in (8, 12, 20, 8, 1)]
    counts, plain = [], upscaler.run

    def counted(lr, *rest):
        counts.append(len(lr))
        return plain(lr, *rest)

    monkeypatch.setattr(upscaler, "run", counted)
    mosaics = (upscaler.mosaic(picture, options) for picture in pictures)
    told = []
    together = list(upscaler.complete(mosaics, options, 0, told.append))
    assert counts == told == [3, 3, 3]  # 1 + 2 + 4 + 1 + 1 tiles
    assert list(upscaler.complete([], options)) == []
    for picture, mosaic in zip(pictures, together, strict=True):
        alone = upscaler.restore(picture)
        np.testing.assert_array_equal(mosaic.color, alone.picture.color)
        np.testing.assert_array_equal(mosaic.confidence, alone.confidence)


def test_progress_reaches_the_total(upscaler):
    seen = []
    upscaler(pixels(20, 20), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 16), (6, 16), (9, 16), (12, 16), (15, 16), (16, 16)]


def test_picture_keeps_what_it_carries(upscaler):
    picture = Picture(pixels(4, 4), icc=b"profile", exif=b"Exif\0\0x", notes=("hello",))
    out = upscaler.restore(picture).picture
    assert dataclasses.replace(out, color=picture.color) == picture


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": -1}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"steps": 0}, "steps"),
        ({"temperature": -0.1}, "temperature"),
        ({"color_fix": "warm"}, "color_fix"),
        ({"policy": "luck"}, "policy"),
    ],
)
def test_options_out_of_range_are_named(upscaler, option, message):
    with pytest.raises(UserError, match=message):
        upscaler(pixels(4, 4), **option)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.int32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((4,), np.uint8),
        np.full((4, 4), 2.0),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(upscaler, array):
    with pytest.raises(UserError):
        upscaler(array)
