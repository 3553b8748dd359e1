"""Frozen networks that compare two images: LPIPS (AlexNet, SqueezeNet 1.1, VGG16), VGG19 features.

Pure functions of (params, images). Params are plain dicts of float32 arrays that are passed as
arguments, so a jitted caller does not embed them. Images are RGB [B,H,W,3] in [0,1], kernels HWIO.

LPIPS: Zhang et al. 2018 (arXiv:1801.03924), equation 1, version 0.1 weights.
VGG19: Simonyan & Zisserman 2015; before activation as in ESRGAN (arXiv:1809.00219, section 3.2),
layers and weights as in Real-ESRGAN (arXiv:2107.10833, section 4.1).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from maskgit_sr import assets
from maskgit_sr.arrays import Image, Params
from maskgit_sr.errors import UserError
from maskgit_sr.perceptual import vgg16
from maskgit_sr.perceptual.published import (
    MatmulPrecision,
    along_last,
    conv,
    load,
    max_pool,
    nested,
    pair,
    read_torch,
)

Distance = Float[Array, "B"]

LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
VGG_MEAN_BGR = (103.939, 116.779, 123.68)
VGG_UNIT = 255 * 0.225  # one ImageNet pixel standard deviation, in grey levels
_TENTH, _WHOLE = ("conv1_2", "conv2_2"), ("conv3_4", "conv4_4", "conv5_4")
VGG_LAYERS: Mapping[str, float] = dict.fromkeys(_TENTH, 0.1) | dict.fromkeys(_WHOLE, 1.0)

# (index in torchvision's `features`, stride, padding); a pool comes before the 2nd and the 3rd.
_ALEX_CONVS = (("0", 4, 2), ("3", 1, 2), ("6", 1, 1), ("8", 1, 1), ("10", 1, 1))
# SqueezeNet 1.1's fire modules between its pools, and those of them whose output LPIPS compares.
_SQUEEZE_GROUPS = ((3, 4), (6, 7), (9, 10, 11, 12))
_SQUEEZE_TAPS = (4, 7, 9, 10, 11, 12)
_VGG_BLOCKS = (2, 2, 4, 4, 4)
# Under the square root of a feature norm, whose slope at 0 is infinite. LPIPS adds 1e-10 to the
# norm itself; the two differ only where a whole feature vector is shorter than about 1e-3.
_NORM_EPS = 1e-10


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["name", "apply"])
@dataclass(frozen=True, eq=False)
class Perceptual:
    """A distance between images: `apply(params, x, y)`.

    A pytree whose leaves are the params: hand it (or its params) to a jitted function as an
    argument; closed over, its arrays would be embedded in the program.

    Attributes:
        name: "lpips_alex", "lpips_squeeze", "lpips_vgg" or "vgg19".
        params: a nested dict of float32 arrays; never trained.
        apply: (params, x, y) -> [B] float32; x and y are [B,H,W,3] in [0,1]. Pure, jit-able and
            differentiable in x and y, also at x == y. Raises ValueError for shapes that differ or
            are too small for the network's pools.
    """

    name: str
    params: Params
    apply: Callable[[Params, Image, Image], Distance]


def alex_features(
    params: Params, x: Image, *, precision: MatmulPrecision = "default"
) -> list[Array]:
    """Returns AlexNet's five ReLU outputs; x normalised as LPIPS does, H and W at least 31."""
    features = []
    for i, (index, stride, padding) in enumerate(_ALEX_CONVS):
        if i in (1, 2):
            x = max_pool(x, 3, 2)
        x = jax.nn.relu(conv(params["features"][index], x, stride, padding, precision))
        features.append(x)
    return features


def _fire(params: Params, x: Array, precision: MatmulPrecision) -> Array:
    x = jax.nn.relu(conv(params["squeeze"], x, 1, 0, precision))
    one = conv(params["expand1x1"], x, 1, 0, precision)
    three = conv(params["expand3x3"], x, 1, 1, precision)
    return jax.nn.relu(jnp.concatenate([one, three], axis=-1))


def squeeze_features(
    params: Params, x: Image, *, precision: MatmulPrecision = "default"
) -> list[Array]:
    """Returns SqueezeNet 1.1's seven LPIPS taps; x normalised as LPIPS does, sides from 17."""
    x = jax.nn.relu(conv(params["features"]["0"], x, 2, 0, precision))
    features = [x]
    for group in _SQUEEZE_GROUPS:
        # torchvision's SqueezeNet pools with ceil_mode, its AlexNet and VGG without.
        x = max_pool(x, 3, 2, ceil=True)
        for index in group:
            x = _fire(params["features"][str(index)], x, precision)
            if index in _SQUEEZE_TAPS:
                features.append(x)
    return features


def _unit(x: Array) -> Array:
    return x * lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _NORM_EPS)


def lpips_distance(
    features: Callable[[Params, Image], list[Array]], params: Params, x: Image, y: Image
) -> Distance:
    """Returns LPIPS v0.1 of x and y [B,H,W,3] in [0,1]: [B] float32, about 0 (same) to 1."""
    total = jnp.zeros(x.shape[:1])
    for layer in _lpips_layers(features, params, x, y):
        total += jnp.mean(layer, axis=(1, 2))
    return total


def lpips_map(
    features: Callable[[Params, Image], list[Array]], params: Params, x: Image, y: Image
) -> Float[Array, "B H W"]:
    """Returns the map behind `lpips_distance`: the layers' distances, resized bilinearly, added."""
    total = jnp.zeros(x.shape[:3])
    for layer in _lpips_layers(features, params, x, y):
        total += jax.image.resize(layer, x.shape[:3], "linear")
    return total


