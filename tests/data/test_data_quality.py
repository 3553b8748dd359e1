"""data.quality, data.recipes, and what data.prepare leaves out, is told of licences, and counts."""

import csv
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import quality, recipes
from maskgit_sr.images.decode import rgb8
from tests.data.prepared import command, examples, manifest, save, scene


def encoded(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def resized(image, height, width):
    return np.asarray(Image.fromarray(image).resize((width, height)))


def differing(one, other):
    return sum(int(a ^ b).bit_count() for a, b in zip(one, other, strict=True))


# fingerprints


def test_digest_tells_pixels_and_shapes_apart():
    image = scene(8, 18)
    changed = image.copy()
    changed[7, 17, 2] ^= 1
    images = [image, changed, image.reshape(12, 12, 3), image.swapaxes(0, 1), image[..., ::-1]]
    digests = [quality.pixel_digest(each) for each in images]
    assert len(set(digests)) == len(images)
    assert quality.pixel_digest(image.swapaxes(0, 1).copy()) == digests[3]  # whatever the strides


def test_difference_hash_by_its_definition():
    # Grey fields of 2×3 pixels: their means are exact, and so is which of two is brighter.
    rng = np.random.default_rng(0)
    fields = rng.integers(256, size=(16, 17))
    fields[3, 4:9] = fields[3, 4]  # equal neighbours: no growth
    image = np.repeat(np.kron(fields, np.ones((2, 3)))[..., None], 3, 2).astype(np.uint8)
    code = quality.difference_hash(image)
    assert code.dtype == np.uint64 and code.shape == (4,)
    bits = np.unpackbits(code.view(np.uint8)).reshape(16, 16)
    np.testing.assert_array_equal(bits, fields[:, 1:] > fields[:, :-1])
    assert not bits[3, 4:8].any() and 80 < bits.sum() < 176


@pytest.mark.parametrize("seed", range(6))
def test_difference_hash_outlives_rescaling_and_recompression(seed):
    image = scene(220, 200, seed)
    code = quality.difference_hash(image)
    warmer = np.clip(image * [1.1, 1.0, 0.9], 0, 255).astype(np.uint8)
    changed = {
        "smaller": resized(image, 150, 140),
        "larger": resized(image, 330, 300),
        "squeezed": resized(image, 200, 120),
        "JPEG": rgb8(encoded(image, "JPEG", quality=30), "copy"),
        "warmer": warmer,
        "all": rgb8(encoded(resized(warmer, 150, 140), "JPEG", quality=60), "copy"),
    }
    far = {name: differing(code, quality.difference_hash(copy)) for name, copy in changed.items()}
    assert max(far.values()) <= 12, far  # the default limit
    assert differing(code, quality.difference_hash(image[:, ::-1])) > 60  # a mirror image is new


def nearest(codes, code, limit):
    """Index and distance of the first of the nearest codes, by a plain loop."""
    best = min(range(len(codes)), key=lambda i: differing(codes[i], code), default=None)
    if best is None or differing(codes[best], code) > limit:
        return None
    return best, differing(codes[best], code)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([0, 12, 40, 256]), st.integers(1, 200))
