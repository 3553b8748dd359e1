"""Artifacts in processes of their own against the upscaler they were made of.

TensorFlow runs in other processes only: it is slow to import and warns.
"""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image, ImageCms

from maskgit_sr import bundles, images
from maskgit_sr.errors import UserError
from maskgit_sr.export import artifact as exporting
from maskgit_sr.export import check as export_check
from maskgit_sr.inference.upscaler import Upscaler, each

pytest.importorskip("flatbuffers", reason="needs flatbuffers")


@pytest.fixture(scope="module")
def upscaler(method, params):
    metadata = bundles.Metadata("realsrt", method.describe(), 4, licence="Apache-2.0")
    return Upscaler(method, params, metadata, batch=1, device=jax.devices("cpu")[0])


def picture(height, width, channels=3):
    samples = export_check.picture(height, width)
    alpha = (np.arange(height)[:, None] * 7 + np.arange(width) * 3) % 256
    samples = np.concatenate([samples, alpha[..., None].astype(np.uint8)], -1)
    return samples[..., {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]]


def encoded(kind, height, width, channels=3, mode=None, **options):
    image = Image.fromarray(picture(height, width, channels).squeeze())
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return {"exif": exif}


def png_of_size(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GOOD = {
    "rgb.png": encoded("PNG", 7, 19),
    "rgb.jpg": encoded("JPEG", 33, 57, quality=90),
    "progressive.jpg": encoded("JPEG", 20, 11, progressive=True, **turned(3)),
    "one.png": encoded("PNG", 1, 1),
    "grey.jpg": encoded("JPEG", 18, 12, 1),
    "grey.png": encoded("PNG", 5, 8, 1),
    "bits.png": encoded("PNG", 9, 10, mode="1"),
    "grey_alpha.png": encoded("PNG", 9, 17, 2),
    "rgba.png": encoded("PNG", 17, 9, 4),
    "palette.png": encoded("PNG", 10, 11, mode="P"),
    "key.png": encoded("PNG", 10, 11, mode="P", transparency=3),
    "deep.png": images.to_bytes(
        images.from_array(picture(9, 12).astype(np.uint16) * 257 + 3), "PNG"
    )[0],
    "turned.png": encoded("PNG", 6, 18, **turned(5)),
    "lossy.webp": encoded("WEBP", 21, 10, quality=80),
    "lossless.webp": encoded("WEBP", 10, 21, 4, lossless=True, exact=True),
    "profile.jpg": encoded("JPEG", 11, 10, icc_profile=PROFILE),
    "profile.png": encoded("PNG", 11, 10, icc_profile=PROFILE),
    "profile.webp": encoded("WEBP", 11, 10, icc_profile=PROFILE),
    "turned.webp": encoded("WEBP", 10, 14, **turned(8)),
} | {f"turned{k}.jpg": encoded("JPEG", 10, 14, **turned(k)) for k in (2, 4, 5, 6, 7, 8)}
BAD = {
    "nothing": (b"", "expected an image, found no bytes"),
    "text": (b"<html>", "not an image that can be decoded (JPEG, PNG or WebP)"),
    "picture.gif": (encoded("GIF", 5, 5), "not an image that can be decoded"),
    "cut.jpg": (encoded("JPEG", 30, 30)[:-300], "damaged or truncated JPEG"),
    "cut.png": (encoded("PNG", 30, 30)[:-300], "damaged or truncated PNG"),
    "cut.webp": (encoded("WEBP", 30, 30)[:-100], "damaged or truncated WebP"),
    "header.jpg": (b"\xff\xd8\xff\xe0", "damaged or truncated JPEG"),
    "huge.png": (png_of_size(60000, 50000), "60000x50000 is more than the limit of 20,000"),
    "flat.png": (png_of_size(0, 7), "damaged or truncated PNG"),
    "cmyk.jpg": (encoded("JPEG", 8, 8, mode="CMYK"), "a CMYK JPEG cannot be decoded"),
    "moving.webp": (
        encoded("WEBP", 8, 8, save_all=True, append_images=[Image.new("RGB", (8, 8))]),
        "an animation cannot be decoded",
    ),
}
SIZES = ((1, 1), (1, 40), (33, 57), (70, 41))
TILES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
SHAPES = {"image": (0, 64, 64, 3), "confidence": (0, 8, 8), "tokens": (0, 8, 8)}


class Saved(NamedTuple):
    """A SavedModel of the command, and what a process with TensorFlow alone made by it."""

    folder: Path
    printed: str
    arrays: dict[str, np.ndarray]
    told: dict[str, Any]


@pytest.fixture(scope="module")
def saved(upscaler, ask, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    bundles.write(folder / "tiny.safetensors", upscaler.params, upscaler.metadata)
    files, answers = folder / "files", folder / "answers"
    files.mkdir()
    answers.mkdir()
    for name, data in (GOOD | {name: data for name, (data, _) in BAD.items()}).items():
        (files / name).write_bytes(data)
    arrays = {f"{height}x{width}": picture(height, width) for height, width in SIZES}
    np.savez(folder / "arrays.npz", tiles=TILES, **arrays)
    # The process that checks the export goes on with our questions. One small picture is enough
    # for the check here: what follows looks at many.
    arguments = "export --model tiny.safetensors --output model --steps 1 --max-batch 2"
    code = "check.SIZES = ((1, 1),); cli.main()"
    printed = ask(folder, code, *arguments.split(), "--max-pixels", "20000")
    told = json.loads((answers / "answers.json").read_text())
    with np.load(answers / "answers.npz") as file:
        return Saved(folder, printed, dict(file), told)


def test_the_command_tells_what_it_checked(saved, upscaler):
    info = json.loads((saved.folder / "model/maskgit_sr.json").read_text())
    assert info["checked"].keys() == {"1x1"}
    assert all(found["tokens"] == 1 for found in info["checked"].values())
    assert "1x1: 100.000% of samples within 1/255" in saved.printed
    assert info["model"] == "tiny" and info["max_pixels"] == 20_000
    assert info["options"]["steps"] == 1 and not info["stochastic"]
    assert info["signatures"]["image"]["inputs"] == {"image": "uint8 [None, None, 3]"}
    assert info["signatures"].keys() == {"serving_default", "image", "tiles", "tiles_uint8"}
    assert not any("seed" in call["inputs"] for call in info["signatures"].values())
    assert not [path for path in saved.folder.iterdir() if path.name.startswith(".")]
    stored = sum(leaf.size * 4 for leaf in jax.tree.leaves(upscaler.params))  # once
    program, variables = saved.folder / "model/saved_model.pb", saved.folder / "model/variables"
    assert program.stat().st_size < 4e6
    data = variables / "variables.data-00000-of-00001"
    assert data.stat().st_size < stored * 1.1 + 1e5


def test_tiles(saved, upscaler):
    seeds = np.zeros(1, np.uint32)
    options, place = upscaler.options(steps=1), np.zeros((1, 3), np.int32)
    for number, tile in enumerate(TILES):
        [parts] = each(upscaler.run(tile[None] / np.float32(255), place, seeds, options))
        image, confidence, tokens = map(np.asarray, parts)
        for name in ("tiles", "tiles_uint8"):
            found = {k: saved.arrays[f"{name}/{k}"][number] for k in SHAPES}
            np.testing.assert_allclose(found["image"], image.clip(0, 1), atol=1e-4)
            np.testing.assert_allclose(found["confidence"], confidence, atol=1e-4)
            np.testing.assert_array_equal(found["tokens"], tokens)
    # and no tiles give no images
    assert {name: saved.arrays[f"none/{name}"].shape for name in SHAPES} == SHAPES
    assert saved.told["empty"] == [0, 0]


@pytest.mark.parametrize("size", SIZES)
def test_image(saved, upscaler, size):
    wanted = upscaler(picture(*size), steps=1)
    found = {key: saved.arrays["{}x{}/{}".format(*size, key)] for key in SHAPES}
    assert export_check.within_one(found["image"], wanted.image) >= 0.999
    np.testing.assert_array_equal(found["tokens"], wanted.tokens)
    np.testing.assert_allclose(found["confidence"], wanted.confidence, atol=1e-4)


@pytest.mark.parametrize("name", GOOD)
def test_encoded_images(saved, upscaler, name):
    """As the upscaler's, but without a colour profile."""
    assert saved.told["errors"][name] == ""
    wanted = upscaler.restore(images.read(saved.folder / "files" / name), steps=1).picture
    found = images.read(saved.folder / "answers" / f"{name}.png")
    assert found.color.dtype == wanted.color.dtype and found.color.shape == wanted.color.shape
    assert found.grey == wanted.grey and found.metadata.icc is None
    level = 257 if wanted.color.dtype == np.uint16 else 1
    difference = np.abs(found.color.astype(int) - wanted.color.astype(int))
    assert (difference <= level).mean() >= 0.999
    assert (found.alpha is None) == (wanted.alpha is None)
    if wanted.alpha is not None:
        assert np.abs(found.alpha.astype(int) - wanted.alpha.astype(int)).max() <= level


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_told_and_fail_nobody_else(saved, name):
    assert saved.told["errors"][name].startswith(BAD[name][1])
    assert (saved.folder / "answers" / f"{name}.png").read_bytes() == b""


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no pixel", "image: expected at least one pixel"),
        ("too many pixels", "image: expected at most 20,000 pixels"),
        ("dtype", "uint8"),
        ("rank", ""),
    ],
)
def test_arrays_that_are_no_images_are_refused(saved, case, message):
    assert saved.told[case] and message in saved.told[case]


