"""CLIP's ResNet and text transformer (Radford et al. 2021, arXiv:2103.00020), for CLIP-IQA.

Params carry the names of OpenAI's state: visual.layer1.0.conv1, transformer.resblocks.0.attn, ….
Sizes come from the weights, so that a narrow network can be tested; heads are 64 wide.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image, Params
from maskgit_sr.perceptual.published import (
    along_last,
    conv,
    dense,
    fold_norm,
    layer_norm,
    mean_pool,
    read_torch,
    single,
)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
START, END = 49406, 49407
_HEAD = 64
_EPS = 1e-5


def read(file: Path) -> Params:
    """Returns the whole network, batch normalisation folded into the convolutions."""
    params = read_torch(file)
    visual = _fold(params["visual"])
    for name, layer in visual.items():
        if name.startswith("layer"):
            visual[name] = {i: _fold(block) for i, block in layer.items()}
    return params | {"visual": visual}


def _fold(block: Params) -> Params:
    """Folds bn1, bn2 and bn3 into conv1, conv2 and conv3, and a downsampling's norm as well."""
    folded = {name: value for name, value in block.items() if not name.startswith("bn")}
    for i in "123":
        folded[f"conv{i}"] = fold_norm(block[f"conv{i}"], block[f"bn{i}"], _EPS)
    if down := block.get("downsample"):
        folded["downsample"] = fold_norm(down["0"], down["1"], _EPS)
    return folded


def image_features(params: Params, x: Image) -> Float[Array, "B E"]:
    """Returns the embedding of images [B,H,W,3] in [0,1] of any size, without positional embedding.

    CLIP-IQA (arXiv:2207.12396, section 3.2) leaves the embedding out of the attention pool, so
    that images need not be resized to 224x224.

    Raises:
        ValueError: not [B,H,W,3], or a side has fewer than 32 pixels.
    """
    x = single(x, 32)
    visual = params["visual"]
    x = (x - along_last(MEAN, x)) / along_last(STD, x)
    # Accelerators multiply in less than float32 by default; a score must not depend on the device.
    with jax.default_matmul_precision("highest"):
        x = jax.nn.relu(conv(visual["conv1"], x, 2, 1))
        x = jax.nn.relu(conv(visual["conv2"], x, 1, 1))
        x = jax.nn.relu(conv(visual["conv3"], x, 1, 1))
        x = mean_pool(x, 2)
        for stage in range(1, 5):
            blocks = visual[f"layer{stage}"]
            for i in range(len(blocks)):
                x = _bottleneck(blocks[str(i)], x, 2 if stage > 1 and i == 0 else 1)
        return _attention_pool(visual["attnpool"], x)


def _bottleneck(block: Params, x: Array, stride: int) -> Array:
    y = jax.nn.relu(conv(block["conv1"], x))
    y = jax.nn.relu(conv(block["conv2"], y, 1, 1))
    if stride > 1:  # CLIP's ResNet pools by means where others have strided convolutions
        x, y = mean_pool(x, stride), mean_pool(y, stride)
    y = conv(block["conv3"], y)
    return jax.nn.relu(y + (conv(block["downsample"], x) if "downsample" in block else x))


def _attention_pool(params: Params, x: Array) -> Array:
    """Attends from the mean feature to itself and to every position."""
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    mean = x.mean(1, keepdims=True)
    x = jnp.concatenate([mean, x], axis=1)
    q, k, v = (dense(params[f"{name}_proj"], z) for name, z in (("q", mean), ("k", x), ("v", x)))
    return dense(params["c_proj"], _attention(q, k, v))[:, 0]


def _attention(q: Array, k: Array, v: Array, causal: bool = False) -> Array:
    heads = (x.reshape(*x.shape[:2], -1, _HEAD) for x in (q, k, v))
    return jax.nn.dot_product_attention(*heads, is_causal=causal).reshape(q.shape)


def text_features(params: Params, tokens: Sequence[Sequence[int]]) -> Float[Array, "P E"]:
    """Returns the embedding of prompts given as token ids without start and end.

    The published network pads to 77 tokens; attention is causal and the end token is what counts,
    so that fewer do.
    """
    ends = np.array([len(ids) + 1 for ids in tokens])
    count = int(ends.max()) + 1
    padded = np.zeros((len(tokens), count), np.int32)
    for row, ids in zip(padded, tokens, strict=True):
        row[: len(ids) + 2] = [START, *ids, END]
    x = params["token_embedding"]["weight"][padded] + params["positional_embedding"][None, :count]
    with jax.default_matmul_precision("highest"):
        blocks = params["transformer"]["resblocks"]
        for i in range(len(blocks)):
            x = _text_block(blocks[str(i)], x)
        x = _norm(params["ln_final"], x[np.arange(len(tokens)), ends])
        return x @ params["text_projection"]


def _text_block(block: Params, x: Array) -> Array:
    y, attn = _norm(block["ln_1"], x), block["attn"]
    joint = dense({"weight": attn["in_proj_weight"], "bias": attn["in_proj_bias"]}, y)
    q, k, v = jnp.split(joint, 3, axis=-1)
    x = x + dense(attn["out_proj"], _attention(q, k, v, causal=True))
    y = dense(block["mlp"]["c_fc"], _norm(block["ln_2"], x))
    # Not jax.nn.gelu: CLIP was trained with this approximation.
    return x + dense(block["mlp"]["c_proj"], y * jax.nn.sigmoid(1.702 * y))


def _norm(params: Params, x: Array) -> Array:
    return layer_norm(x, params["weight"], params["bias"], _EPS)


def preference(params: Params, x: Image) -> Float[Array, "B"]:
    """Returns CLIP-IQA: how much nearer an image is to a pair's first prompt than to its second.

    Args:
        params: "network", from `read`, and "text" [P,2,E], from `text_features`.
        x: images [B,H,W,3] in [0,1], at least 32 pixels a side.

    Returns:
        [B] in [0,1]: the mean over P pairs of the softmax of the two cosines times CLIP's scale.
    """
    image = image_features(params["network"], x)
    image = image / jnp.linalg.norm(image, axis=-1, keepdims=True)
    text = params["text"] / jnp.linalg.norm(params["text"], axis=-1, keepdims=True)
    # In full float32, since the logit scale multiplies errors of the cosines as well.
    cosines = jnp.einsum("be,pke->bpk", image, text, precision="highest")
    logits = jnp.exp(params["network"]["logit_scale"]) * cosines
    return jax.nn.softmax(logits, axis=-1)[..., 0].mean(1)
