"""VGG16 (Simonyan & Zisserman 2015) as torchvision has it, and DISTS on top of it.

Params are those of `read`: {"0": {"kernel", "bias"}, "2": …}, by index in torchvision's
`features`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image, Params
from maskgit_sr.perceptual.published import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MatmulPrecision,
    along_last,
    conv,
    max_pool,
    pair,
    read_torch,
)

_BLOCKS = (("0", "2"), ("5", "7"), ("10", "12", "14"), ("17", "19", "21"), ("24", "26", "28"))
_STABLE = 1e-6  # DISTS' c1 and c2


def read(file: Path) -> Params:
    """Returns VGG16's convolutions, without the classifier."""
    return read_torch(file)["features"]


halve_max = partial(max_pool, window=2, stride=2)
"""Pools as VGG does, by 2x2 maxima; a remainder is dropped."""


def halve_l2(x: Array) -> Array:
    """Pools as DISTS does: root of Hann-weighted 3x3 means of squares, stride 2, zero padding 1."""
    x = x * x
    for axis in (1, 2):
        size = -(-x.shape[axis] // 2)
        pads = [(0, 0)] * 4
        pads[axis] = (1, 1)
        x = jnp.pad(x, pads)
        stop = 2 * size - 1
        left, middle, right = (jax.lax.slice_in_dim(x, i, i + stop, 2, axis) for i in range(3))
        x = (left + 2 * middle + right) / 4  # a Hann window of 5 without its zeros
    return jnp.sqrt(x + 1e-12)  # the slope of a root is infinite at 0


def features(
    params: Params,
    x: Image,
    *,
    pool: Callable[[Array], Array] = halve_max,
    precision: MatmulPrecision = "default",
) -> list[Array]:
    """Returns relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 of normalised images [B,H,W,3]."""
    found: list[Array] = []
    for block in _BLOCKS:
        if found:
            x = pool(x)
        for index in block:
            x = jax.nn.relu(conv(params[index], x, 1, 1, precision))
        found.append(x)
    return found


def read_dists(vgg: Path, weights: Path) -> Params:
    """Returns {"vgg", "alpha", "beta"}; alpha and beta [1475] sum to 1 together."""
    tensors = read_torch(weights)
    total = tensors["alpha"].sum() + tensors["beta"].sum()
    alpha, beta = (tensors[name].reshape(-1) / total for name in ("alpha", "beta"))
    return {"vgg": read(vgg), "alpha": alpha, "beta": beta}


def dists_distance(params: Params, x: Image, y: Image) -> Float[Array, "B"]:
    """Returns DISTS of x and y, [B,H,W,3] in [0,1] -> [B], 0 (same) to 1.

    Ding et al. 2020 (arXiv:2004.07728), equations 5 to 7: similarity of the means (texture) and
    of the covariances (structure) of every channel of the image and of five VGG16 layers with
    L2 pooling, weighted by alpha and beta.

    Raises:
        ValueError: shapes differ or are not [B,H,W,3], or a side has fewer than 16 pixels.
    """
    x, y = pair(x, y)
    if min(x.shape[1:3]) < 16:
        raise ValueError(f"image too small: {x.shape[1:3]}, DISTS takes at least 16 pixels a side")
    mean, deviation = along_last(IMAGENET_MEAN, x), along_last(IMAGENET_STD, x)

    def stack(z: Image) -> list[Array]:
        # A score: reduced precision would move it away from published figures.
        deep = features(params["vgg"], (z - mean) / deviation, pool=halve_l2, precision="highest")
        return [z, *deep]

    similarity = jnp.zeros(x.shape[:1])
    start = 0
    for a, b in zip(stack(x), stack(y), strict=True):
        width = a.shape[-1]
        alpha, beta = (params[name][None, start : start + width] for name in ("alpha", "beta"))
        start += width
        ma, mb = a.mean((1, 2)), b.mean((1, 2))
        a, b = a - ma[:, None, None], b - mb[:, None, None]
        va, vb, cov = (a * a).mean((1, 2)), (b * b).mean((1, 2)), (a * b).mean((1, 2))
        texture = (2 * ma * mb + _STABLE) / (ma * ma + mb * mb + _STABLE)
        structure = (2 * cov + _STABLE) / (va + vb + _STABLE)
        similarity += jnp.sum(alpha * texture + beta * structure, axis=-1)
    if start != params["alpha"].shape[0]:
        raise ValueError(f"DISTS' alpha has {params['alpha'].shape[0]} channels, VGG16 {start}")
    return 1 - similarity
