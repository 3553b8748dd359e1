"""Artifacts of a ×2 method of two sides, without tokens or confidence, that can draw at random."""

import json
import subprocess
import sys

import numpy as np
import pytest

from maskgit_sr.export import artifact as exporting
from maskgit_sr.export import check as export_check
from maskgit_sr.inference import load
from maskgit_sr.inference.mosaic import Mosaic

SEEDS = (7, 8, 7)
NOISE = {"noise": 0.1}
EXPORTS = """
import sys
check.SIZES = ((5, 9), (64, 124))
model = inference.load.load(sys.argv[1], batch=1, device="cpu")
artifact.export(model, "savedmodel", "drawn", max_batch=2, options={"noise": 0.1})
"""
pytest.importorskip("flatbuffers", reason="needs flatbuffers")


@pytest.fixture(scope="module")
def upscaler(subpixel):
    return load.load(subpixel, batch=1, device="cpu")


@pytest.fixture(scope="module")
def saved(subpixel, upscaler, ask, tmp_path_factory):
    """The folder of a stochastic SavedModel, an image, and what is drawn of it."""
    folder = tmp_path_factory.mktemp("saved")
    image = export_check.picture(64, 124)
    tiles = Mosaic(image, upscaler.method.tile, 2, confidence=False).cut([0, 1])
    np.savez(folder / "arrays.npz", image=image, tiles=tiles, seeds=SEEDS)
    ask(folder, EXPORTS, str(subpixel))
    with np.load(folder / "drawn.npz") as file:
        return folder, image, dict(file)


def described(folder):
    return json.loads((folder / "maskgit_sr.json").read_text())


def test_signatures_have_what_the_method_has(saved):
    info = described(saved[0] / "drawn")
    assert info["outputs"] == ["image"] and info["scale"] == 2
    assert info["tile"]["sides"] == [16, 64]
    assert info["checked"] == {"5x9": {"within_1": 1.0}, "64x124": {"within_1": 1.0}}
    assert info["options"]["noise"] == 0.1 and info["stochastic"]
    signatures = info["signatures"]
    for name in ("tiles", "tiles_uint8"):
        assert signatures[name]["outputs"] == {"image": "float32 [None, 128, 128, 3]"}
    assert signatures["image"]["outputs"] == {"image": "uint8 [None, None, 3]"}
    seeds = {name: call["inputs"]["seed"] for name, call in signatures.items()}
    assert seeds.pop("serving_default") == "uint32 [None]"
    assert set(seeds.values()) == {"uint32 []"} and len(seeds) == 3


def test_a_seed_gives_the_image_of_the_upscaler(saved, upscaler):
    _, image, drawn = saved
    np.testing.assert_array_equal(drawn["encoded"], drawn["image"])
    np.testing.assert_array_equal(drawn["image"][0], drawn["image"][2])
    assert (drawn["image"][0] != drawn["image"][1]).mean() > 0.9
    for seed, found in zip(SEEDS, drawn["image"], strict=True):
        wanted = upscaler(image, seed=seed, **NOISE).image
        assert export_check.within_one(found, wanted) >= 0.999


def test_tiles_draw_as_windows_of_one_image(saved, upscaler):
    _, image, drawn = saved
    mosaic = Mosaic(image, upscaler.method.tile, 2, confidence=False)
    assert mosaic.count == len(drawn["tiles"]) == 2
    for tile in drawn["tiles"]:
        mosaic.add(tile)
    wanted = upscaler(image, seed=SEEDS[0], **NOISE).image
    inside = (wanted > 0) & (wanted < 255)  # the signature clips each tile, before they are blended
    assert export_check.within_one(mosaic.color[inside], wanted[inside]) >= 0.98


@pytest.fixture(scope="module")
def stablehlo(upscaler, tmp_path_factory):
    """Folders of a plain and of a stochastic artifact, and what their exports returned."""
    folders = [tmp_path_factory.mktemp("stablehlo") / "model" for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_check, "SIZES", ((5, 9), (64, 124)))
        text = {name: str(value) for name, value in NOISE.items()}  # as a command has it
        return {
            folder: exporting.export(upscaler, "stablehlo", folder, options=options)
            for folder, options in zip(folders, ({}, text), strict=True)
        }


def test_stablehlo(stablehlo):
    for drawn, (folder, info) in enumerate(stablehlo.items()):
        names = {path.name for path in folder.iterdir() if path.suffix == ".jax_export"}
        assert names == {"tiles_16.jax_export", "tiles_64.jax_export"}
        assert info == described(folder) and info["outputs"] == ["image"]
        assert info["stochastic"] is bool(drawn)
        assert info["checked"] == {"5x9": {"within_1": 1.0}, "64x124": {"within_1": 1.0}}
        card = (folder / "README.md").read_text()
        assert "16×16 or 64×64" in card and "tokens" not in card and ("seed" in card) == drawn


def test_run_py_restores_a_file_with_a_seed(stablehlo, upscaler, tmp_path):
    script = list(stablehlo)[-1] / "run.py"
    tiles = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "several.npz", a=tiles, b=tiles)
    np.save(tmp_path / "one.npy", tiles)

    def restore(source, seed):
        command = [sys.executable, script, source, "made.npz", "2", str(seed)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "made.npz") as file:
            return dict(file)

    several, one = restore("several.npz", 7), restore("one.npy", 8)
    assert several.keys() == {"a/image", "b/image"} and one.keys() == {"image"}
    np.testing.assert_array_equal(several["a/image"], several["b/image"])
    assert not np.array_equal(several["a/image"], one["image"])
    seeds, options = np.array([7], np.uint32), upscaler.options(**NOISE)
    for index, tile in enumerate(tiles):
        place = np.array([[index, 0, 0]], np.int32)
        restored = upscaler.run(tile[None] / np.float32(255), place, seeds, options)
        np.testing.assert_allclose(several["a/image"][index], restored.image[0], atol=1e-4)
