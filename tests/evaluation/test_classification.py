"""evaluation.classification and .labels: what is classified, and how often it is wrong."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from maskgit_sr import inference
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import classification, statistics
from maskgit_sr.evaluation.classification import Classifier, crop, measure, shrunk
from maskgit_sr.evaluation.labels import Labelled, labelled
from maskgit_sr.images.inputs import PassedOver
from maskgit_sr.inference.load import load


def plain(path, level, size=(224, 224)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)
    return path


def by_level(x):
    """Ten classes: an image belongs to the one whose tenth of the intensities it lies in."""
    centres = (np.arange(10) + 0.5) / 10
    return -np.abs(x.mean((1, 2, 3))[:, None] - centres)


FAKE = Classifier(by_level, 10, "0" * 64)


# ------------------------------------------------------------------ labels


def test_sub_folders_named_by_index(tmp_path):
    for name in ("7/a.png", "12/b.png", "12/c.png"):
        plain(tmp_path / name, 0)
    plain(tmp_path / "loose.png", 0)
    entries, problems = labelled(str(tmp_path), 13)
    assert [(entry.name, entry.label) for entry in entries] == [
        *(("12/b.png", 12), ("12/c.png", 12), ("7/a.png", 7))
    ]
    assert problems == [f"{tmp_path / 'loose.png'}: in no sub-folder of a class"]
    with pytest.raises(UserError, match="expected classes 0 to 11, found 12"):
        labelled(str(tmp_path), 12)


def test_sub_folders_of_all_classes_or_of_named_ones(tmp_path):
    for name in ("n02/a.png", "n01/b.png", "n03/c.png"):
        plain(tmp_path / "set" / name, 0)
    folder = str(tmp_path / "set")
    entries, problems = labelled(folder, 3)
    assert not problems and [entry.label for entry in entries] == [0, 1, 2]
    with pytest.raises(UserError, match="or 4 of them, found 3; --classes names them"):
        labelled(folder, 4)
    names = tmp_path / "classes.txt"
    names.write_text("n03\nn00\nn02\nn01\n")
    entries, _ = labelled(folder, 4, names=names)
    assert [(e.name[:3], e.label) for e in entries] == [("n01", 3), ("n02", 2), ("n03", 0)]
    with pytest.raises(UserError, match="expected 5 names of classes, found 4"):
        labelled(folder, 5, names=names)
    names.write_text("n00\nn02\nn01\n")
    with pytest.raises(UserError, match="sub-folder n03 is no class of"):
        labelled(folder, 3, names=names)


def test_a_table_of_labels(tmp_path):
    for name in ("x.png", "sub/y.jpg", "unlisted.png"):
        plain(tmp_path / "set" / name, 0)
    table, folder = tmp_path / "labels.csv", str(tmp_path / "set")
    table.write_text("\ufeffname,class\nsub/y,4\n\nx.png, 0\ngone.png,1\n")
    entries, problems = labelled(folder, 5, labels=table, passed=PassedOver())
    assert [entry[::2] for entry in entries] == [("sub/y", 4), ("x.png", 0)]
    assert problems == [f"gone.png: named in {table}, but not in the folder"]
    for text, message in (
        ("x.png,5", "line 1: expected a class of 0 to 4, found 5"),
        ("x.png,0\nx.png", "line 2: expected NAME,CLASS, found 'x.png'"),
        ("x.png,0\nx.png,-1", "line 2: expected NAME,CLASS"),
        ("gone.png,1", "names no photograph of the folder"),
        ("", "names no photograph of the folder"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=message):
            labelled(folder, 5, labels=table)
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a text in UTF-8"):
        labelled(folder, 5, labels=table)
    with pytest.raises(UserError, match="No such file"):
        labelled(folder, 5, labels=tmp_path / "no.csv")


# ------------------------------------------------------------------ crops


@pytest.mark.parametrize(
    ("size", "resized"),
    [((512, 300), (436, 256)), ((300, 512), (256, 436)), ((90, 100), (256, 284))],
)
def test_crop_as_torchvision(size, resized):
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    whole = np.asarray(Image.fromarray(color).resize(resized, Image.Resampling.BILINEAR))
    top, left = ((side - 224) // 2 for side in whole.shape[:2])
    np.testing.assert_array_equal(crop(color), whole[top : top + 224, left : left + 224])


def test_crops_that_need_no_resizing_stay():
    color = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    assert crop(color) is color
    small = shrunk(color, 4)
    assert small.shape == (56, 56, 3) and small.dtype == np.uint8
    assert abs(small.mean() - color.mean()) < 1 and small.std() < color.std() / 2


# ------------------------------------------------------------------ errors


def test_errors_of_a_set(tmp_path):
    """Levels and labels: two right, one third, one seventh of ten."""
    levels = ((12, 0), (140, 5), (140, 6), (30, 6))
    entries = [
        Labelled(f"{i}", plain(tmp_path / f"{i}.png", level), label)
        for i, (level, label) in enumerate(levels)
    ]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    entries.insert(2, Labelled("broken", tmp_path / "broken.png", 0))
    calls = []
    systems = {"pictures": lambda crops: crops, "negatives": lambda crops: [255 - c for c in crops]}
    found = measure(
        entries, systems, FAKE, source={}, problems=["z: lost"], progress=lambda *n: calls.append(n)
    )
    assert [row["ranks"]["pictures"] for row in found["images"]] == [0, 0, 2, 6]
    assert found["images"][3]["ranks"]["negatives"] == 3
    summary = found["summary"]["pictures"]
    assert summary["top1_error"]["rate"] == 0.5 and summary["top5_error"]["rate"] == 0.25
    assert summary["top5_error"] == statistics.proportion(1, 4)
    assert found["counts"] == {"classified": 4, "of": 6} and calls == [(5, 5)]
    assert found["problems"][0] == "z: lost" and "broken" in found["problems"][1]
    json.dumps(found, allow_nan=False)


def test_one_that_fails_costs_no_other(tmp_path):
    entries = [Labelled(f"{i}", plain(tmp_path / f"{i}.png", 20 * i), 0) for i in range(3)]

    def fails(crops):
        if any(crop.mean() == 20 for crop in crops):
            raise UserError("expected another level")
        return crops

    found = measure(entries, {"model": fails}, FAKE, source={})
    assert [row["name"] for row in found["images"]] == ["0", "2"]
    assert found["problems"] == ["1: expected another level"]
    broken = Classifier(lambda x: np.full((len(x), 10), np.nan), 10, "")
    found = measure(entries, {"pictures": list}, broken, source={})
    assert found["summary"]["pictures"]["top1_error"]["rate"] is None
    assert found["problems"][2] == "2: the classifier's output is not finite"


def test_a_model_restores_what_was_shrunk(subpixel):
    """A filter of scale 2: bicubic and model keep what is flat."""
    upscaler = load(str(subpixel), batch=4)
    assert isinstance(upscaler, inference.upscaler.Upscaler)
    made = classification.systems(upscaler, "mine", 0, strength=0.0)
    assert list(made) == ["photographs", "bicubic", "mine"]
    ramp = np.broadcast_to(np.arange(224, dtype=np.uint8)[:, None, None], (224, 224, 3))
    crops = [np.ascontiguousarray(ramp), np.full((224, 224, 3), 77, np.uint8)]
    assert made["photographs"](crops) is crops
    for name in ("bicubic", "mine"):
        restored = made[name](crops)
        assert [one.shape for one in restored] == [(224, 224, 3)] * 2
        assert all(
            np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(restored, crops, strict=True)
        )
    # of one picture at a time it is the same
    alone = made["mine"](crops[1:])
    np.testing.assert_array_equal(alone[0], made["mine"](crops)[1])
    assert list(classification.systems(None, "", 0)) == ["pictures"]


@pytest.mark.parametrize(("count", "of"), [(0, 10), (3, 10), (10, 10), (500, 1000)])
def test_wilson(count, of):
    """Wilson's closed form."""
    z = stats.norm.ppf(0.975)
    centre = (count + z**2 / 2) / (of + z**2)
    half = z / (of + z**2) * np.sqrt(count * (of - count) / of + z**2 / 4)
    found = statistics.proportion(count, of)
    np.testing.assert_allclose(
        [found["low"], found["high"]], [centre - half, centre + half], atol=1e-9
    )
    assert found["rate"] == count / of and found["n"] == of
    assert statistics.proportion(0, 0) == {"rate": None, "low": None, "high": None, "n": 0}
