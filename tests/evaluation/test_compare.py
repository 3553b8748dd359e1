"""The page of before and after: its pictures are those of the files, in one file."""

import numpy as np
import pytest

from maskgit_sr import images
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation.report import compare
from maskgit_sr.images.picture import Picture
from tests.evaluation.reports import Page
from tests.inference.pictures import gradient, noise


@pytest.fixture
def files(tmp_path):
    images.write(Picture(noise(6, 10, 3)), tmp_path / "in.png")
    images.write(Picture(gradient()), tmp_path / "out.png")
    images.write(images.from_array(noise(24, 40, 0)), tmp_path / "sure.png")
    return tmp_path


def test_a_page_has_inputs_without_loss_and_maps(files):
    scene = compare.Scene(
        files / "in.png", {"restored": files / "out.png"}, {"confidence": files / "sure.png"}
    )
    compare.write(files / "page.html", [scene], "<model>")
    page = Page(files / "page.html")
    assert page.all("h1")[0][2].endswith("in.png") and "by &lt;model&gt;" in page.text
    found = page.json("data")
    [image] = found["images"]
    assert (image["height"], image["width"]) == (24, 40)
    assert found["metrics"] == [] and found["systems"] == ["restored"] and found["opened"]
    shown = page.json("views-0")["pictures"]
    assert [(one["label"], one["kind"]) for one in shown] == [
        ("input", "picture"),
        ("restored", "picture"),
        ("confidence", "map"),
    ]
    np.testing.assert_array_equal(page.picture(shown[0]["id"]), noise(6, 10, 3))
    close = page.picture(shown[1]["id"]).astype(int) - gradient()
    assert np.abs(close).mean() < 4 and page.text.count("<h2") == 2  # no table of scores


def test_copies_are_reduced_and_transparency_is_white(files, monkeypatch):
    monkeypatch.setattr(compare, "MAX_SIDE", 20)
    clear = np.dstack([gradient(), np.zeros((24, 40), np.uint8)])
    images.write(images.from_array(clear), files / "clear.png")
    scene = compare.Scene(files / "clear.png", {"restored": files / "out.png"})
    compare.write(files / "page.html", [scene], "m")
    page = Page(files / "page.html")
    first, second = page.json("views-0")["pictures"]
    assert page.picture(first["id"]).min() > 250
    assert page.picture(second["id"]).shape == (12, 20, 3)


def test_a_file_that_cannot_be_read_leaves_no_page(files):
    (files / "bad.png").write_text("no picture")
    scene = compare.Scene(files / "bad.png", {"restored": files / "out.png"})
    with pytest.raises(UserError, match="bad.png: not a picture"):
        compare.write(files / "page.html", [scene], "m")
    assert not (files / "page.html").exists()
