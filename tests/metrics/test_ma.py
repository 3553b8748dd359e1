"""metrics.ma: the features of the authors' MATLAB code, and forests in their layout."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.io import savemat

from maskgit_sr.convert import networks
from maskgit_sr.errors import UserError
from maskgit_sr.metrics import create, ma, ma_features
from maskgit_sr.metrics.pixel import rgb_to_luma, rgb_to_y
from tests.metrics import forests

STORED = np.load(Path(__file__).parent / "ma_reference.npz")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(forests, converted file)."""
    folder = tmp_path_factory.mktemp("ma")
    made = forests.write(folder / "model.mat")
    assert networks.main([str(folder / "model.mat"), str(folder / "ma.safetensors")]) == 0
    return made, folder / "ma.safetensors"


def colored(height, width):
    """[1,H,W,3]: clouds with a little noise."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1, height, width, 3)).cumsum(1).cumsum(2)
    x = 0.5 + 0.2 * (x - x.mean()) / x.std() + rng.normal(0, 0.03, x.shape)
    return x.clip(0, 1).astype(np.float32)


def test_features_are_those_of_the_published_code():
    """Its MATLAB code on two pictures, of odd and of even sides, run in Octave."""
    for name in ("odd", "even"):
        found = ma_features.features(STORED[name].astype(np.float64))
        assert tuple(map(len, found)) == ma_features.COUNTS
        np.testing.assert_allclose(np.concatenate(found), STORED[f"{name}_features"], rtol=1e-7)


def test_the_score_is_a_line_through_the_forests(model):
    made, file = model
    x = colored(90, 97)
    x = np.concatenate([x, np.random.default_rng(6).random(x.shape, np.float32)])
    score = ma.load(file)
    found = []
    for grey in rgb_to_luma(x)[..., 0].astype(np.float64):
        parts = zip(made, ma_features.features(grey), strict=True)
        found.append(forests.LINEAR @ [1, *(forests.predict(*part) for part in parts)])
    assert abs(found[0] - found[1]) > 0.01
    np.testing.assert_allclose(score(x), found, rtol=1e-6)
    np.testing.assert_array_equal(ma.load(file, border=3)(x), score(x[:, 3:-3, 3:-3]))


def test_the_index_is_of_y_without_its_border(assets):
    x = colored(200, 200)
    made = create(["pi", "ma", "niqe_y"], border=4, assets=assets)
    y = ma.load(assets / "ma.safetensors", "y", 4)(x)
    np.testing.assert_allclose(made["pi"](x), (10 - y + made["niqe_y"](x)) / 2, rtol=1e-6)
    assert "border of 4 px cut" in made["pi"].spec.protocol
    assert create(["pi"], assets=assets)["pi"].spec.border == 4
    # Y of an image is luma of one whose channels are Y, rounded: nothing else is different.
    grey = np.repeat(np.round(255 * rgb_to_y(x)) / 255, 3, axis=-1)
    np.testing.assert_allclose(made["ma"](grey), y, rtol=1e-6)


def test_files_that_are_something_else(model, tmp_path, capsys):
    stored = load_file(model[1])
    for change, message in (
        ({"1.left": stored["1.left"] + 1000}, "daughter is not in its tree"),
        ({"0.attribute": stored["1.attribute"] + 30}, "expected attributes 0 to 17"),
        ({"2.value": stored["2.value"][:, 1:]}, r"expected arrays \[trees, nodes\]"),
        ({"linear": np.ones(3)}, "ValueError"),
    ):
        save_file(stored | change, tmp_path / "ma.safetensors")
        with pytest.raises(UserError, match=message) as error:
            ma.load(tmp_path / "ma.safetensors")
        assert "\n" not in str(error.value)
    (tmp_path / "model.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    (tmp_path / "text.mat").write_text("no such thing")
    savemat(tmp_path / "other.mat", {"model": {"rf": 1.0}})
    for name in ("model.mat", "text.mat", "other.mat", "none.mat"):
        with pytest.raises(SystemExit, match="2"):
            networks.main([str(tmp_path / name), str(tmp_path / "x.safetensors")])
        error = capsys.readouterr().err
        assert f"{name}: not the model of Ma's metric" in error and error.count("\n") == 1
        assert not (tmp_path / "x.safetensors").exists()
