"""ResNet with bottlenecks (He et al. 2016, arXiv:1512.03385) as torchvision has it: a classifier.

The stride is in a block's 3x3 convolution ("v1.5"). Params carry torchvision's names; sizes come
from the weights, so that a narrow network can be tested.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from safetensors.numpy import load_file

from maskgit_sr.arrays import Image, Params
from maskgit_sr.perceptual.published import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    along_last,
    conv,
    dense,
    fold_norm,
    max_pool,
    single,
    torch_tree,
)

Shapes = dict[str, tuple[int, ...]]

SIDE = 224
RESNET50 = (3, 4, 6, 3)
_EPS = 1e-5
_NORM = ("weight", "bias", "running_mean", "running_var")
_EXPANSION = 4


def shapes(blocks: Sequence[int] = RESNET50, width: int = 64, classes: int = 1000) -> Shapes:
    """Returns names and shapes of a state in torchvision, without counters: ResNet-50's.

    Args:
        blocks: of each of the four stages.
        width: channels of the first convolution.
        classes: number of logits.
    """
    found: Shapes = {}

    def layer(name: str, norm: str, outputs: int, inputs: int, side: int) -> None:
        found[f"{name}.weight"] = (outputs, inputs, side, side)
        found.update({f"{norm}.{leaf}": (outputs,) for leaf in _NORM})

    layer("conv1", "bn1", width, 3, 7)
    inputs = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for i in range(count):
            block, outputs = f"layer{stage + 1}.{i}", _EXPANSION * inner
            layer(f"{block}.conv1", f"{block}.bn1", inner, inputs, 1)
            layer(f"{block}.conv2", f"{block}.bn2", inner, inner, 3)
            layer(f"{block}.conv3", f"{block}.bn3", outputs, inner, 1)
            if i == 0:
                layer(f"{block}.downsample.0", f"{block}.downsample.1", outputs, inputs, 1)
            inputs = outputs
    return found | {"fc.weight": (classes, inputs), "fc.bias": (classes,)}


def check(found: Mapping[str, tuple[int, ...]], expected: Shapes) -> None:
    """Compares names and shapes.

    Raises:
        ValueError: a name is missing or unknown, or has another shape.
    """
    if missing := expected.keys() - found.keys():
        raise ValueError(f"no {min(missing)}")
    if unknown := found.keys() - expected.keys():
        raise ValueError(f"unknown {min(unknown)}")
    for name, shape in expected.items():
        if tuple(found[name]) != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {tuple(found[name])}")


def read(file: Path) -> Params:
    """Returns the network, batch normalisation folded into the convolutions.

    Raises:
        ValueError: names or shapes are not those of such a network, of any size.
    """
    tensors = load_file(file)
    found = {name: value.shape for name, value in tensors.items() if name[-8:] != "_tracked"}
    blocks = [
        sum(name.startswith(f"layer{stage}.") and name.endswith(".conv1.weight") for name in found)
        for stage in range(1, 5)
    ]
    check(found, shapes(blocks, found["conv1.weight"][0], found["fc.weight"][0]))
    tree = torch_tree(tensors)
    params = {"conv1": fold_norm(tree["conv1"], tree["bn1"], _EPS), "fc": tree["fc"]}
    for stage in range(1, 5):
        params[f"layer{stage}"] = {i: _fold(b) for i, b in tree[f"layer{stage}"].items()}
    return params


def _fold(block: Params) -> Params:
    folded = {f"conv{i}": fold_norm(block[f"conv{i}"], block[f"bn{i}"], _EPS) for i in "123"}
    if down := block.get("downsample"):
        folded["downsample"] = fold_norm(down["0"], down["1"], _EPS)
    return folded


def logits(params: Params, x: Image) -> Float[Array, "B N"]:
    """Returns the logits of images [B,H,W,3] in [0,1], which are 224 pixels a side in papers.

    Raises:
        ValueError: not [B,H,W,3], or a side has fewer than 32 pixels.
    """
    x = single(x, 32)
    x = (x - along_last(IMAGENET_MEAN, x)) / along_last(IMAGENET_STD, x)
    # Accelerators multiply in less than float32 by default; a score must not depend on the device.
    with jax.default_matmul_precision("highest"):
        x = jax.nn.relu(conv(params["conv1"], x, 2, 3))
        # Minus infinity, which is never the maximum.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        x = max_pool(x, 3, 2)
        for stage in range(1, 5):
            blocks = params[f"layer{stage}"]
            for i in range(len(blocks)):
                x = _bottleneck(blocks[str(i)], x, 2 if stage > 1 and i == 0 else 1)
        return dense(params["fc"], x.mean((1, 2)))


def _bottleneck(block: Params, x: Array, stride: int) -> Array:
    y = jax.nn.relu(conv(block["conv1"], x))
    y = jax.nn.relu(conv(block["conv2"], y, stride, 1))
    y = conv(block["conv3"], y)
    return jax.nn.relu(y + (conv(block["downsample"], x, stride) if "downsample" in block else x))