def test_stablehlo(upscaler, tmp_path, monkeypatch):
    monkeypatch.setattr(export_check, "SIZES", ((1, 1), (33, 57)))
    folder = tmp_path / "model"
    info = exporting.export(upscaler, "stablehlo", folder, options={"steps": 1})
    names = {"README.md", "maskgit_sr.json", "params.npz", "run.py", "tiles_16.jax_export"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "maskgit_sr.json").read_text()) == info
    assert info["platforms"] == ["cpu", "cuda", "tpu"]
    assert info["options"]["steps"] == 1 and info["outputs"] == ["confidence", "image", "tokens"]
    assert info["checked"].keys() == {"1x1", "33x57"}
    for found in info["checked"].values():
        assert found["within_1"] >= 0.999 and found["tokens"] == 1


def test_an_artifact_that_differs_is_not_kept(upscaler, tmp_path, monkeypatch):
    def black(without, script, given, made, *batch):
        found = {}
        for name, tiles in np.load(given).items():
            grid = np.zeros((len(tiles), 8, 8), np.int32)
            found |= {f"{name}/tokens": grid, f"{name}/confidence": grid + 0.5}
            found[f"{name}/image"] = np.zeros((len(tiles), 64, 64, 3))
        np.savez(made, **found)

    monkeypatch.setattr(export_check, "run", black)
    with pytest.raises(UserError, match="gives another image of 1x1 pixels than the upscaler"):
        exporting.export(upscaler, "stablehlo", tmp_path / "model", options={"steps": 1})
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_does_not_load_is_not_kept(upscaler, tmp_path, monkeypatch):
    runner = tmp_path / "runner.py"
    runner.write_text("raise SystemExit('no such program')")
    from maskgit_sr.export import runner as export_runner

    monkeypatch.setattr(export_runner, "__file__", str(runner))
    with pytest.raises(UserError, match="does not run in another process: no such program"):
        exporting.export(upscaler, "stablehlo", tmp_path / "model", options={"steps": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["runner.py"]


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_a_missing_extra_is_named(upscaler, tmp_path, monkeypatch, format):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'maskgit-sr\[(export|onnx)\]'"):
        exporting.export(upscaler, format, tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "tflite"}, "format: expected one of savedmodel, stablehlo, onnx"),
        ({"max_batch": 0}, "max_batch: expected at least 1"),
        ({"max_pixels": 0}, "max_pixels: expected at least 1"),
        ({"dtype": "bfloat16"}, "dtype: a loaded model has its own"),
        ({"options": {"steps": 0}}, "steps"),
        ({"options": {"alpha": 1}}, "alpha: realsrt has no such option; expected one of .*steps"),
    ],
)
def test_options_out_of_range_are_named(upscaler, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        exporting.export(upscaler, **{"format": "stablehlo", "output": tmp_path / "m", **changes})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_left_alone(upscaler, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="expected an empty folder or none"):
        exporting.export(upscaler, "stablehlo", tmp_path)
    with pytest.raises(UserError, match="expected a folder to make, found a file"):
        exporting.export(upscaler, "stablehlo", tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_output_that_is_not_finite_ends_the_call(ask, tmp_path):
    code = """
import tensorflow as tf
from maskgit_sr.export import graph
quantize = tf.function(lambda x: graph.quantize(x, tf.uint8))
for value in (0.5, -3.0, float("nan"), float("inf")):
    try:
        print(int(quantize(tf.constant([[value]]))[0, 0]))
    except tf.errors.InvalidArgumentError as error:
        print("not finite" in str(error))
"""
    assert ask(tmp_path, code).split() == ["128", "0", "True", "True"]
