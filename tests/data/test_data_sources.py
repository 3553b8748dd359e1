"""data.sources: folders of images and of pairs."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.sources import ImageFolder, PairedFolder, list_images, read_image, scene_name


def write(path: Path, height: int = 8, width: int = 8, rgb: tuple[int, int, int] = (9, 99, 199)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((height, width, 3), rgb, np.uint8)
    assert cv2.imwrite(str(path), image[..., ::-1])


def test_folder_is_recursive_sorted_and_rgb(tmp_path):
    for name in ("b/2.PNG", "a.png", "b/1.bmp", "c.webp", "d.tiff", "e.jpg"):
        write(tmp_path / name, 5, 7)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._a.png").write_bytes(b"x")
    source = ImageFolder(tmp_path)
    ids = [source[i]["id"] for i in range(len(source))]
    assert ids == ["a.png", "b/1.bmp", "b/2.PNG", "c.webp", "d.tiff", "e.jpg"]
    assert source[0]["image"].shape == (5, 7, 3)
    assert source[0]["image"].dtype == np.uint8
    assert source[0]["image"][0, 0].tolist() == [9, 99, 199]
    with pytest.raises(IndexError):
        source[len(source)]


def test_greyscale_alpha_and_16_bit_become_rgb8(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 4), 50, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((4, 4, 4), 50, np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 4, 3), 50 * 257, np.uint16))
    for name in list_images(tmp_path):
        image = read_image(tmp_path / name)
        assert image.dtype == np.uint8 and image.shape == (4, 4, 3)
        assert np.all(image == 50), name


@pytest.mark.parametrize("make", [False, True])
def test_missing_or_empty_folder_is_named(tmp_path, make):
    root = tmp_path / "nothing_here"
    if make:
        root.mkdir()
    with pytest.raises(ValueError, match="nothing_here") as error:
        ImageFolder(root)
    assert "\n" not in str(error.value)


def test_unreadable_image_is_replaced_counted_and_logged_once(tmp_path, caplog):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    (tmp_path / "d.png").write_bytes(b"")
    source = ImageFolder(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [source[i]["id"] for i in range(4)] == ["a.png", "c.png", "c.png", "a.png"]
    assert source.unreadable == 2
    assert [sum(name in r.getMessage() for r in caplog.records) for name in ("b.png", "d.png")] == [
        1,
        1,
    ]


def test_folder_without_any_readable_image_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    source = ImageFolder(tmp_path)
    with pytest.raises(ValueError, match="none of 1 images is readable"):
        source[0]


def test_cache_keeps_decoded_images(tmp_path):
    write(tmp_path / "a.png")
    source = ImageFolder(tmp_path, cache=True)
    first = source[0]["image"]
    (tmp_path / "a.png").unlink()
    assert source[0]["image"] is first
    with pytest.raises(ValueError):
        first[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("path", "scene"),
    [
        ("Canon_001_LR4.png", "Canon_001"),
        ("Canon_001_HR.png", "Canon_001"),
        ("DSC_1045_x1.png", "DSC_1045"),
        ("sub/P1_x4.jpg", "sub/P1"),
        ("0801x4.png", "0801"),
        ("a_LR_x4.png", "a"),
        ("img_001.png", "img_001"),
        ("box4.png", "box4"),
        ("sub/_x4.png", "sub/_x4"),
    ],
)
def test_scene_name(path, scene):
    assert scene_name(path) == scene


def test_pairs_match_by_scene(tmp_path):
    write(tmp_path / "hr/A_1_HR.png", 16, 16)
    write(tmp_path / "hr/B_2_x1.png", 32, 16)
    write(tmp_path / "lr/A_1_LR4.jpg", 4, 4)
    write(tmp_path / "lr/B_2_x4.png", 8, 4)
    source = PairedFolder(tmp_path)
    assert source.has_lr and len(source) == 2
    assert [source[i]["id"] for i in range(2)] == ["A_1", "B_2"]
    assert source[1]["hr"].shape == (32, 16, 3) and source[1]["lr"].shape == (8, 4, 3)


def test_equal_names_win_over_scene_names(tmp_path):
    for folder in ("hr", "lr"):
        write(tmp_path / folder / "a_x2.png")
        write(tmp_path / folder / "a_x4.png")
    source = PairedFolder(tmp_path)
    assert [source[i]["id"] for i in range(2)] == ["a_x2", "a_x4"]


def test_hr_only(tmp_path):
    write(tmp_path / "hr/a.png")
    source = PairedFolder(tmp_path)
    assert not source.has_lr and set(source[0]) == {"hr", "id"}


def test_missing_and_ambiguous_partners_are_named(tmp_path):
    write(tmp_path / "hr/a_HR.png")
    write(tmp_path / "lr/b_LR.png")
    with pytest.raises(ValueError, match="hr/a_HR.png has no LR partner"):
        PairedFolder(tmp_path)
    write(tmp_path / "lr/a_LR4.png")
    write(tmp_path / "lr/a_x4.png")
    with pytest.raises(ValueError, match="several LR partners"):
        PairedFolder(tmp_path)
    (tmp_path / "lr/a_x4.png").unlink()
    write(tmp_path / "hr/a_x1.png")
    with pytest.raises(ValueError, match="lr/a_LR4.png fits several HR images"):
        PairedFolder(tmp_path)


@pytest.mark.parametrize("name", ["realsr", "drealsr"])
def test_real_validation_sets_pair_up(name):
    root = Path(__file__).parents[3] / "shared/data/val" / name
    if not root.is_dir():
        pytest.skip(f"validation set {name} is not here")
    source = PairedFolder(root)
    assert source.has_lr and len(source) > 40
    assert source[0]["hr"].shape[0] == 4 * source[0]["lr"].shape[0]
