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
from maskgit_sr.images import Picture, metadata
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.base import MethodBase, Restored, RestoreOptions, TileSpec
from maskgit_sr.methods.subpixel import Subpixel
from maskgit_sr.ops.resize import upsample_nearest


@dataclasses.dataclass(frozen=True)
class NearestConfig:
    tile: TileSpec = TileSpec(sides=(8,), overlap=4)


@dataclasses.dataclass(frozen=True)
class NearestOptions(RestoreOptions):
    steps: int = 3
    temperature: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, found {self.steps}")
        if self.temperature < 0:
            raise ValueError(f"temperature: expected 0 or more, found {self.temperature}")


class Nearest(MethodBase):
    """A method whose restoration is pixel repetition, so that every output is known."""

    name, scale, groups = "nearest", 4, ("gain",)
    provides = frozenset({"confidence", "tokens"})
    config_class, losses_class, options_class = NearestConfig, NearestConfig, NearestOptions
    traces = 0

    def restore(self, params, lr, keys, options):
        Nearest.traces += 1
        image = upsample_nearest(lr, self.scale) * params["gain"]
        if options.temperature:
            noise = jax.vmap(lambda key: jax.random.uniform(key, image.shape[1:]))(keys)
            image = image * 0 + noise
        confidence = tokens = None
        if "tokens" in self.provides:
            tokens = jnp.full((lr.shape[0], 4, 4), options.steps, jnp.int32)
        if options.confidence:
            confidence = jnp.full((lr.shape[0], 4, 4), 0.25)
        return Restored(image, confidence, tokens)


class Sides(Nearest):
    """x2, in small and large windows, without tokens; the confidence has 4x4 cells a window."""

    name, scale, provides = "sides", 2, frozenset({"confidence"})


def load(method, batch=3, gain=1.0):
    metadata = Metadata(method.name, method.describe(), method.scale)
    params = {"gain": jnp.float32(gain)}
    return Upscaler(method, params, metadata, batch=batch, device=jax.devices("cpu")[0])


@pytest.fixture(scope="module")
def upscaler():
    return load(Nearest())


@pytest.fixture(scope="module")
def sides():
    return load(Sides(NearestConfig(TileSpec(sides=(8, 32), overlap=4))))


