"""The ONNX model: whole images of any size, for methods that are a chain of convolutions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from maskgit_sr.errors import UserError
from maskgit_sr.export import onnx_runner
from maskgit_sr.export.program import Program
from maskgit_sr.methods.convolutional import Chain

OPSET, IR = 17, 8
"""Of 2022: every operation is there, and runtimes since onnxruntime 1.12 read them."""
_CARD = """\
# {model}, {method} ×{scale}, as ONNX

`model.onnx` restores whole images ×{scale}: input `image` float32 [batch, height, width, 3] in
[0, 1], RGB; output `restored` float32 [batch, {scale}·height, {scale}·width, 3], not clipped.
Batch, height and width are free. Options of the method, which are fixed in it: {options}.
Licence of the weights: {licence}.

    pip install onnxruntime numpy
    python run.py images.npy restored.npz

| file | content |
|---|---|
| `model.onnx` | the network, operator set {opset}, weights included |
| `run.py` | restores the images of a file; a start for your own code |
| `maskgit_sr.json` | where the artifact comes from and how it was checked |

Memory grows with the image: {bytes} bytes a pixel of the input for each array of features, of which
a runtime holds two or three. Cut large images into windows that overlap by {overlap} pixels.
"""


def chain(program: Program) -> Chain:
    """Returns the network of the program.

    Raises:
        UserError: the method is no chain of convolutions under these options, or not in float32.
    """
    info, upscaler = program.info, program.upscaler
    if info["dtype"] != "float32":
        raise UserError(f"dtype: onnx is written in float32, found {info['dtype']}")
    found = upscaler.method.chain(upscaler.params, upscaler.options(**program.options))
    if found is None:
        given = ", ".join(f"{name}={value}" for name, value in program.options.items())
        name = f"{info['method']} with {given}" if given else info["method"]
        raise UserError(
            f"export: onnx takes methods that are a chain of convolutions, which {name} is not; "
            "use savedmodel or stablehlo"
        )
    return found


def build(network: Chain) -> onnx.ModelProto:
    """Returns the model of `image` [b, h, w, 3] → `restored` [b, scale·h, scale·w, 3]."""
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    x = lr = add("Transpose", ["image"], "lr", perm=[0, 3, 1, 2])
    for index, layer in enumerate(network.layers):
        name, before = f"layer{index}", x
        if layer.edge:
            pads = constant("one_pixel", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
            x = add("Pad", [x, pads], f"{name}/padded", mode="edge")
        kernel = constant(f"{name}/kernel", layer.kernel.transpose(3, 2, 0, 1))  # OIHW
        bias = constant(f"{name}/bias", layer.bias)
        sides = [0 if layer.edge else 1] * 4
        x = add("Conv", [x, kernel, bias], f"{name}/conv", kernel_shape=[3, 3], pads=sides)
        if layer.slope is not None:
            slope = constant(f"{name}/slope", layer.slope[:, None, None])
            x = add("PRelu", [x, slope], f"{name}/prelu")
        if layer.residual:
            x = add("Add", [before, x], f"{name}/sum")
    # depth, column, row: our channels are ordered row, column, colour
    drawn = add("DepthToSpace", [x], "drawn", blocksize=network.scale, mode="DCR")
    scales = constant("scales", np.array([1, 1, network.scale, network.scale], np.float32))
    nearest: Any = dict(coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    add("Resize", [lr, "", scales], "enlarged", mode="nearest", **nearest)
    add("Add", ["enlarged", drawn], "whole")
    add("Transpose", ["whole"], "restored", perm=[0, 2, 3, 1])
    sizes = {"image": "", "restored": f"{network.scale}*"}
    image, restored = (
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, ["batch", f"{by}height", f"{by}width", 3]
        )
        for name, by in sizes.items()
    )
    graph = helper.make_graph(nodes, "restore", [image], [restored], constants)
    return helper.make_model(
        graph, producer_name="maskgit_sr", opset_imports=[helper.make_opsetid("", OPSET)]
    )


def write(program: Program, folder: Path) -> None:
    """Writes the files.

    Raises:
        UserError: as :func:`chain`.
    """
    info, network = program.info, chain(program)
    model = build(network)
    model.ir_version = IR
    for name in ("model", "method", "scale", "licence", "weights_sha256"):
        model.metadata_props.add(key=name, value=str(info[name]))
    onnx.checker.check_model(model, full_check=True)
    info["opset"] = OPSET
    info["signature"] = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    info["versions"]["onnx"] = onnx.__version__
    onnx.save(model, folder / "model.onnx")
    # a copy of our module, which is why that imports nothing of this package
    shutil.copyfile(onnx_runner.__file__, folder / "run.py")
    values = {
        **info,
        "options": ", ".join(f"{name} {value}" for name, value in info["options"].items()),
        "bytes": 4 * max(layer.kernel.shape[3] for layer in network.layers),
        "overlap": 2 * len(network.layers),
    }
    (folder / "README.md").write_text(_CARD.format(**values), encoding="utf-8")
