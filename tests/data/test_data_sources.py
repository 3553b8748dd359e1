"""data.sources: folders, lists, pairs, TFDS, mixtures, and a bucket in memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import records
from data.sources import (
    ImageFolder,
    ImageList,
    PairedFolder,
    TfdsSource,
    list_images,
    open_source,
    parse_mixture,
    read_image,
)
from maskgit_sr.errors import UserError
from tests.data.prepared import save, write_shards


def write(path, height=8, width=8, rgb=(9, 99, 199)):
    return save(path, np.full((height, width, 3), rgb, np.uint8))


def ids(source):
    return [source[i]["id"] for i in range(len(source))]


def test_folder_is_recursive_sorted_and_rgb(tmp_path):
    for name in ("b/2.PNG", "a.png", "b/1.bmp", "c.webp", "d.tiff", "e.jpg"):
        write(tmp_path / name, 5, 7)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._a.png").write_bytes(b"x")
    source = ImageFolder(tmp_path)
    assert ids(source) == ["a.png", "b/1.bmp", "b/2.PNG", "c.webp", "d.tiff", "e.jpg"]
    assert np.array_equal(source[0]["image"], np.full((5, 7, 3), (9, 99, 199), np.uint8))
    assert source[-1]["id"] == "e.jpg"
    with pytest.raises(IndexError):
        source[len(source)]


def test_linked_folders_are_followed_and_loops_are_not(tmp_path, caplog):
    root, real = tmp_path / "root", tmp_path / "real"
    for path in (root / "z.png", real / "y.png", real / "sub" / "x.png"):
        write(path)
    for link, target in {
        root / "album": real,
        root / "file.png": real / "y.png",
        real / "self": real,
        real / "sub" / "up": root,
        root / "away": tmp_path / "gone",
    }.items():
        link.symlink_to(target)
    found = ["album/sub/x.png", "file.png", "z.png"]  # album/y.png is file.png
    assert list_images(root) == found
    assert "away: broken link" in caplog.text
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "album").symlink_to("../root")
    assert list_images(tmp_path / "only") == [f"album/{name}" for name in found]
    assert list_images(root / "album") == ["sub/up/z.png", "sub/x.png", "y.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, caplog):
    write(tmp_path / "a.png")
    (tmp_path / "locked").mkdir()
    listdir = os.listdir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert list_images(tmp_path) == ["a.png"]
    assert "locked: cannot be read (Permission denied)" in caplog.text


def test_folders_and_files_without_an_image_are_named(tmp_path):
    for make in (False, True):
        if make:
            (tmp_path / "nothing_here").mkdir()
        with pytest.raises(ValueError, match="nothing_here") as error:
            ImageFolder(tmp_path / "nothing_here")
        assert "\n" not in str(error.value)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a\.png: not a picture"):
        ImageFolder(tmp_path)[0]
    with pytest.raises(UserError, match=r"gone\.png: cannot be read .No such file"):
        read_image(tmp_path / "gone.png")


def test_list_file_keeps_its_order(tmp_path):
    for name in ("a.png", "sub/b.png"):
        write(tmp_path / name)
    (tmp_path / "list.txt").write_text(f"# best\nsub/b.png\t0.9\n\n{tmp_path}/a.png\nsub/b.png\n")
    source = ImageList(tmp_path / "list.txt")
    assert ids(source) == ["sub/b.png", f"{tmp_path}/a.png", "sub/b.png"]
    assert source[1]["image"].shape == (8, 8, 3)
    (tmp_path / "empty.txt").write_text("# none\n")
    with pytest.raises(ValueError, match="names no image"):
        ImageList(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="not found"):
        ImageList(tmp_path / "gone.txt")


PAIRS = {  # HR, LR, HR, LR, … and the ids
    "by scene": ("hr/A_1_HR.png lr/A_1_LR4.png hr/B_2_x1.png lr/B_2_x4.png", "A_1 B_2"),
    "equal names first": ("hr/a_x2.png lr/a_x2.png hr/a_x4.png lr/a_x4.png", "a_x2 a_x4"),
    "RealSR": ("C/4/C_1_HR.png C/4/C_1_LR4.png N/4/C_1_HR.png N/4/C_1_LR4.png", "C/4/C_1 N/4/C_1"),
    "DRealSR": ("test_HR/DSC_1_x4.png test_LR/DSC_1_x1.png", "DSC_1"),
}


@pytest.mark.parametrize(("paths", "ids"), PAIRS.values(), ids=PAIRS)
def test_pairs_are_found(tmp_path, paths, ids):
    hr, lr = paths.split()[::2], paths.split()[1::2]
    for i, pair in enumerate(zip(hr, lr, strict=True)):
        for path, side in zip(pair, (16, 4), strict=True):
            write(tmp_path / path, side, side, (i, i, i))
    source = PairedFolder(tmp_path)
    assert source.has_lr and source.names == hr
    for i, name in enumerate(ids.split()):
        assert source[i]["id"] == name
        for kind, side in (("hr", 16), ("lr", 4)):
            np.testing.assert_array_equal(source[i][kind], np.full((side, side, 3), i))


def test_sizes_of_pairs_are_checked_from_their_heads(tmp_path):
    for name, rows in (("a", 4), ("b", 5)):
        write(tmp_path / f"hr/{name}.png", 16, 16)
        write(tmp_path / f"lr/{name}.png", rows, 4)
    source = PairedFolder(tmp_path)
    with pytest.raises(ValueError, match="b: HR 16x16 is not 4 times LR 5x4"):
        source.check_sizes(4)
    assert list(source.bad_sizes(4)) == [1] and list(source.bad_sizes(2)) == [0, 1]
    write(tmp_path / "lr/b.png", 4, 4)
    source.check_sizes(4)
    with pytest.raises(ValueError, match="a: HR 16x16 is not 2 times"):
        source.check_sizes(2)
    for name in "ab":
        (tmp_path / f"lr/{name}.png").write_bytes(b"x")
    source.check_sizes(2)  # nothing to compare is left: readers deal with damaged files


def test_hr_only(tmp_path):
    write(tmp_path / "hr/a.png")
    source = PairedFolder(tmp_path)
    assert not source.has_lr and set(source[0]) == {"hr", "id"}
    with pytest.raises(ValueError, match="holds no LR images"):
        open_source(f"pairs:{tmp_path}")


def test_folders_without_pairs_or_with_several_are_explained(tmp_path):
    with pytest.raises(ValueError, match="not found"):
        PairedFolder(tmp_path / "gone")
    write(tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected folders lr and hr, or files"):
        PairedFolder(tmp_path)
    for name in ("test_HR", "train_HR"):
        write(tmp_path / name / "a.png")
    with pytest.raises(ValueError, match="several candidates: test_HR, train_HR"):
        PairedFolder(tmp_path)


def test_missing_and_ambiguous_partners_are_named(tmp_path):
    write(tmp_path / "hr/a_HR.png")
    write(tmp_path / "lr/b_LR.png")
    with pytest.raises(ValueError, match="hr/a_HR.png has no single LR partner in lr/"):
        PairedFolder(tmp_path)
    write(tmp_path / "lr/a_LR4.png")
    write(tmp_path / "lr/a_x4.png")
    with pytest.raises(
        ValueError,
        match=r"a_HR.png has no single .*; of one name are hr/a_HR.png, lr/a_LR4.png, lr/a_x4.png",
    ):
        PairedFolder(tmp_path)
    (tmp_path / "lr/a_x4.png").unlink()
    write(tmp_path / "hr/a_x1.png")
    with pytest.raises(ValueError, match="of one name are hr/a_HR.png, hr/a_x1.png, lr/a_LR4.png"):
        PairedFolder(tmp_path)


@pytest.mark.parametrize("name", ["realsr", "drealsr"])
def test_real_validation_sets_pair_up(shared, name):
    source = PairedFolder(shared / "data/val" / name)
    assert source.has_lr and len(source) > 40
    source.check_sizes(4)
    assert source[0]["hr"].shape[0] == 4 * source[0]["lr"].shape[0]


def test_open_source_finds_the_kind(tmp_path):
    write(tmp_path / "photos/a.png")
    write(tmp_path / "both/hr/a.png", 16, 16)
    write(tmp_path / "both/lr/a.png", 4, 4)
    (tmp_path / "list.txt").write_text("photos/a.png\n")
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [records.pack("a", b"image")])
    kinds = {"photos": ImageFolder, "list.txt": ImageList, "shards": records.RecordFolder}
    for name, kind in kinds.items():
        assert type(open_source(str(tmp_path / name))) is kind
    assert type(open_source(f"pairs:{tmp_path}/both")) is PairedFolder
    with pytest.raises(ValueError, match="no such folder, list file or shards"):
        open_source(str(tmp_path / "nothing"))


def test_mixtures_are_parsed_and_their_mistakes_named():
    assert parse_mixture("a;b") == [("a", 1.0), ("b", 1.0)]
    assert parse_mixture("photos*0.7; gs://b/x*2;") == [("photos", 0.7), ("gs://b/x", 2.0)]
    for text, message in (
        ("", "found ''"),
        ("a*b", "a number after"),
        ("a*0", "weight above 0"),
        ("a*inf", "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_mixture(text)


def test_buckets_are_read_like_folders(bucket, tmp_path):
    write(tmp_path / "a.png", rgb=(1, 2, 3))
    data = (tmp_path / "a.png").read_bytes()
    for name in ("photos/sub/a.png", "photos/b.png"):
        (bucket / name).write_bytes(data)
    (bucket / "list.txt").write_text("photos/b.png\n")
    assert list_images("gs://bucket/photos") == ["b.png", "sub/a.png"]
    source = open_source("gs://bucket/photos")
    assert source[1]["image"][0, 0].tolist() == [1, 2, 3]
    assert open_source("gs://bucket/list.txt")[0]["id"] == "photos/b.png"
    with pytest.raises(UserError, match=r"gs://bucket/photos/c\.png"):
        read_image("gs://bucket/photos/c.png")


def test_shards_in_a_bucket_are_copied_and_read(bucket, tmp_path):
    image = np.full((4, 4, 3), 7, np.uint8)
    write_shards(tmp_path, [records.pack("x", records.encode(image))])
    for path in tmp_path.iterdir():
        (bucket / "s" / path.name).write_bytes(path.read_bytes())
    source = open_source("gs://bucket/s")
    assert type(source) is records.RecordFolder and len(source) == 1
    np.testing.assert_array_equal(source[0]["image"], image)


_TFDS = """
import io, sys
import cv2
import numpy as np
import tensorflow_datasets as tfds
assert "tensorflow" not in sys.modules

class Pets(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(None, None, 3))}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            image = cv2.imencode(".png", np.full((4 + i, 5, 3), 10 * i, np.uint8))[1]
            yield i, {"image": io.BytesIO(image.tobytes())}

Pets(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
from data.sources import open_source
source = open_source(f"tfds:pets:train:{sys.argv[1]}")
assert len(source) == 3, len(source)
found = sorted(source[i]["image"].mean() for i in range(3))
assert found == [0, 10, 20], found
assert source[2]["id"] == "pets/train/2" and source[0]["image"].shape[1:] == (5, 3)
assert "tensorflow" not in sys.modules
"""


def test_tfds_is_read_without_tensorflow(tmp_path):
    line = [sys.executable, "-c", _TFDS, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_tfds_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(ValueError, match=r"TFDS dataset 'div2k'.*tfds build") as error:
        TfdsSource("div2k", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="TFDS dataset 'no_such_set'"):
        TfdsSource("no_such_set", data_dir=str(tmp_path))
