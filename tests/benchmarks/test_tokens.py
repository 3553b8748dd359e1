"""benchmarks.tokens and benchmarks.inpainting on networks that were not trained."""

import numpy as np
import pytest

from benchmarks import inpainting, tokens
from maskgit_sr import bundles, images
from maskgit_sr.methods.maskgit_training import MaskGITLosses
from maskgit_sr.methods.sr_maskgit import Correction, Inpainting
from tests.methods import small


@pytest.fixture
def bundle(tmp_path):
    def write(name):
        method = small.build(name, None, MaskGITLosses())
        path = tmp_path / f"{name}.safetensors"
        metadata = bundles.Metadata(name, method.describe(), 2)
        bundles.write(path, small.random_params(method), metadata)
        return str(path)

    return write


@pytest.fixture
def val(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(2):
        hr = rng.integers(0, 256, (70, 66, 3)).astype(np.uint8)
        images.write(images.from_array(hr), tmp_path / "val" / "hr" / f"{i}.png")
    return str(tmp_path / "val")


def numbers(text):
    """The cells of the tables' rows, by the first."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:2] == "| "]
    return {row[0]: row[1:] for row in rows}


def test_tables(bundle, val, tmp_path, capsys):
    arguments = ["--val", val, "--correction", bundle(Correction.name)]
    panel = tmp_path / "panel.png"
    arguments += ["--inpainting", bundle(Inpainting.name), "--panel", str(panel)]
    assert tokens.main(arguments) == 0
    assert images.read(panel).color.shape == (6 * 32, 6 * 32, 3)
    printed = capsys.readouterr().out
    assert printed.count("8 windows of 32x32") == 2  # four lie side by side in each picture
    found = numbers(printed)
    for name in ("all", "flat", "edges"):
        assert all(0 <= float(cell.split()[0]) <= 100 for cell in found[name])
    assert {f"{share:.0%}" for share in tokens.SHARES} <= found.keys()
    assert all(float(found[name][0]) > 0 for name in ("10%", "100%", "HR", "LR"))
    assert 0 <= float(found["50%"][1]) <= np.log(16)


def test_mistakes_are_one_line(bundle, val, capsys):
    for arguments, message in (
        (["--inpainting", bundle(Correction.name)], "expected sr_maskgit_inpainting, found sr_"),
        (["--correction", f"{val}/none"], "none"),
    ):
        with pytest.raises(SystemExit, match="2"):
            tokens.main(["--val", val, *arguments])
        error = capsys.readouterr().err
        assert error.startswith("benchmarks.tokens: ") and message in error
        assert error.count("\n") == 1


def test_inpainting_is_timed(capsys):
    assert inpainting.main(["--depth", "1", "--dim", "8", "--grid", "16"]) == 0
    found = numbers(capsys.readouterr().out)
    assert found["shift"][1] == "1.0" and float(found["raster"][0]) > 0
