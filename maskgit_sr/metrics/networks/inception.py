"""Inception-v3 as FID uses it: the 2015 TensorFlow graph, by the names of its PyTorch port.

Heusel et al. 2017 (arXiv:1706.08500) took the pool_3 features of
`inception-2015-12-05.tgz`; pytorch-fid's `pt_inception-2015-12-05-6726825d.pth` holds the same
weights under torchvision's names. It differs from torchvision's network in its mean pools, which
do not count padding, and in its last block, which pools by maxima.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image, Params
from maskgit_sr.perceptual.published import conv, fold_norm, max_pool, read_torch, single

SIDE = 299
_EPS = 1e-3
_SMALL = ("Mixed_5b", "Mixed_5c", "Mixed_5d")
_MIDDLE = ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")


def read(file: Path) -> Params:
    """Returns the network, batch normalisation folded into the convolutions."""
    tree = read_torch(file)
    classifier = {name: tree.pop(name) for name in ("fc",) if name in tree}
    tree.pop("AuxLogits", None)  # of torchvision's training
    return {name: _fold(block) for name, block in tree.items()} | classifier


def _fold(block: Params) -> Params:
    if "conv" in block:
        return fold_norm(block["conv"], block["bn"], _EPS)
    return {name: _fold(inner) for name, inner in block.items()}


def features(params: Params, x: Image) -> Float[Array, "B 2048"]:
    """Returns pool_3 of images [B,H,W,3] in [0,1], of any size."""
    x = single(x, 1)
    shape = (x.shape[0], SIDE, SIDE, 3)
    # Without antialiasing, as pytorch-fid, whose scores these are to be compared with.
    return trunk(params, 2 * jax.image.resize(x, shape, "linear", antialias=False) - 1)


def logits(params: Params, x: Image) -> Float[Array, "B 1008"]:
    """Returns the classifier's logits, without its bias, of images [B,H,W,3] in [0,1].

    Salimans et al. 2016 (arXiv:1606.03498) left the bias out of the Inception Score.

    Raises:
        ValueError: the file came without the classifier.
    """
    if "fc" not in params:
        raise ValueError("no classifier fc.weight, which the published file has")
    # HIGHEST, as in `trunk`.
    return jnp.matmul(features(params, x), params["fc"]["weight"].T, precision="highest")


def trunk(params: Params, x: Array) -> Array:
    """Returns pool_3 of images [B,H,W,3] in [-1,1] as they are; sides of at least 75 pixels.

    Raises:
        ValueError: an image is too small.
    """
    # Accelerators multiply in less than float32 by default; a score must not depend on the device.
    with jax.default_matmul_precision("highest"):
        x = _relu(params["Conv2d_1a_3x3"], x, stride=2)
        x = _relu(params["Conv2d_2a_3x3"], x)
        x = _relu(params["Conv2d_2b_3x3"], x, (1, 1))
        x = max_pool(x, 3, 2)
        x = _relu(params["Conv2d_3b_1x1"], x)
        x = _relu(params["Conv2d_4a_3x3"], x)
        x = max_pool(x, 3, 2)
        for name in _SMALL:
            x = _small(params[name], x)
        x = _reduce(params["Mixed_6a"], x)
        for name in _MIDDLE:
            x = _middle(params[name], x)
        x = _reduce_more(params["Mixed_7a"], x)
        x = _wide(params["Mixed_7b"], x, _mean_pool)
        x = _wide(params["Mixed_7c"], x, lambda x: max_pool(_border(x), 3, 1))
    return x.mean((1, 2))


def _relu(params: Params, x: Array, padding: tuple[int, int] = (0, 0), stride: int = 1) -> Array:
    return jax.nn.relu(conv(params, x, stride, padding))


def _chain(block: Params, x: Array, name: str, *paddings: tuple[int, int]) -> Array:
    """Applies convolutions name_1, name_2, …, one for each padding (rows, columns)."""
    for i, padding in enumerate(paddings, 1):
        x = _relu(block[f"{name}_{i}"], x, padding)
    return x


def _border(x: Array) -> Array:
    # Minus infinity, which is never the maximum.
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)


def _mean_pool(x: Array) -> Array:
    """Returns 3x3 means of stride 1; beyond the border nothing is counted."""

    def total(x: Array) -> Array:
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1)))


def _join(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)


def _small(block: Params, x: Array) -> Array:
    return _join(
        _relu(block["branch1x1"], x),
        _chain(block, x, "branch5x5", (0, 0), (2, 2)),
        _chain(block, x, "branch3x3dbl", (0, 0), (1, 1), (1, 1)),
        _relu(block["branch_pool"], _mean_pool(x)),
    )


def _reduce(block: Params, x: Array) -> Array:
    double = _chain(block, x, "branch3x3dbl", (0, 0), (1, 1))
    return _join(
        _relu(block["branch3x3"], x, stride=2),
        _relu(block["branch3x3dbl_3"], double, stride=2),
        max_pool(x, 3, 2),
    )


def _middle(block: Params, x: Array) -> Array:
    row, column = (0, 3), (3, 0)
    return _join(
        _relu(block["branch1x1"], x),
        _chain(block, x, "branch7x7", (0, 0), row, column),
        _chain(block, x, "branch7x7dbl", (0, 0), column, row, column, row),
        _relu(block["branch_pool"], _mean_pool(x)),
    )


def _reduce_more(block: Params, x: Array) -> Array:
    three = _chain(block, x, "branch3x3", (0, 0))
    seven = _chain(block, x, "branch7x7x3", (0, 0), (0, 3), (3, 0))
    return _join(
        _relu(block["branch3x3_2"], three, stride=2),
        _relu(block["branch7x7x3_4"], seven, stride=2),
        max_pool(x, 3, 2),
    )


def _wide(block: Params, x: Array, pool: Callable[[Array], Array]) -> Array:
    three = _chain(block, x, "branch3x3", (0, 0))
    double = _chain(block, x, "branch3x3dbl", (0, 0), (1, 1))
    return _join(
        _relu(block["branch1x1"], x),
        _relu(block["branch3x3_2a"], three, (0, 1)),
        _relu(block["branch3x3_2b"], three, (1, 0)),
        _relu(block["branch3x3dbl_3a"], double, (0, 1)),
        _relu(block["branch3x3dbl_3b"], double, (1, 0)),
        _relu(block["branch_pool"], pool(x)),
    )