def _lpips_layers(
    features: Callable[[Params, Image], list[Array]], params: Params, x: Image, y: Image
) -> Iterator[Array]:
    x, y = pair(x, y)
    # LPIPS' shift and scale are for images in [−1, 1].
    shift, scale = along_last(LPIPS_SHIFT, x), along_last(LPIPS_SCALE, x)
    # Two passes, not one over both: the gradient for x alone then costs one backward pass.
    fx, fy = (features(params, (2 * z - 1 - shift) / scale) for z in (x, y))
    for i, (a, b) in enumerate(zip(fx, fy, strict=True)):
        difference = (_unit(a) - _unit(b)) ** 2
        weights = along_last(params[f"lin{i}"]["kernel"], difference)
        yield jnp.sum(difference * weights, axis=-1)


def vgg19_features(
    params: Params,
    x: Image,
    *,
    layers: tuple[str, ...] = tuple(VGG_LAYERS),
    precision: MatmulPrecision = "default",
) -> dict[str, Array]:
    """Returns VGG19 feature maps of x before activation, [B,H,W,3] RGB in [0,1], by layer name.

    The network takes BGR grey levels minus a mean, and its features are divided by `VGG_UNIT`:
    ReLU networks are nearly homogeneous, so the features come out in units of one ImageNet pixel
    deviation, the input unit of torchvision's VGG19, which published loss weights assume.
    Raises ValueError for an unknown layer.
    """
    x = 255 * x[..., ::-1] - along_last(VGG_MEAN_BGR, x)
    features: dict[str, Array] = {}
    for block, depth in enumerate(_VGG_BLOCKS, 1):
        if block > 1:
            x = max_pool(x, 2, 2)
        for i in range(1, depth + 1):
            name = f"conv{block}_{i}"
            linear = conv(params[name], x, 1, 1, precision)
            if name in layers:
                features[name] = linear / VGG_UNIT
            x = jax.nn.relu(linear)
            if len(features) == len(layers):
                return features
    raise ValueError(f"layers {layers}: expected names of VGG19 convolutions such as conv3_4")


def vgg19_distance(
    params: Params, x: Image, y: Image, *, precision: MatmulPrecision = "default"
) -> Distance:
    """Returns the sum of weight * mean |f(x) - f(y)| over `VGG_LAYERS`; [B,H,W,3] in [0,1] -> [B].

    H and W are at least 16. Features are in the units of `vgg19_features`; a photograph shrunk and
    enlarged x4 by bicubic is at about 15 from the original. The published layer weights were
    chosen for torchvision's VGG19, whose layers relate to each other somewhat differently.
    """
    x, y = pair(x, y)
    fx, fy = (vgg19_features(params, z, precision=precision) for z in (x, y))
    total = jnp.zeros(x.shape[:1])
    for name, weight in VGG_LAYERS.items():
        total += weight * jnp.mean(jnp.abs(fx[name] - fy[name]), axis=(1, 2, 3))
    return total


_BACKBONES: Mapping[str, Callable[..., list[Array]]] = {
    "alex": alex_features,
    "squeeze": squeeze_features,
    "vgg": lambda params, x, **options: vgg16.features(params["features"], x, **options),
}


def load_lpips(
    net: Literal["alex", "squeeze", "vgg"],
    path: str | Path | None = None,
    *,
    precision: MatmulPrecision = "highest",
) -> Perceptual:
    """Returns LPIPS v0.1 with its published weights.

    Args:
        net: the backbone; papers report "alex".
        path: the safetensors file (not for "vgg", which has two) or its folder; by default searched
            as `assets.find` says.
        precision: of convolutions on accelerators; scores need "highest", a loss does not.

    Raises:
        UserError: a file is absent or is not this network.
    """
    if net not in _BACKBONES:
        raise UserError(f"LPIPS network {net!r}: expected alex, squeeze or vgg")
    apply = partial(lpips_distance, partial(_BACKBONES[net], precision=precision))
    names = [f"lpips_{net}.safetensors", *(["vgg16.safetensors"] if net == "vgg" else [])]
    files = [assets.find(name, path) for name in names]
    return Perceptual(f"lpips_{net}", load(files, read_torch, apply), apply)


def load_vgg19(
    path: str | Path | None = None, *, precision: MatmulPrecision = "default"
) -> Perceptual:
    """Returns Real-ESRGAN's perceptual loss on Oxford's VGG19: `vgg19_distance` by default.

    Args:
        path: the npz file of 8-bit codes or its folder; by default searched as `assets.find` says.
        precision: of convolutions on accelerators.

    Raises:
        UserError: the file is absent or is not this network.
    """
    apply = partial(vgg19_distance, precision=precision)
    file = assets.find("vgg19_uint8.npz", path)
    return Perceptual("vgg19", load(file, _read_vgg19, apply), apply)


def _read_vgg19(file: Path) -> Params:
    """Returns HWIO params of 8-bit codes: w = code * scale + minimum, the two in `affine`."""
    flat = {}
    with np.load(file) as codes:
        for name in codes.files:
            if not name.endswith("/affine"):
                scale, minimum = codes[f"{name}/affine"]
                flat[*name.split("/")] = codes[name].astype(np.float32) * scale + minimum
    return nested(flat)