def pixels(height, width, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(height * 100 + width)
    if dtype == np.float32:
        return rng.random((height, width, channels), dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def repeated(image, scale):
    return image.repeat(scale, 0).repeat(scale, 1)


@pytest.mark.parametrize(("name", "scale", "most"), [("upscaler", 4, 30), ("sides", 2, 70)])
@settings(max_examples=25)
@given(data=st.data())
def test_any_size_gives_exactly_the_scale(request, name, scale, most, data):
    height, width = (data.draw(st.integers(1, most)) for _ in range(2))
    image = pixels(height, width)
    result = request.getfixturevalue(name)(image)
    np.testing.assert_array_equal(result.image, repeated(image, scale))
    assert result.confidence.shape == (height, width)
    np.testing.assert_allclose(result.confidence, 0.25, atol=1e-6)
    if name == "sides":
        assert result.tokens is None
    else:
        assert result.tokens.shape[2:] == (4, 4) and (result.tokens == 3).all()


def test_one_compilation_serves_every_size(upscaler):
    upscaler(pixels(5, 5))
    before = Nearest.traces
    for side in (1, 7, 20):
        upscaler(pixels(side, side + 3))
    assert Nearest.traces == before


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_samples_keep_their_type(upscaler, dtype):
    image = pixels(9, 6, dtype=dtype)
    out = upscaler(image).image
    assert out.dtype == dtype
    np.testing.assert_allclose(out, repeated(image, 4), atol=1e-6 * (dtype == np.float32))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_come_back_as_they_were(upscaler, channels):
    image = pixels(9, 6, channels)
    out = upscaler(image).image
    assert out.shape == (36, 24, channels)
    if channels == 1:  # grey: the luma of three equal channels
        np.testing.assert_array_equal(out, repeated(image, 4))


def test_pil_in_pil_out_with_alpha(upscaler):
    image = Image.fromarray(pixels(6, 5, 4))
    out = upscaler(image).image
    assert isinstance(out, Image.Image) and out.mode == "RGBA" and out.size == (20, 24)


@pytest.mark.parametrize(
    ("shape", "scale", "size"),
    [
        *(((6, 5), scale, size) for scale, size in ((4, (24, 20)), (1, (6, 5)), (2.5, (15, 12)))),
        *(((6, 5), 6, (36, 30)), ((1, 3), 0.1, (1, 1))),  # never an empty image
    ],
)
def test_scale_sets_the_output_size(upscaler, shape, scale, size):
    assert upscaler(pixels(*shape), scale=scale).image.shape == (*size, 3)


def test_samples_depend_on_seed_and_not_on_batch(upscaler):
    image = pixels(20, 20)
    first = upscaler(image, temperature=1.0, seed=1).image
    np.testing.assert_array_equal(first, upscaler(image, temperature=1.0, seed=1).image)
    assert (first != upscaler(image, temperature=1.0, seed=2).image).any()
    other = load(Nearest(), batch=5)
    np.testing.assert_array_equal(first, other(image, temperature=1.0, seed=1).image)


@pytest.mark.parametrize(
    ("name", "scale", "heights", "shapes"),
    [
        ("upscaler", 4, (8, 12, 20, 8, 1), [(3, 8), (3, 8), (3, 8)]),  # 1 + 2 + 4 + 1 + 1 windows
        # windows: 1 + 1 of side 8, 1 + 2 of side 32, 1 + 1 of side 8
        ("sides", 2, (8, 1, 20, 40, 5, 3), [(2, 8), (3, 32), (2, 8)]),
    ],
)
def test_device_calls_are_filled_from_images_of_one_side(
    request, monkeypatch, name, scale, heights, shapes
):
    upscaler = request.getfixturevalue(name)
    options = upscaler.options()
    wide = [max(8, min(height, 20)) if name == "sides" else 8 for height in heights]
    pictures = [images.from_array(pixels(*size)) for size in zip(heights, wide, strict=True)]
    made, told, plain = [], [], upscaler.run
    spy = lambda lr, *rest: made.append(lr.shape[:2]) or plain(lr, *rest)  # noqa: E731
    monkeypatch.setattr(upscaler, "run", spy)
    mosaics = (upscaler.mosaic(picture, options) for picture in pictures)
    together = list(upscaler.complete(mosaics, options, 0, told.append))
    assert made == shapes and told == [count for count, _ in shapes]
    assert list(upscaler.complete([], options)) == []
    monkeypatch.undo()
    for picture, mosaic in zip(pictures, together, strict=True):
        np.testing.assert_array_equal(mosaic.color, repeated(picture.color, scale))
        alone = upscaler.restore(picture)
        np.testing.assert_array_equal(mosaic.confidence, alone.confidence)


def test_the_worked_example_doubles_by_default():
    params = {"filter": {"kernel": jnp.zeros((3, 3, 3, 12))}}
    metadata = Metadata("subpixel", {}, 2)
    upscaler = Upscaler(Subpixel(), params, metadata, batch=2, device=jax.devices("cpu")[0])
    image = pixels(20, 20)
    result = upscaler(image)
    np.testing.assert_array_equal(result.image, repeated(image, 2))
    assert result.confidence is None and result.tokens is None
    grain = [upscaler(image, noise=0.1, seed=seed).image for seed in (1, 1, 2)]
    np.testing.assert_array_equal(grain[0], grain[1])
    assert (grain[0] != grain[2]).any()


def test_output_that_is_not_finite_is_an_error():
    with pytest.raises(UserError, match="not finite"):
        load(Nearest(), gain=float("nan"))(pixels(5, 5))


def test_no_confidence_unless_asked(upscaler):
    assert upscaler(pixels(6, 5), confidence=False).confidence is None


def test_progress_reaches_the_total(upscaler):
    seen = []
    upscaler(pixels(20, 20), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 16), (6, 16), (9, 16), (12, 16), (15, 16), (16, 16)]


def test_picture_keeps_what_it_carries(upscaler):
    described = metadata.Metadata(icc=b"profile", exif=b"Exif\0\0x", density=(300.0, 72.0))
    picture = Picture(pixels(4, 4), metadata=described, notes=("hello",))
    out = upscaler.restore(picture).picture
    assert dataclasses.replace(out, color=picture.color) == picture


def test_hidden_colours_and_tints_do_not_reach_the_output(upscaler):
    color, alpha = pixels(9, 7), np.full((9, 7), 255, np.uint8)
    alpha[:, 4:] = 0
    other = np.where(alpha[..., None] == 0, 255 - color, color)
    first, second = (upscaler.restore(Picture(x, alpha)).picture.color for x in (color, other))
    np.testing.assert_array_equal(first, second)
    grey = np.repeat(color[..., :1], 3, axis=-1)
    grey[..., 2] ^= 1  # as JPEG leaves it
    restored = upscaler.restore(Picture(grey)).picture
    assert np.ptp(restored.color, axis=-1).max() == 0 and not restored.grey


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": -1}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"steps": 0}, "steps"),
        ({"temperature": -0.1}, "temperature"),
        ({"color_fix": "warm"}, "color_fix"),
        ({"rule": "luck"}, "rule: nearest has no such option; expected one of .*steps, temp"),
        ({"steps": "many"}, "steps: expected int"),
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
