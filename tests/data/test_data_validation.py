"""data.validation: pairs in a fixed order."""

import numpy as np
import pytest

from data.validation import validation_pairs, whole_multiple
from tests.data.pictures import photo
from tests.data.prepared import save


def test_pairs_come_in_order_and_are_checked(tmp_path):
    for name in ("b", "a"):
        save(tmp_path / f"hr/{name}_hr.png", photo(16, 32))
        save(tmp_path / f"lr/{name}_lr.png", photo(4, 8))
    pairs = list(validation_pairs(tmp_path))
    assert [p["id"] for p in pairs] == ["a", "b"]
    assert pairs[0]["lr"].shape == (4, 8, 3) and pairs[0]["hr"].shape == (16, 32, 3)
    assert pairs[0]["lr"].dtype == pairs[0]["hr"].dtype == np.uint8
    assert len(list(validation_pairs(tmp_path, limit=1))) == 1
    with pytest.raises(ValueError, match="a: HR .* is not 2 times LR"):
        list(validation_pairs(tmp_path, scale=2))
    with pytest.raises(ValueError, match="gone"):
        validation_pairs(tmp_path / "gone")  # at once


def test_bad_pairs_are_passed_over_counted_and_named(tmp_path, caplog):
    for name, shape in {"a": (17, 32), "b": (16, 32), "d": (16, 32), "e": (18, 33)}.items():
        save(tmp_path / f"hr/{name}.png", np.zeros((*shape, 3), np.uint8))
        save(tmp_path / f"lr/{name}.png", np.zeros((4, 8, 3), np.uint8))
    for kind in ("hr", "lr"):
        (tmp_path / kind / "c.png").write_bytes(b"x")
    assert [pair["id"] for pair in validation_pairs(tmp_path)] == ["b", "d"]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("validation: 3 of 5 passed over: ") and line.count(";") == 2
    for part in ("/a: HR 17x32 is not 4 times LR 4x8", "c.png: not a picture", "/e: HR 18x33 is"):
        assert part in line
    assert [pair["id"] for pair in validation_pairs(tmp_path, limit=1)] == ["b"]
    with pytest.raises(ValueError, match="no pair is usable, first .*a: HR 17x32 is not 2 times"):
        list(validation_pairs(tmp_path, scale=2))


def test_hr_alone_is_cut_and_reduced(tmp_path):
    image = np.full((18, 23, 3), 77, np.uint8)
    image[16:], image[:, 20:] = 0, 0
    save(tmp_path / "hr/a.png", image)
    (pair,) = validation_pairs(tmp_path)
    np.testing.assert_array_equal(pair["hr"], np.full((16, 20, 3), 77))
    np.testing.assert_array_equal(pair["lr"], np.full((4, 5, 3), 77))
    with pytest.raises(ValueError, match="3x23 is smaller than the scale 4"):
        whole_multiple(image[:3], 4)
