"""Export of a model as an artifact: a TensorFlow SavedModel, StableHLO for JAX, or ONNX.

All run without this package. The first two hold the programs of `export.program` and, stored once
beside them, the parameters; ONNX is built from the method's layers.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.export import check, stablehlo
from maskgit_sr.export.program import Program, lower
from maskgit_sr.inference import load
from maskgit_sr.inference import options as method_options
from maskgit_sr.inference.upscaler import Upscaler

FORMATS = ("savedmodel", "stablehlo", "onnx")
MAX_BATCH = 8
MAX_PIXELS = 16_000_000
INFO = "maskgit_sr.json"
# jax.export serializes by flatbuffers, which JAX does not install
_NEEDS = {
    "savedmodel": ("tensorflow", "flatbuffers"),
    "stablehlo": ("flatbuffers",),
    "onnx": ("onnx", "onnxruntime"),
}
_EXTRAS = {"onnx": "onnx"}  # other than [export]
_PLATFORMS = {"savedmodel": ("cpu", "cuda"), "stablehlo": ("cpu", "cuda", "tpu"), "onnx": ()}


def export(
    model: Upscaler | str | os.PathLike[str],
    format: str,
    output: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    max_batch: int = MAX_BATCH,
    max_pixels: int = MAX_PIXELS,
    webp: bool = True,
    progress: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Writes an artifact, loads it in a fresh process and compares it with the upscaler.

    With options that make the method stochastic, the artifact takes a seed and gives the images
    of the upscaler with that seed; otherwise it takes none.

    Args:
        model: name of a shipped model, path of a bundle, or a loaded model.
        format: ``savedmodel``, ``stablehlo`` or ``onnx``.
        output: folder to make; it may exist and be empty.
        options: the method's own by name, as values or text; None: its defaults.
        dtype: ``float32`` or ``bfloat16``; None: float32, or that of the loaded model.
        max_batch: SavedModel: most windows in one call of the network.
        max_pixels: SavedModel: pixels of the largest image that is accepted.
        webp: SavedModel: `serving_default` decodes WebP too, which needs TensorFlow 2.20 to load.
        progress: called with the stage that begins: lowering, writing, checking.

    Returns:
        The content of the artifact's `maskgit_sr.json`.

    Raises:
        UserError: an option out of range, a folder that is not empty, a missing package, a method
            that the format cannot hold, or an artifact that does not load or gives other images
            than the upscaler. In each case nothing is written.
    """
    if format not in FORMATS:
        raise UserError(f"format: expected one of {', '.join(FORMATS)}, found {format!r}")
    for name, value in (("max_batch", max_batch), ("max_pixels", max_pixels)):
        if value < 1:
            raise UserError(f"{name}: expected at least 1, found {value}")
    target = Path(os.path.abspath(output))
    _check_vacant(target)
    for package in _NEEDS[format]:
        if importlib.util.find_spec(package) is None:
            extra = _EXTRAS.get(format, "export")
            raise UserError(f"export: {format} needs {package}: pip install 'maskgit-sr[{extra}]'")
    if isinstance(model, Upscaler):
        if dtype is not None:
            raise UserError("dtype: a loaded model has its own; give its name or path instead")
        upscaler, name = model, model.metadata.method
    else:
        upscaler = load.load(model, batch=1, device="cpu", dtype=dtype or "float32")
        name = Path(load.resolve(model)).stem
    progress("lowering")
    chosen = method_options.parse(options or {}, upscaler)
    program = lower(upscaler, _PLATFORMS[format], chosen)
    program.info.update(model=name, format=format)
    # Checked under a temporary name: an artifact that fails its check never appears.
    with paths.whole(target) as folder:
        progress("writing")
        folder.mkdir()
        if format == "stablehlo":
            stablehlo.write(program, folder)
        elif format == "onnx":
            # ONNX is not always there.
            from maskgit_sr.export import onnxmodel

            onnxmodel.write(program, folder)
        else:
            # Imports TensorFlow, which takes seconds and is not always there.
            from maskgit_sr.export import savedmodel

            savedmodel.write(program, folder, max_batch=max_batch, max_pixels=max_pixels, webp=webp)
        _describe(program, folder)  # run.py reads it
        progress("checking")
        program.info["checked"] = check.check(program, format, folder)
        _describe(program, folder)
    return program.info


def _describe(program: Program, folder: Path) -> None:
    text = json.dumps(program.info, indent=2, sort_keys=True)
    (folder / INFO).write_text(text + "\n", encoding="utf-8")


def _check_vacant(target: Path) -> None:
    if not os.path.lexists(target):  # a broken link is in the way, too
        return
    if not target.is_dir():
        raise UserError(f"{target}: expected a folder to make, found a file")
    if any(target.iterdir()):
        raise UserError(f"{target}: expected an empty folder or none, found one with files")
