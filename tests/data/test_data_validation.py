"""data.validation: pairs in a fixed order."""

import cv2
import numpy as np
import pytest

from data.validation import validation_pairs, whole_multiple


def test_pairs_come_in_order_and_are_checked(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("b", "a"):
        for folder, size in (("hr", 16), ("lr", 4)):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = rng.integers(256, size=(size, 2 * size, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{name}_{folder}.png"), image)
    pairs = list(validation_pairs(tmp_path))
    assert [p["id"] for p in pairs] == ["a", "b"]
    assert pairs[0]["lr"].shape == (4, 8, 3) and pairs[0]["hr"].shape == (16, 32, 3)
    assert pairs[0]["lr"].dtype == pairs[0]["hr"].dtype == np.uint8
    assert len(list(validation_pairs(tmp_path, limit=1))) == 1
    with pytest.raises(ValueError, match="a: HR .* is not 2 times LR"):
        list(validation_pairs(tmp_path, scale=2))


def test_hr_alone_is_reduced(tmp_path):
    (tmp_path / "hr").mkdir()
    cv2.imwrite(str(tmp_path / "hr/a.png"), np.full((18, 23, 3), 77, np.uint8))
    (pair,) = validation_pairs(tmp_path)
    assert pair["hr"].shape == (16, 20, 3)
    assert pair["lr"].shape == (4, 5, 3) and np.all(pair["lr"] == 77)


def test_a_missing_folder_is_named_at_once(tmp_path):
    with pytest.raises(ValueError, match="gone"):
        validation_pairs(tmp_path / "gone")


def test_whole_multiple_cuts_bottom_and_right():
    image = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
    np.testing.assert_array_equal(whole_multiple(image, 4), image[:4, :8])
    with pytest.raises(ValueError, match="3x9 is smaller than the scale 4"):
        whole_multiple(image[:3], 4)