def test_near_duplicates_against_a_plain_search(seed, limit, count):
    rng = np.random.default_rng(seed)
    found, codes = quality.NearDuplicates(limit), []
    for i in range(count):
        code = rng.integers(2**64, size=4, dtype=np.uint64)
        if codes and rng.random() < 0.5:  # an earlier one with some bits turned over
            code = codes[rng.integers(len(codes))].copy()
            for bit in rng.integers(256, size=rng.integers(30)):
                code[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        expected = nearest(codes, code, limit)
        assert found.nearest(code) == (expected and (f"{expected[0]}.png", expected[1]))
        codes.append(code)
        found.add(f"{i}.png", code)


# what data.prepare leaves out


def report(folder):
    return list(csv.DictReader((folder / "report.csv").read_text().splitlines()))


def spoil(root):
    """One good picture, and all that can be wrong; names sort in the order of the lines."""
    good = scene(80, 90, 1)
    png = save(root / "a good.png", good).read_bytes()
    jpeg = save(root / "b cut.jpg", scene(80, 90, 2), quality=90).read_bytes()
    (root / "b cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    middle = len(png) // 2
    (root / "c corrupt.png").write_bytes(png[:middle] + bytes(64) + png[middle + 64 :])
    (root / "d empty.png").write_bytes(b"")
    (root / "e text.png").write_text("a photograph of a cat")
    save(root / "f small.png", scene(31, 90, 3))
    save(root / "g flat.png", np.full((80, 90, 3), 120, np.uint8))
    save(root / "h blurred.png", cv2.GaussianBlur(scene(80, 90, 4), (0, 0), 6))
    save(root / "i same.bmp", good)
    save(root / "j near.jpg", np.asarray(Image.fromarray(good).resize((70, 64))), quality=85)
    save(root / "k other.png", scene(80, 90, 5))


@pytest.mark.parametrize("drop", [False, True])
def test_bad_pictures_are_reported_with_the_reason(tmp_path, drop):
    root, output = tmp_path / "p", tmp_path / "s"
    spoil(root)
    assert command(root, output=output, more=["--drop-near-duplicates"] * drop) == 0
    rows = report(output)
    sharpness = [float(row["sharpness"]) for row in rows]
    assert sharpness == sorted(sharpness)
    problems = {row["name"]: row["problem"] for row in rows}
    cut, corrupt = problems.pop("p/b cut.jpg"), problems.pop("p/c corrupt.png")
    assert cut.startswith("unreadable: ") and "truncated" in cut
    assert corrupt.startswith("unreadable: ") and len(corrupt) > 15
    assert problems == {
        "p/a good.png": "",
        "p/d empty.png": "unreadable: expected a picture, found an empty file",
        "p/e text.png": "unreadable: not a picture that can be decoded "
        "(PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, AVIF, HEIC, JPEG 2000, ICO or TGA)",
        "p/f small.png": "small: 31x90",
        "p/g flat.png": "flat",
        "p/h blurred.png": "blurred",
        "p/i same.bmp": "duplicate",
        "p/j near.jpg": "near duplicate" if drop else "",
        "p/k other.png": "",
    }
    of = {row["name"]: row["duplicate_of"] for row in rows if row["duplicate_of"]}
    assert of.keys() == {"p/i same.bmp", "p/j near.jpg"} and of["p/i same.bmp"] == "p/a good.png"
    name, _, bits = of["p/j near.jpg"].partition(" (")
    assert name == "p/a good.png" and 0 <= int(bits.split(" ")[0]) <= 12
    kept = {row["source"] for row in examples(output)}
    assert kept == {name for name, problem in problems.items() if not problem}
    expected = {"unreadable": 4, "small": 1, "flat": 1, "blurred": 1, "duplicate": 1}
    said = manifest(output)
    assert said["left_out"] == expected | ({"near duplicate": 1} if drop else {})
    assert said["near_duplicates"] == 1
    assert said["pictures"] == len(kept) == 11 - sum(said["left_out"].values())


def test_flat_crops_of_a_good_picture_are_left_out(tmp_path):
    image = np.full((48, 112, 3), 200, np.uint8)
    image[:, :48] = scene(48, 48)
    save(tmp_path / "p/sky.png", image)
    assert command(tmp_path / "p", output=tmp_path / "s") == 0
    assert [row["left"] for row in examples(tmp_path / "s")] == [0, 32]  # the crop at 64 is flat


def test_pairs_that_do_not_fit_are_reported(tmp_path):
    sizes = {"a": (64, 66, 16), "b": (64, 64, 16), "c": (70, 64, 16), "d": (64, 64, 80)}
    for i, (name, (height, width, small)) in enumerate({**sizes, "e": sizes["b"]}.items()):
        save(tmp_path / f"p/{name}_HR.png", scene(height, width, i))
        save(tmp_path / f"p/{name}_LR4.png", scene(small, small, i))
    (tmp_path / "p/e_LR4.png").write_bytes(b"")
    assert command(tmp_path / "p", output=tmp_path / "s", more=("--pairs",)) == 0
    assert {row["name"]: row["problem"] for row in report(tmp_path / "s")} == {
        "p/a_HR.png": "mismatched: HR 64x66, LR 16x16",
        "p/b_HR.png": "",
        "p/c_HR.png": "mismatched: HR 70x64, LR 16x16",
        "p/d_HR.png": "mismatched: HR 64x64, LR 80x80",
        "p/e_HR.png": "unreadable: expected a picture, found an empty file",
    }
    assert manifest(tmp_path / "s")["left_out"] == {"mismatched": 3, "unreadable": 1}


@pytest.mark.parametrize("sharp_first", [True, False])
def test_a_blurred_copy_is_called_blurred_wherever_it_stands(tmp_path, sharp_first):
    image = scene(200, 200)
    sharp, blurred = ("a", "b") if sharp_first else ("b", "a")
    save(tmp_path / f"p/{sharp}.png", image)
    save(tmp_path / f"p/{blurred}.png", cv2.GaussianBlur(image, (0, 0), 4))
    more = ("--drop-near-duplicates",)
    assert command(tmp_path / "p", output=tmp_path / "s", more=more) == 0
    found = {row["name"]: (row["problem"], row["duplicate_of"]) for row in report(tmp_path / "s")}
    assert found == {f"p/{sharp}.png": ("", ""), f"p/{blurred}.png": ("blurred", "")}


# licences


def test_licences(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for i, path in enumerate((one / "a.png", one / "sub/b.png", one / "c.png", two / "a.png")):
        save(path, scene(48, 48, i))
    (one / "MANIFEST.csv").write_text('by,file,licence\nAna,sub/b.png,"CC BY, 4.0"\nBo,a.png,CC0\n')
    assert command(one, two, output=tmp_path / "s") == 0
    found = {row["id"]: row["licence"] for row in examples(tmp_path / "s")}
    assert found == {
        "one/a.png": "CC0",
        "one/c.png": "unknown",
        "one/sub/b.png": "CC BY, 4.0",
        "two/a.png": "unknown",
    }
    assert manifest(tmp_path / "s")["licences"] == {"CC0": 1, "CC BY, 4.0": 1, "unknown": 2}
    assert command(one, two, output=tmp_path / "t", more=("--licence", "public")) == 0
    assert manifest(tmp_path / "t")["licences"] == {"public": 4}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"file,licence\na.png\n", "unknown", id="no licence in the line"),
        pytest.param(b"\xef\xbb\xbffile,licence\na.png,CC0\n", "CC0", id="as Excel saves UTF-8"),
        pytest.param(b"name,license\na.png,CC0\n", None, id="other columns"),
    ],
)
def test_odd_manifests(tmp_path, text, expected):
    save(tmp_path / "p/a.png", scene(48, 48))
    (tmp_path / "p/MANIFEST.csv").write_bytes(text)
    if expected:
        assert command(tmp_path / "p", output=tmp_path / "s") == 0
        assert manifest(tmp_path / "s")["licences"] == {expected: 1}
        return
    with pytest.raises(ValueError, match="MANIFEST.csv: expected columns file and licence"):
        command(tmp_path / "p", output=tmp_path / "s")
    assert not (tmp_path / "s").exists()


