"""Converts the metrics' published networks to the safetensors that `assets` names.

    python -m maskgit_sr.convert.networks vgg16-397923af.pth vgg16.safetensors
    python -m maskgit_sr.convert.networks alexnet-owt-7be5be79.pth alex.pth lpips_alex.safetensors
    python -m maskgit_sr.convert.networks model.mat ma.safetensors

Several sources become one file. Names are kept except those of LPIPS' linear layers
(`lin0.model.1.weight` → `lin0.weight`); numbers become float32. Anything but floating-point arrays
is left out, and of LPIPS and VGG16 the layers after the features. A MATLAB file gives the forests
of Ma's metric. Nothing in the sources is executed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from maskgit_sr import paths
from maskgit_sr.convert import read_torch
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.perceptual import resnet

_EXPECTED = {"resnet50.safetensors": resnet.shapes}
# What the metrics read of classifiers; their last layers are nine tenths of them.
_KEPT = {"lpips_": ("features.", "lin"), "vgg16.": ("features.",)}

# Ours, and MATLAB's, which counts nodes and attributes from 1 and has 0 for none.
_FOREST = {"left": "lDau", "right": "rDau", "attribute": "mbest"}
_NUMBERS = {"threshold": "upper", "value": "avnode"}


def read_forests(source: Path) -> dict[str, np.ndarray]:
    """Reads the three forests and the linear function of Ma's `model.mat`.

    Forests are of randomforest-matlab, whose arrays are [nodes, trees]; ours are [trees, nodes],
    indices int32 from 0 and −1 for none, numbers float64: a forest's thresholds are sharp.

    Raises:
        UserError: the file is something else.
    """
    try:
        model = loadmat(source)["model"][0, 0]
        arrays: dict[str, np.ndarray] = {}
        arrays["linear"] = np.asarray(model["linear"], np.float64).reshape(4)
        for i, cell in enumerate(model["rf"].reshape(3)):
            forest = cell[0, 0]
            for ours, theirs in _FOREST.items():
                # Leaves ask for no attribute; the first serves, since their answer is not used.
                index = np.asarray(forest[theirs], np.int32).T - 1
                arrays[f"{i}.{ours}"] = np.maximum(index, 0) if ours == "attribute" else index
            for ours, theirs in _NUMBERS.items():
                arrays[f"{i}.{ours}"] = np.asarray(forest[theirs], np.float64).T
        return arrays
    except (OSError, KeyError, IndexError, TypeError, ValueError, MatReadError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{source}: not the model of Ma's metric ({reason})") from None


def read_state(source: Path) -> dict[str, np.ndarray]:
    """Reads the floating-point arrays of a PyTorch state or TorchScript archive, as float32.

    A MATLAB file is read by :func:`read_forests`.

    Raises:
        UserError: as :func:`read_torch` and :func:`read_forests`.
    """
    if source.suffix == ".mat":
        return read_forests(source)
    return {
        re.sub(r"^(lin\d+)\.model\.\d+\.", r"\1.", str(name)): tensor.detach().float().numpy()
        for name, tensor in read_torch(source).items()
        if hasattr(tensor, "is_floating_point") and tensor.is_floating_point()
    }


def convert(sources: Sequence[Path], target: Path) -> int:
    """Writes the arrays of all sources to one safetensors file, whole or not at all.

    Returns:
        The number of arrays.

    Raises:
        UserError: as :func:`read_state`; a name is in two sources; the sources hold no arrays; or
            the target exists or cannot be written. A target that is called as ResNet-50's file
            takes the state of that network alone, name by name and shape by shape.
    """
    if target.exists():
        raise UserError(f"{target}: exists already")
    arrays: dict[str, np.ndarray] = {}
    kept = next((names for name, names in _KEPT.items() if target.name.startswith(name)), ("",))
    for source in sources:
        state = {name: value for name, value in read_state(source).items() if name.startswith(kept)}
        if twice := sorted(state.keys() & arrays.keys()):
            raise UserError(f"{source}: {twice[0]} is in another source, too")
        arrays |= {name: np.ascontiguousarray(array) for name, array in state.items()}
    if expected := _EXPECTED.get(target.name):
        try:
            resnet.check({name: array.shape for name, array in arrays.items()}, expected())
        except ValueError as error:
            names = ", ".join(map(str, sources))
            raise UserError(f"{names}: not the network of {target.name}: {error}") from None
    if not arrays:
        raise UserError(f"{', '.join(map(str, sources))}: no arrays found")
    # Without metadata: the same sources give the bytes that `assets` has the digest of.
    paths.write(target, save(arrays))
    return len(arrays)


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns the exit code; a user's mistake ends it with 2."""
    if len(arguments) < 2:
        print("python -m maskgit_sr.convert.networks SOURCE … TARGET.safetensors", file=sys.stderr)
        return 2
    *sources, target = map(Path, arguments)
    with one_line("maskgit_sr.convert.networks"):
        count = convert(sources, target)
    print(f"{target}: {count} arrays")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
