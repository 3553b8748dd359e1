"""data.examples: crops, flips, pairs and thresholds of one training example."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import degradations, operations
from data.examples import IMAGES, ExampleSpec, enlarged, random_crop, reflected
from data.readers import Reader, Skipped
from maskgit_sr.errors import UserError
from maskgit_sr.images.samples import unit


class Images(list):
    """A source over arrays, or over (hr, lr) pairs."""

    def __getitem__(self, index):
        found = super().__getitem__(index)
        names = ("hr", "lr") if isinstance(found, tuple) else ("image",)
        images = found if isinstance(found, tuple) else (found,)
        return {**dict(zip(names, images, strict=True)), "id": f"{index}.png"}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def make(recipe, *arrays, index=0, seed=0):
    return recipe.make(Reader(Images(arrays), Skipped()), index, np.random.default_rng(seed))


def numbered(height, width):
    """An image in which every pixel says where it is: red its row, green its column."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, 0 * x], -1).astype(np.uint8)


@settings(max_examples=60)
@given(
    st.sampled_from(["none", *degradations.PRESETS]),
    st.sampled_from([2, 3, 4]),
    st.integers(1, 8),
    st.integers(0, 4),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([(1.0, 1.0), (1.0, 1.5), (2.0, 9.0)]),
)
def test_sizes_are_right_whatever_the_image(preset, scale, cells, more, height, width, zoom):
    recipe = ExampleSpec(cells * scale, more * scale, scale, preset, zoom)
    example = make(recipe, noise(height, width))
    assert example["hr"].shape == (cells * scale, cells * scale, 3)
    assert example["hr"].dtype == np.uint8 and example["hr"].flags.c_contiguous
    assert ("lr" in example) == (preset != "none")
    if preset != "none":
        assert example["lr"].shape == (cells, cells, 3) and example["lr"].dtype == np.uint8
    assert example["index"] == 0 and example["id"] == "0.png"


def test_lr_lies_where_hr_lies():
    smooth = enlarged(noise(9, 9), 96)
    recipe = ExampleSpec(32, 24, preset="bicubic")
    for seed in range(20):
        example = make(recipe, smooth, seed=seed)
        rng = np.random.default_rng(0)
        reduced = degradations.draw(rng, "bicubic", 32, 32, 4).apply(example["hr"])
        # Apart from the border, which sees other neighbours, the two are the same.
        difference = reduced.astype(int)[1:-1, 1:-1] - example["lr"][1:-1, 1:-1]
        assert np.abs(difference).max() <= 8 and np.abs(difference).mean() < 1


def test_zoom_enlarges_by_factors_of_its_range():
    """On a ramp along the columns the step from pixel to pixel is that of the image by factor."""
    ramp = np.broadcast_to(np.arange(0, 250, 2, dtype=np.uint8)[None, :, None], (125, 125, 3))
    factors = []
    for seed in range(200):
        hr = make(ExampleSpec(48, preset="none", zoom=(1.5, 3.0)), ramp, seed=seed)["hr"]
        assert hr.shape == (48, 48, 3)
        level = hr.astype(float).mean(-1)
        rows, columns = (np.abs(np.diff(level, axis=i)[8:-8, 8:-8]).mean() for i in (0, 1))
        factors.append(2 / max(rows, columns))
        assert min(rows, columns) == 0
    assert 1.4 < min(factors) < 1.6 and 2.8 < max(factors) < 3.2
    assert np.mean(factors) == pytest.approx(2.25, abs=0.15)


def test_every_place_in_the_margin_and_every_orientation_is_taken():
    places = set()
    for seed in range(300):
        hr = make(ExampleSpec(8, 8, preset="none"), numbered(16, 16), seed=seed)["hr"]
        places.add((int(hr[..., 0].min()), int(hr[..., 1].min())))
    assert places == {(top, left) for top in (0, 4, 8) for left in (0, 4, 8)}
    recipe = ExampleSpec(4, preset="none")
    crops = {make(recipe, numbered(4, 4), seed=s)["hr"].tobytes() for s in range(200)}
    assert len(crops) == 8  # orientations


def test_sharpening_the_target_is_the_chains_own_sharpening(monkeypatch):
    image = noise(64, 64)
    plain = make(ExampleSpec(64, preset="realesrgan"), image, seed=3)
    calls, sharpen = [], operations.usm_sharpen
    monkeypatch.setattr(
        operations, "usm_sharpen", lambda *a, **k: calls.append(1) or sharpen(*a, **k)
    )
    sharp = make(ExampleSpec(64, preset="realesrgan", sharpen=True), image, seed=3)
    assert len(calls) == 1  # for target and chain together
    np.testing.assert_array_equal(plain["lr"], sharp["lr"])
    expected = operations.to_bytes(sharpen(unit(plain["hr"])))
    np.testing.assert_array_equal(sharp["hr"], expected)
    # A chain that does not sharpen gets the crop as it is.
    plain, sharp = (
        make(ExampleSpec(64, preset="camera", sharpen=flag), image, seed=3)
        for flag in (False, True)
    )
    np.testing.assert_array_equal(sharp["hr"], expected)
    np.testing.assert_array_equal(sharp["lr"], plain["lr"])


def test_flat_and_blurred_crops_are_passed_over_and_noted():
    flat, skipped = np.full((64, 64, 3), 128, np.uint8), Skipped()
    half = np.concatenate([flat[:, :32], noise(64, 32)], 1)
    recipe = ExampleSpec(16, preset="none", contrast=5)
    for seed in range(30):
        assert make(recipe, half, seed=seed)["hr"].std() > 4
    example = recipe.make(Reader(Images([flat, half]), skipped), 0, np.random.default_rng(0))
    assert example["id"] == "1.png" and example["index"] == 0
    assert list(skipped.notes()) == ["0.png"]
    blurred = enlarged(noise(3, 3), 64)
    for sharpness, name in ((5, "1.png"), (0, "0.png")):
        recipe = ExampleSpec(32, preset="none", sharpness=sharpness)
        assert make(recipe, blurred, noise(64, 64))["id"] == name