# data sets


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("div2k-train", "0001.png HR/0799.png 0800.png", "0801.png 0900.png 0001x4.png 0001.jpg"),
        ("div2k-valid", "0801.png HR/0899.png 0900.png", "0901.png 0001.png 0801x4.png 10801.png"),
        ("flickr2k", "000001.png HR/002650.png", "0001.png 000001x2.png 100001.png"),
        ("ost", "sky/a.png b.jpg", ""),
        ("realsr-test-x4", "Canon_001_HR.png 4/Nikon_050_HR.png", "Canon_001_LR4.png a_HR.png"),
        ("drealsr-test-x4", "test_HR/a_x1.png x/test_HR/b.png", "test_LR/a_x4.png train_HR/b.png"),
        ("dped-iphone", "0.jpg iphone/5726.jpg", "0.png a.jpg 1/a.jpg"),
    ],
)
def test_what_belongs_to_a_data_set(monkeypatch, name, inside, outside):
    pattern, inside = recipes.RECIPES[name].pattern, inside.split()
    monkeypatch.setitem(recipes.RECIPES, name, recipes.Recipe(len(inside), pattern))
    recipes.check(name, [inside])
    recipes.check(name, [[path] for path in inside])  # however many folders they lie in
    for path in outside.split():
        with pytest.raises(ValueError, match="1 images in the input are not part of it"):
            recipes.check(name, [[*inside, path]])
    with pytest.raises(ValueError, match=f"expected {len(inside)} images, found {len(inside) - 1}"):
        recipes.check(name, [inside[1:]])


def test_div2k_is_counted():
    names = [f"{i:04}.png" for i in range(1, 901)]
    recipes.check("div2k-train", [names[:800]])
    recipes.check("div2k-valid", [names[800:]])
    for folders, line in (
        ([names[1:800]], "expected 800 images, found 799"),
        ([names[800:]], "expected 800 images, found 0 and 100 that are not part of it"),
        ([names], "100 images in the input are not part of it"),
    ):
        with pytest.raises(ValueError) as error:
            recipes.check("div2k-train", folders)
        assert str(error.value) == f"--dataset div2k-train: {line}"


def test_prepare_refuses_a_download_that_is_not_whole(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "ost", recipes.Recipe(2))
    for i in range(2):
        save(tmp_path / f"p/{i}.png", scene(48, 48, i))
    assert command(tmp_path / "p", output=tmp_path / "s", more=("--dataset", "ost")) == 0
    assert manifest(tmp_path / "s")["pictures"] == 2
    (tmp_path / "p/0.png").unlink()
    with pytest.raises(ValueError, match="--dataset ost: expected 2 images, found 1"):
        command(tmp_path / "p", output=tmp_path / "t", more=("--dataset", "ost"))
    assert not (tmp_path / "t").exists()
