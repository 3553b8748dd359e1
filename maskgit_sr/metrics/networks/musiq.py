"""MUSIQ (Ke et al. 2021, arXiv:2108.05997) from the official JAX checkpoints.

Images are cut into 32x32 patches at three scales: 224 and 384 pixels at the longer side, and as
they are. A small ResNet embeds each; a hashed position in a 10x10 grid and the scale are added; 14
transformer layers follow. The number of patches, and with its square the cost, grows with the
image: 450 for 512x512.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image, Params
from maskgit_sr.perceptual.published import (
    along_last,
    conv,
    layer_norm,
    max_pool,
    nested,
    single,
)

PATCH = 32
LONGER_SIDES = (224, 384)
_GROUPS = 32


def read(file: Path) -> Params:
    """Returns the params of an official `*_ckpt.npz`, with convolutions standardised."""
    flat = {}
    with np.load(file) as stored:
        for name in stored.files:
            # The file is a training state, its parameters are at `opt/target/…`.
            _, found, path = f"/{name}".partition("/target/")
            if found:
                flat[*path.split("/")] = _standardise(path, np.asarray(stored[name], np.float32))
    return nested(flat)


def _standardise(path: str, value: np.ndarray) -> np.ndarray:
    """Standardises the kernel of a convolution, once instead of in every call."""
    if not path.endswith("/kernel") or value.ndim != 4:
        return value
    return (value - value.mean((0, 1, 2))) / (value.std((0, 1, 2)) + 1e-5)


def gaussian_resize(image: Image, height: int, width: int) -> Image:
    """Resizes [B,H,W,C] by a Gaussian of sigma 0.5 and radius 1.5 source pixels.

    `tf.image.resize(method="gaussian")` without antialiasing: the kernel does not grow when an
    image shrinks. Weights are normalised where the border cuts them.
    """
    for axis, size in ((1, height), (2, width)):
        source = image.shape[axis]
        centre = (np.arange(size) + 0.5) * source / size
        distance = np.abs(np.arange(source) + 0.5 - centre[:, None])
        weight = np.where(distance < 1.5, np.exp(-2 * distance**2), 0)
        weight /= weight.sum(1, keepdims=True)
        matrix = jnp.asarray(weight, image.dtype)
        image = jnp.moveaxis(jnp.tensordot(matrix, image, (1, axis)), 0, axis)
    return image


def patches(image: Image) -> Float[Array, "B n 32 32 3"]:
    """Returns disjoint patches row by row; a remainder is padded by zeros on both sides."""
    b, height, width, c = image.shape
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    pads = [(0, 0)]
    for size, count in ((height, rows), (width, columns)):
        missing = count * PATCH - size
        pads.append((missing // 2, missing - missing // 2))
    image = jnp.pad(image, [*pads, (0, 0)])
    image = image.reshape(b, rows, PATCH, columns, PATCH, c).transpose(0, 1, 3, 2, 4, 5)
    return image.reshape(b, rows * columns, PATCH, PATCH, c)


def positions(height: int, width: int, grid: int) -> np.ndarray:
    """Returns the index in a grid x grid table of every patch of an image, row by row."""
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    down, across = (np.arange(count) * grid // count for count in (rows, columns))
    return (down[:, None] * grid + across).reshape(-1)


def quality(params: Params, x: Image) -> Float[Array, "B"]:
    """Returns the score of images [B,H,W,3] in [0,1], about 0 to 100 (KonIQ); higher is better.

    Raises:
        ValueError: not [B,H,W,3], or a side has fewer than 32 pixels.
    """
    x = 2 * single(x, PATCH) - 1
    # Accelerators multiply in less than float32 by default; a score must not depend on the device.
    with jax.default_matmul_precision("highest"):
        pyramid = [_resize_longer(x, side) for side in LONGER_SIDES]
        return score_pyramid(params, [*pyramid, x])


def score_pyramid(params: Params, pyramid: list[Array]) -> Array:
    """Returns the score of one scene at several sizes, [B,H,W,3] in [-1,1] each, smallest first."""
    transformer = params["Transformer"]
    table = transformer["posembed_input"]["pos_embedding"][0]
    scales = transformer["scaleembed_input"]["scale_embedding"][0]
    tokens = [jnp.broadcast_to(transformer["cls"], (pyramid[0].shape[0], 1, table.shape[-1]))]
    for scale, image in enumerate(pyramid):
        place = positions(image.shape[1], image.shape[2], math.isqrt(table.shape[0]))
        embedded = _embed(params, patches(image))
        tokens.append(embedded + table[None, place] + along_last(scales[scale], embedded))
    x = jnp.concatenate(tokens, axis=1)
    blocks = sum(name.startswith("encoderblock_") for name in transformer)
    for i in range(blocks):
        x = _block(transformer[f"encoderblock_{i}"], x)
    x = _norm(transformer["encoder_norm"], x[:, 0])
    return _dense(params["head"], x)[:, 0]


def _resize_longer(image: Image, side: int) -> Image:
    # In float32, as the authors' TensorFlow code: float64 may round to another size.
    ratio = np.float32(side) / np.float32(max(image.shape[1:3]))
    height, width = (max(1, int(np.round(np.float32(s) * ratio))) for s in image.shape[1:3])
    return gaussian_resize(image, height, width)


def _embed(params: Params, x: Array) -> Array:
    b, n = x.shape[:2]
    x = x.reshape(b * n, *x.shape[2:])
    x = jax.nn.relu(_group_norm(params["gn_root"], conv(params["conv_root"], x, 2, "SAME"), 1e-6))
    x = max_pool(x, 3, 2, ceil=True)
    unit = params["block1"]["unit1"]  # its eps are the published ones, not those of the root
    y = jax.nn.relu(_group_norm(unit["gn1"], conv(unit["conv1"], x), 1e-4))
    y = jax.nn.relu(_group_norm(unit["gn2"], conv(unit["conv2"], y, 1, 1), 1e-4))
    y = _group_norm(unit["gn3"], conv(unit["conv3"], y), 1e-4)
    x = jax.nn.relu(_group_norm(unit["gn_proj"], conv(unit["conv_proj"], x), 1e-4) + y)
    return _dense(params["embedding"], x.reshape(b, n, -1))


def _group_norm(params: Params, x: Array, eps: float) -> Array:
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, _GROUPS, c // _GROUPS)
    x = x - x.mean((1, 2, 4), keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean((1, 2, 4), keepdims=True) + eps)
    x = x.reshape(b, h, w, c)
    return x * along_last(params["scale"], x) + along_last(params["bias"], x)


def _block(block: Params, x: Array) -> Array:
    # The layers are named by class and order of creation, as in LayerNorm_0; the order is enough.
    first, attn, second, mlp = (block[name] for name in sorted(block, key=_order))
    y = _norm(first, x)
    q, k, v = (
        jnp.einsum("bnd,dhk->bnhk", y, attn[name]["kernel"]) + attn[name]["bias"][None, None]
        for name in ("query", "key", "value")
    )
    y = jax.nn.dot_product_attention(q, k, v)
    y = jnp.einsum("bnhk,hkd->bnd", y, attn["out"]["kernel"])
    x = x + y + along_last(attn["out"]["bias"], y)
    up, down = (mlp[name] for name in sorted(mlp, key=_order))
    return x + _dense(down, jax.nn.gelu(_dense(up, _norm(second, x)), approximate=True))


def _order(name: str) -> int:
    return int(name.rpartition("_")[2])


def _norm(params: Params, x: Array) -> Array:
    return layer_norm(x, params["scale"], params["bias"], 1e-6)


def _dense(params: Params, x: Array) -> Array:
    return x @ params["kernel"] + along_last(params["bias"], x)
