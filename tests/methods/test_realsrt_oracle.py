"""RealSRT's networks against numbers that do not come from this package.

Two sources. Plain NumPy in float64, written from the description of each block. And
``realsrt_reference.npz``: outputs of the public PyTorch code with its sizes reduced to those of
`CONFIG` and its weights set to `reference_state`, which is why no weights are stored.
"""

import functools
import json
import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskgit_sr.convert.realsrt import map_state
from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.realsrt import RealSRT, RealSRTConfig
from maskgit_sr.models import layers
from maskgit_sr.models.functional import Network
from maskgit_sr.models.transformer import (
    Attention,
    DecoderLayer,
    FeedForward,
    KeyValue,
    TransformerConfig,
)
from maskgit_sr.models.vqgan import VQGANConfig
from maskgit_sr.ops.positions import sincos_2d
from maskgit_sr.ops.resize import upsample_bicubic

TOLERANCE = 1e-4
WIDTH = dict(dim=32, heads=2, head_dim=16, encoder_depth=1, code_width=32, grid=(8, 8))
CONFIG = RealSRTConfig(
    tokenizer=VQGANConfig(channels=(32, 64), code_width=32, codes=24),
    generator=TransformerConfig(outputs=24, decoder_depth=2, **WIDTH),
    critic=TransformerConfig(outputs=1, masked=False, decoder_depth=1, **WIDTH),
    tile=TileSpec(sides=(4,), overlap=2),
)
BLOCK = TransformerConfig(**WIDTH)


