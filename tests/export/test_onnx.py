"""ONNX models of chains of convolutions, in onnxruntime, against the methods they were made of."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.export import artifact as exporting
from maskgit_sr.export import check as export_check
from maskgit_sr.inference import load
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.structure import Structure, StructureMethodConfig
from maskgit_sr.models.structure import StructureConfig
from tests.cli.commands import refuses, run
from tests.methods.small import random_params

onnx = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


@pytest.fixture(scope="module")
def structure(tmp_path_factory):
    """A bundle of the default model's method at x3, every array of it random."""
    shape = StructureConfig(scale=3, width=6, depth=2)
    method = Structure(StructureMethodConfig(TileSpec((16, 24), 4, 0.0), shape))
    path = tmp_path_factory.mktemp("structure") / "plain.safetensors"
    metadata = bundles.Metadata(method.name, method.describe(), 3, licence="MIT")
    bundles.write(path, jax.device_get(random_params(method)), metadata)
    return path


def session(folder):
    """The runner that the artifact brings along, and its session."""
    spec = importlib.util.spec_from_file_location("run_of_artifact", folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.load(folder, threads=1)


def test_the_command_writes_a_model_of_free_sizes(structure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export_check, "SIZES", ((1, 1), (20, 31)))
    monkeypatch.setattr(export_check, "WHOLES", ((1, 1, 1), (3, 7, 40)))
    options = "--option strength=0.25 -o model"
    told = run("export", "--format", "onnx", "-m", structure, *options.split()).stdout
    assert "20x31: 100.000% of samples within 1/255" in told and "3x7x40: " in told
    folder = tmp_path / "model"
    names = {"README.md", "maskgit_sr.json", "model.onnx", "run.py"}
    assert {path.name for path in folder.iterdir()} == names
    info = json.loads((folder / "maskgit_sr.json").read_text())
    assert info["checked"].keys() == {"1x1x1", "3x7x40", "1x1", "20x31"}
    assert info["checked"]["3x7x40"]["largest"] < 1e-5
    assert info["options"]["strength"] == 0.25 and info["licence"] == "MIT"
    assert info["signature"] == {
        "image": ["batch", "height", "width", 3],
        "restored": ["batch", "3*height", "3*width", 3],
    }

    (module, model), upscaler = session(folder), load.load(structure, batch=1, device="cpu")
    x = np.random.default_rng(1).integers(0, 256, (2, 5, 11, 3), np.uint8)
    found, keys = module.restore(model, x), jax.random.split(jax.random.key(0), 2)
    for strength, least, most in ((0.25, 0, 1e-5), (1.0, 1e-3, np.inf)):  # fixed in the model
        options = upscaler.options(strength=strength)
        wanted = upscaler.method.restore(upscaler.params, x / np.float32(255), keys, options)
        assert least <= np.abs(found - wanted.image).max() <= most
    np.testing.assert_allclose(module.restore(model, x[1] / np.float32(255)), found[1], atol=1e-6)


def test_a_filter_with_edge_padding(subpixel, tmp_path, monkeypatch):
    monkeypatch.setattr(export_check, "SIZES", ((5, 9),))
    monkeypatch.setattr(export_check, "WHOLES", ((1, 1, 1), (3, 7, 40)))
    options = {"strength": 0.5}
    info = exporting.export(subpixel, "onnx", tmp_path / "model", options=options)
    assert max(info["checked"][name]["largest"] for name in ("1x1x1", "3x7x40")) < 1e-6
    graph = onnx.load(tmp_path / "model/model.onnx").graph
    assert [node.op_type for node in graph.node].count("Conv") == 1


@pytest.mark.parametrize("options", ["noise=0.1", "color_fix=wavelet"])
def test_options_that_are_no_convolution_are_refused(subpixel, tmp_path, options):
    target = tmp_path / "model"
    message = f"which subpixel with {options} is not; use savedmodel or stablehlo"
    refuses(
        message, *("export --format onnx -m".split()), subpixel, "--option", options, "-o", target
    )
    assert not target.exists()


def test_methods_that_are_no_chain_are_refused(bundle, structure, tmp_path):
    with pytest.raises(UserError, match="chain of convolutions, which realsrt is not"):
        exporting.export(bundle, "onnx", tmp_path / "model")
    with pytest.raises(UserError, match="dtype: onnx is written in float32, found bfloat16"):
        exporting.export(structure, "onnx", tmp_path / "model", dtype="bfloat16")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_differs_is_not_kept(structure, tmp_path, monkeypatch):
    upscaler = load.load(structure, batch=1, device="cpu")
    other = Upscaler(
        upscaler.method,
        jax.tree.map(lambda leaf: leaf * 1.01, upscaler.params),
        upscaler.metadata,
        batch=1,
        device=upscaler.device,
    )
    chain = other.method.chain(other.params, other.options())
    monkeypatch.setattr(upscaler.method, "chain", lambda params, options: chain)
    with pytest.raises(UserError, match="another image of 1x1x1 than the method: they are up to"):
        exporting.export(upscaler, "onnx", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
