"""Layers and file readers for published networks, as plain functions of (params, images).

Params are nested dicts of float32 arrays, named as in the published file with its dots as levels;
a convolution's "weight" [O,I,h,w] is "kernel" [h,w,I,O] here, everything else is unchanged.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from safetensors import SafetensorError
from safetensors.numpy import load_file

from maskgit_sr.arrays import Image, Params
from maskgit_sr.errors import UserError

MatmulPrecision = Literal["default", "high", "highest"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def pair(x: Image, y: Image) -> tuple[Image, Image]:
    """Returns both images as float32.

    Raises:
        ValueError: they are not [B,H,W,3] of one shape.
    """
    if x.shape != y.shape or x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(f"expected two images [B,H,W,3] of one shape, found {x.shape}, {y.shape}")
    return x.astype(jnp.float32), y.astype(jnp.float32)


def single(x: Image, smallest: int) -> Image:
    """Returns the image as float32.

    Raises:
        ValueError: it is not [B,H,W,3], or a side has fewer than `smallest` pixels.
    """
    if x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(f"expected images [B,H,W,3], found {x.shape}")
    if min(x.shape[1:3]) < smallest:
        height, width = x.shape[1:3]
        raise ValueError(f"image of {height}x{width}: expected at least {smallest} pixels a side")
    return x.astype(jnp.float32)


def along_last(vector: Sequence[float] | Array, x: Array) -> Array:
    """Returns a vector [C] as [1, …, 1, C], so that ``x`` [..., C] needs no rank promotion."""
    return jnp.asarray(vector, jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))


def max_pool(x: Array, window: int, stride: int, *, ceil: bool = False) -> Array:
    """Pools [B,H,W,C] by maxima without padding, as torch.nn.MaxPool2d.

    With `ceil` the last window may hang over the right and lower edge (what hangs over is never
    the maximum); else a remainder is dropped. Raises ValueError where not one window fits.
    """
    # Maxima of strided slices, one axis after the other: on CPU the backward pass is faster than
    # reduce_window's.
    for axis in (1, 2):
        size = x.shape[axis]
        over = size - window
        count = (-(-over // stride) if ceil else over // stride) + 1
        if count < 1:
            raise ValueError(f"image too small: a {window}x{window} pool meets {x.shape[1:3]}")
        span = (count - 1) * stride + 1
        if missing := max(0, span + window - 1 - size):
            pads = [(0, 0)] * 4
            pads[axis] = (0, missing)
            x = jnp.pad(x, pads, constant_values=-jnp.inf)
        slices = [lax.slice_in_dim(x, i, i + span, stride, axis) for i in range(window)]
        x = reduce(jnp.maximum, slices)
    return x


def mean_pool(x: Array, window: int) -> Array:
    """Returns means of disjoint window x window squares of [B,H,W,C]; a remainder is dropped."""
    height, width = x.shape[1] // window, x.shape[2] // window
    if not height or not width:
        raise ValueError(f"image too small: a {window}x{window} pool meets {x.shape[1:3]}")
    x = x[:, : height * window, : width * window]
    return x.reshape(x.shape[0], height, window, width, window, x.shape[3]).mean((2, 4))


def conv(
    params: Params,
    x: Array,
    stride: int = 1,
    padding: int | tuple[int, int] | Literal["SAME"] = 0,
    precision: MatmulPrecision = "default",
) -> Array:
    """Convolves [B,H,W,C] with "kernel" and adds "bias" if there is one; zero padding.

    Raises:
        ValueError: the image is too small for one output pixel.
    """
    if isinstance(padding, int):
        padding = (padding, padding)
    pads = padding if isinstance(padding, str) else [(side, side) for side in padding]
    y = lax.conv_general_dilated(
        x,
        params["kernel"],
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
    if 0 in y.shape:
        raise ValueError(f"image too small: a convolution meets {x.shape[1:3]}")
    return y + along_last(params["bias"], y) if "bias" in params else y


def dense(params: Params, x: Array) -> Array:
    """Applies a linear layer as torch stores it: "weight" [out,in] and "bias"."""
    return x @ params["weight"].T + along_last(params["bias"], x)


def layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """Normalises over the last axis."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x * along_last(scale, x) + along_last(bias, x)


def fold_norm(convolution: Params, norm: Params, eps: float) -> Params:
    """Returns a convolution and the batch norm after it (running statistics) as one."""
    # Running statistics are constants, so the norm is an affine map of each output channel.
    scale = norm["weight"] / np.sqrt(norm["running_var"] + eps)
    bias = norm["bias"] - norm["running_mean"] * scale
    if "bias" in convolution:
        bias = bias + convolution["bias"] * scale
    return {"kernel": convolution["kernel"] * scale, "bias": bias}


def torch_tree(tensors: Mapping[str, np.ndarray]) -> Params:
    """Returns a PyTorch state as nested params: "features.0.weight" -> features: 0: kernel."""
    flat = {}
    for name, value in tensors.items():
        *path, leaf = name.split(".")
        # OIHW to HWIO, the layout of `conv`.
        if value.ndim == 4 and leaf == "weight":
            value, leaf = value.transpose(2, 3, 1, 0), "kernel"
        if leaf != "num_batches_tracked":  # a counter of PyTorch's batch norm in training
            flat[*path, leaf] = value
    return nested(flat)


def nested(flat: Mapping[tuple[str, ...], np.ndarray]) -> Params:
    """Returns arrays by path as nested params of float32."""
    params: Params = {}
    for (*path, leaf), value in flat.items():
        layer = params
        for key in path:
            layer = layer.setdefault(key, {})
        layer[leaf] = np.asarray(value, np.float32)
    return params


def read_torch(*files: Path) -> Params:
    """Returns the params of safetensors files with PyTorch's names, as one tree."""
    return torch_tree({name: value for file in files for name, value in load_file(file).items()})


def load(
    files: Path | Sequence[Path],
    read: Callable[..., Params],
    trace: Callable[..., Array],
    side: int = 64,
    images: int = 2,
) -> Params:
    """Returns the params of the files, on the device, after a check that they fit the network.

    Args:
        files: arguments of `read`, in this order.
        read: (file, …) -> params.
        trace: (params, image, …) -> score; it is traced once with `images` images of `side` pixels.

    Raises:
        UserError: a file is broken or holds another network.
    """
    files = (files,) if isinstance(files, Path) else files
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    # Errors of reading another network's names and shapes.
    unreadable = (OSError, SafetensorError, zipfile.BadZipFile)
    unexpected = (AttributeError, LookupError, TypeError, ValueError)
    try:
        params = read(*files)
        # Traced by shape alone: another network's file fails here, without a forward pass.
        jax.eval_shape(trace, params, *[image] * images)
    except (*unreadable, *unexpected) as error:
        # JAX's messages may span lines, a UserError is one.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        names = " and ".join(map(str, files))
        raise UserError(f"{names}: not the expected network ({reason})") from None
    return jax.tree.map(jnp.asarray, params)