def alive(network, seed=0):
    """Parameters of ordinary size everywhere: no scale of 1 and no bias of 0 hides an error."""
    leaves, tree = jax.tree.flatten(network.shapes)
    random = np.random.RandomState(seed)
    arrays = [random.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    arrays = [a / np.sqrt(np.prod(a.shape[:-1])) if a.ndim > 1 else 1 + 0.3 * a for a in arrays]
    return jax.tree.unflatten(tree, [jnp.asarray(a, jnp.float32) for a in arrays])


def agree(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=TOLERANCE, atol=TOLERANCE)


def noise(*shape, seed=1):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------ transformer, NumPy


def norm_oracle(x, scale, eps=1e-5):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * scale


def softmax_oracle(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unit_oracle(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def attention_oracle(p, x, context=None, heads=2):
    """One sequence [N, D]; a context is not normed."""
    x = norm_oracle(x, p["norm"]["scale"])
    context = x if context is None else context
    inner = p["query"]["kernel"].shape[1]
    q = x @ p["query"]["kernel"]
    kv = context @ p["key_value"]["kernel"]
    k, v = kv[:, :inner], kv[:, inner:]
    size, out = inner // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        keys = np.concatenate([p["null"][0, head][None], k[:, part]])
        values = np.concatenate([p["null"][1, head][None], v[:, part]])
        queries = unit_oracle(q[:, part]) * p["query_scale"]
        logits = 8.0 * queries @ (unit_oracle(keys) * p["key_scale"]).T
        out.append(softmax_oracle(logits) @ values)
    return np.concatenate(out, axis=-1) @ p["out"]["kernel"]


def feed_forward_oracle(p, x):
    y = norm_oracle(x, p["norm_in"]["scale"]) @ p["up"]["kernel"]
    first, second = np.split(y, 2, axis=-1)
    erf = np.vectorize(math.erf)
    gated = second * (0.5 * first * (1 + erf(first / math.sqrt(2))))
    return norm_oracle(gated, p["norm_inner"]["scale"]) @ p["down"]["kernel"]


def double(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def network(build):
    return Network(lambda rngs: build(dtype=jnp.float32, rngs=rngs))


def run(net, params, call):
    return jax.jit(lambda params: net.apply(params, call))(params)


def test_attention():
    net = network(lambda **kw: Attention(BLOCK, **kw))
    params, x, context = alive(net), noise(2, 5, 32), noise(2, 7, 32, seed=2)
    p = double(params)
    agree(run(net, params, lambda m: m(x)), [attention_oracle(p, row) for row in x])
    found = run(net, params, lambda m: m(x, m.key_values(jnp.asarray(context))))
    agree(found, [attention_oracle(p, *pair) for pair in zip(x, context, strict=True)])


@pytest.mark.parametrize("scale", [3.0, 6.0])
@pytest.mark.parametrize("turned", [False, True])
def test_attention_with_sharp_logits(scale, turned):
    """Logits of ±70 and ±290: far outside what exp can take without subtracting the row maximum."""
    net = network(lambda **kw: Attention(BLOCK, **kw))
    params, x = alive(net), noise(1, 5, 32)
    params["query_scale"] = jnp.full((16,), scale)
    params["key_scale"] = jnp.full((16,), scale)
    if turned:  # every key opposite to every query: a row's largest logit is far below zero
        one = jnp.zeros((32, 32)).at[:, ::16].set(1.0)
        x[..., 0] = 10.0
        params["norm"]["scale"] = jnp.zeros(32).at[0].set(1.0)
        params["query"]["kernel"] = one
        params["key_value"]["kernel"] = params["key_value"]["kernel"].at[:, :32].set(-one)
        params["null"] = params["null"].at[0].set(0.0).at[0, :, 0].set(-1.0)
    expected = attention_oracle(double(params), x[0])
    np.testing.assert_allclose(run(net, params, lambda m: m(x))[0], expected, atol=1e-4)


def test_null_entry_comes_first_and_is_normalised_like_a_key():
    net = network(lambda **kw: Attention(BLOCK, **kw))
    params = alive(net)
    memory = run(net, params, lambda m: m.key_values(jnp.asarray(noise(1, 4, 32))))
    assert isinstance(memory, KeyValue)
    assert memory.key.shape == (1, 5, 2, 16)
    p = double(params)
    agree(memory.key[0, 0], unit_oracle(p["null"][0]) * p["key_scale"])
    agree(memory.value[0, 0], p["null"][1])


def test_feed_forward():
    net = network(lambda **kw: FeedForward(32, **kw))
    params, x = alive(net), noise(2, 5, 32)
    assert params["up"]["kernel"].shape == (32, 2 * 85)
    agree(run(net, params, lambda m: m(x)), feed_forward_oracle(double(params), x))


def test_decoder_layer_is_three_residuals_in_order():
    net = network(lambda **kw: DecoderLayer(BLOCK, **kw))
    params, x, context = alive(net), noise(1, 5, 32), noise(1, 7, 32, seed=2)
    p = double(params)
    y = x[0] + attention_oracle(p["attention"], x[0])
    y = y + attention_oracle(p["cross_attention"], y, context[0])
    y = y + feed_forward_oracle(p["feed_forward"], y)
    found = run(net, params, lambda m: m(x, m.cross_attention.key_values(jnp.asarray(context))))
    agree(found[0], y)


def test_positions():
    table = sincos_2d(3, 5, 16)
    for row in range(3):
        for column in range(5):
            for index in range(16):
                place = column if index < 8 else row
                angle = place / 10000 ** (index % 4 / 4)
                expected = math.sin(angle) if index % 8 < 4 else math.cos(angle)
                assert table[row * 5 + column, index] == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------ convolutions, NumPy


def convolve_oracle(x, p, stride=1, padding=(1, 1)):
    """x [H, W, C]; padding (top and left, bottom and right)."""
    kernel = p["kernel"]
    size = kernel.shape[0]
    x = np.pad(x, (padding, padding, (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[:2])
    out = np.zeros((height, width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            patch = x[i * stride : i * stride + size, j * stride : j * stride + size]
            out[i, j] = np.tensordot(patch, kernel, 3) + p["bias"]
    return out


def group_norm_oracle(x, p, groups=32, eps=1e-6):
    out = np.empty_like(x, np.float64)
    width = x.shape[-1] // groups
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        mean, variance = x[..., part].mean(), x[..., part].var()
        out[..., part] = (x[..., part] - mean) / np.sqrt(variance + eps)
    return out * p["scale"] + p["bias"]


def swish_oracle(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("outputs", [64, 32])
def test_residual_block(outputs):
    net = network(lambda **kw: layers.ResidualBlock(64, outputs, **kw))
    params, x = alive(net), noise(1, 4, 3, 64)
    p = double(params)
    y = convolve_oracle(swish_oracle(group_norm_oracle(x[0], p["norm1"])), p["conv1"])
    y = convolve_oracle(swish_oracle(group_norm_oracle(y, p["norm2"])), p["conv2"])
    if outputs == 64:
        assert "shortcut" not in p
        shortcut = x[0]
    else:
        shortcut = convolve_oracle(x[0], p["shortcut"], padding=(0, 0))
    agree(run(net, params, lambda m: m(x))[0], y + shortcut)


def test_group_norm_far_from_zero():
    """A spread of 0.1 around 30, as in dark or flat parts: no digits may be lost to the mean."""
    net = network(lambda **kw: layers.GroupNorm(64))
    params = alive(net)
    x = np.float32(30) + np.float32(0.1) * noise(1, 8, 8, 64)
    expected = group_norm_oracle(x[0].astype(np.float64), double(params))
    np.testing.assert_allclose(run(net, params, lambda m: m(x))[0], expected, atol=1e-3)


def test_attention_block():
    net = network(lambda **kw: layers.AttentionBlock(32, **kw))
    params, x = alive(net), noise(1, 3, 4, 32)
    p = double(params)
    y = group_norm_oracle(x[0], p["norm"]).reshape(12, 32)
    q, k, v = (y @ p[n]["kernel"][0, 0] + p[n]["bias"] for n in ("query", "key", "value"))
    y = softmax_oracle(q @ k.T / math.sqrt(32)) @ v
    y = y @ p["out"]["kernel"][0, 0] + p["out"]["bias"]
    agree(run(net, params, lambda m: m(x))[0], x[0] + y.reshape(3, 4, 32))


def test_downsample():
    net = network(lambda **kw: layers.Downsample(3, **kw))
    params, x = alive(net), noise(1, 6, 4, 3)
    expected = convolve_oracle(x[0], double(params)["conv"], stride=2, padding=(0, 1))
    assert expected.shape == (3, 2, 3)
    agree(run(net, params, lambda m: m(x))[0], expected)


def test_upsample():
    net = network(lambda **kw: layers.Upsample(3, 3, **kw))
    params, x = alive(net), noise(1, 3, 2, 3)
    expected = convolve_oracle(x[0].repeat(2, 0).repeat(2, 1), double(params)["conv"])
    agree(run(net, params, lambda m: m(x))[0], expected)


def test_bicubic():
    x, a = noise(1, 5, 4, 2), -0.75

    def weight(t):
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a

    def taps(index, size):
        place = (index + 0.5) / 4 - 0.5
        base = math.floor(place)
        near = range(base - 1, base + 3)
        return [(min(max(i, 0), size - 1), weight(place - i)) for i in near]

    expected = np.zeros((20, 16, 2))
    for i in range(20):
        for j in range(16):
            for row, wr in taps(i, 5):
                for column, wc in taps(j, 4):
                    expected[i, j] += wr * wc * x[0, row, column]
    agree(upsample_bicubic(jnp.asarray(x), 4)[0], expected)


# ------------------------------------------------------------------ the public PyTorch code


def reference_value(name, shape):
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith((".gamma", "gn.weight")):
        return 1 + 0.2 * x
    if name.endswith(("q_scale", "k_scale")):
        return 1.5 + 0.3 * x
    if name.endswith(".bias"):
        return 0.1 * x
    if len(shape) > 1 and not any(n in name for n in ("null_kv", "mask_token", "codebooks")):
        return x / np.sqrt(np.prod(shape[1:]))
    return x


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "realsrt_reference.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def method():
    return RealSRT(CONFIG)


@pytest.fixture(scope="module")
def params(reference):
    state = {}
    for name, shape in json.loads(reference["entries"].tobytes()):
        if name.endswith("pos_emb"):
            array = reference["positions"][None]
        elif name.endswith(".beta"):
            array = np.zeros(shape)
        elif name.endswith("token_emb.weight"):
            array = reference_value("vae.quantizer.codebooks.0.weight", tuple(shape))
        else:
            array = reference_value(name, tuple(shape))
        state[name] = np.asarray(array, np.float32)
    return map_state(state, CONFIG)


def test_reference_positions(reference):
    np.testing.assert_allclose(sincos_2d(8, 8, 32), reference["positions"], atol=1e-6)


def test_reference_tokenizer(reference, method, params):
    upsampled = method.upsample(jnp.asarray(reference["lr"]))
    agree(upsampled, reference["upsampled"])
    vectors = run(method.tokenizer, params["tokenizer"], lambda m: m.encode(upsampled))
    agree(vectors, reference["vectors"])
    tokens = jax.jit(method.tokenize)(params, upsampled)
    np.testing.assert_array_equal(tokens, reference["lr_tokens"])
    coded = method.embed(params, tokens)
    image = run(method.tokenizer, params["tokenizer"], lambda m: m.decode(coded))
    agree(image, reference["reconstruction"])


def test_reference_generator_and_critic(reference, method, params):
    lr_tokens = jnp.asarray(reference["lr_tokens"]).reshape(2, -1)
    tokens, mask = jnp.asarray(reference["tokens"]), jnp.asarray(reference["mask"])

    @functools.partial(jax.jit, static_argnames="network")
    def logits(params, mask, network):
        memory = method.memory(params, network, lr_tokens)
        return method.logits(params, network, tokens, mask, memory)

    agree(logits(params, mask, "generator"), reference["generator_logits"])
    agree(logits(params, None, "critic")[..., 0], reference["critic_logits"])


@pytest.mark.parametrize("score", [False, True])
def test_reference_restoration(reference, method, params, score):
    keys = jax.random.split(jax.random.key(0), 2)
    options = method.options(steps=4, confidence=score)
    restore = jax.jit(lambda params, lr: method.restore(params, lr, keys, options))
    restored = restore(params, jnp.asarray(reference["lr"]))
    np.testing.assert_array_equal(restored.tokens, reference["restored_tokens"])
    agree(restored.image, reference["restored"])


def test_reference_without_colour_correction(reference, method, params):
    upsampled = jnp.asarray(reference["upsampled"])
    tokens = jnp.asarray(reference["restored_tokens"])
    render = jax.jit(method.render, static_argnames="steered")
    agree(render(params, tokens, upsampled), reference["raw"])
    plain = render(params, tokens, upsampled, steered=False)
    assert np.abs(np.asarray(plain) - reference["raw"]).max() > 0.1  # the module does act


def test_oracle_weights_reach_every_parameter():
    """`alive` must not depend on how a module initialises itself."""
    net = network(lambda **kw: layers.conv(3, 4, kernel_init=nnx.initializers.zeros_init(), **kw))
    assert all(np.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(alive(net)))