def test_images_that_give_no_example_are_named():
    flat = [np.full((8, 8, 3), 9, np.uint8)] * (IMAGES + 1)
    with pytest.raises(ValueError, match=rf"no crop of {IMAGES} images has contrast 300"):
        make(ExampleSpec(8, preset="none", contrast=300), *flat)
    with pytest.raises(ValueError, match=r"pair 0\.png: HR 16x20 is not 4 times LR 4x4"):
        make(ExampleSpec(8), (noise(16, 20), noise(4, 4)))


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(0, 9))
def test_pairs_are_cut_and_turned_alike(height, width, small, seed):
    lr = numbered(height, width)
    hr = lr.repeat(4, 0).repeat(4, 1)
    example = make(ExampleSpec(4 * small), (hr, lr), seed=seed)
    zoomed = make(ExampleSpec(4 * small, zoom=(1.5, 3.0)), (hr, lr), seed=seed)
    np.testing.assert_array_equal(example["hr"], zoomed["hr"])  # which is for photographs alone
    assert example["lr"].shape == (small, small, 3)
    if min(height, width) >= small:  # reflection does not commute with repeating pixels
        np.testing.assert_array_equal(example["lr"].repeat(4, 0).repeat(4, 1), example["hr"])


class Taught(list):
    """A source over taught examples."""

    def __repr__(self):
        return "Taught()"

    def __getitem__(self, index):
        return {**super().__getitem__(index), "strength": np.float32(0.5), "id": f"{index}#0"}


def learnt(recipe, *examples, seed=0):
    return recipe.make(Reader(Taught(examples), Skipped()), 0, np.random.default_rng(seed))


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.booleans(), st.integers(0, 9))
def test_taught_images_are_cut_and_turned_alike(height, width, small, kept, seed):
    lr = numbered(height, width)
    large = lr.repeat(4, 0).repeat(4, 1)
    source = {"lr": lr, "teacher": large + 3, **({"hr": large} if kept else {})}
    example = learnt(ExampleSpec(4 * small), source, seed=seed)
    assert set(example) == {*source, "strength", "index", "id"}
    assert example["strength"] == 0.5 and example["strength"].dtype == np.float32
    side = 4 * small
    assert example["lr"].shape == (small, small, 3) and example["teacher"].shape == (side, side, 3)
    if kept:
        np.testing.assert_array_equal(example["hr"] + 3, example["teacher"])
        pair = make(ExampleSpec(side), (large, lr), seed=seed)  # the same draws
        np.testing.assert_array_equal(pair["lr"], example["lr"])
        np.testing.assert_array_equal(pair["hr"], example["hr"])
    if min(height, width) >= small:
        large_lr = example["lr"].repeat(4, 0).repeat(4, 1)
        np.testing.assert_array_equal(large_lr + 3, example["teacher"])


def test_an_example_has_the_arrays_that_are_asked_for():
    taught = {"lr": noise(8, 8), "teacher": noise(32, 32), "hr": noise(32, 32)}
    asked = ("lr", "teacher", "strength")
    assert set(learnt(ExampleSpec(16, arrays=asked), taught)) == {*asked, "index", "id"}
    del taught["hr"]
    with pytest.raises(UserError, match=r"Taught\(\): examples without hr; .* --keep-hr"):
        learnt(ExampleSpec(16, arrays=(*asked, "hr")), taught)
    with pytest.raises(UserError, match=r"examples without teacher, strength; data\.teach"):
        make(ExampleSpec(16, arrays=asked), noise(32, 32))
    short = {"lr": noise(8, 8), "teacher": noise(24, 32)}
    with pytest.raises(UserError, match="0#0: teacher's output 24x32 is not 4 times LR 8x8"):
        learnt(ExampleSpec(16), short)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": 30}, "crop must be a multiple of scale 4"),
        ({"crop": 0}, "crop must be"),
        ({"crop": 8, "margin": 6}, "margin must be"),
        ({"crop": 8, "margin": -4}, "margin must be"),
        ({"crop": 8, "scale": 0}, "scale 0"),
        ({"crop": 8, "zoom": (0.5, 2.0)}, "zoom must be a range from 1 upwards, got 0.5 to 2"),
        ({"crop": 8, "zoom": (2.0, 1.5)}, "zoom must be"),
        ({"crop": 8, "preset": "heavy"}, "preset must be one of realesrgan"),
        ({"crop": 8, "preset": "web*0.5;heavy"}, "preset must be one of .*, got 'heavy'"),
        ({"crop": 8, "preset": "web;none"}, "preset must be one of .*, got 'none'"),
        ({"crop": 8, "preset": "web*0"}, r"preset 'web\*0': expected a finite weight above 0"),
    ],
)
def test_wrong_recipes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExampleSpec(**arguments)


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(0, 99))
def test_random_crop_has_the_size_and_only_known_pixels(height, width, size, seed):
    image = numbered(height, width)
    crop = random_crop(image, size, np.random.default_rng(seed))
    assert crop.shape == (size, size, 3)
    assert crop[..., 0].max() < height and crop[..., 1].max() < width
    if min(height, width) >= size:
        np.testing.assert_array_equal(crop[..., 0] - crop[0, 0, 0], numbered(size, size)[..., 0])


def test_reflection_does_not_repeat_the_edge():
    assert reflected(numbered(1, 3), 5)[0, :, 1].tolist() == [0, 1, 2, 1, 0]
    image = numbered(5, 5)
    assert reflected(image, 5) is image
