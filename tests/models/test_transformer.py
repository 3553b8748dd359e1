"""models.transformer against NumPy, and what the mask and the memory may and may not change."""

from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.models.functional import Network
from maskgit_sr.models.transformer import TokenTransformer
from maskgit_sr.ops.positions import sincos_2d


def vectors(seed, batch=2, tokens=64, width=16):
    return jax.random.normal(jax.random.key(seed), (batch, tokens, width))


@pytest.fixture(scope="module")
def run(method, params):
    """Jitted (LR vectors, HR vectors, mask) → logits of the tiny generator."""

    @jax.jit
    def run(lr, hr, mask):
        module = method.generator.bind(params["generator"])
        return module.decode(hr, mask, module.encode(lr))

    return run


def numpy_transformer(p, config, lr, hr, mask):
    """The published network, written with loops over layers and nothing cached."""

    def norm(x, scale):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def attention(p, x, context=None):
        x = norm(x, p["norm"]["scale"])
        context = x if context is None else context
        heads = (-1, config.heads, config.head_dim)
        out = []
        for row, source in zip(x, context, strict=True):
            key, value = np.split(source @ p["key_value"]["kernel"], 2, axis=-1)
            key = np.concatenate([p["null"][:1], key.reshape(heads)])
            value = np.concatenate([p["null"][1:], value.reshape(heads)])
            query = unit((row @ p["query"]["kernel"]).reshape(heads)) * p["query_scale"]
            key = unit(key) * p["key_scale"]
            weights = np.exp(8 * np.einsum("qhd,khd->hqk", query, key))
            weights /= weights.sum(-1, keepdims=True)
            mixed = np.einsum("hqk,khd->qhd", weights, value).reshape(len(row), -1)
            out.append(mixed @ p["out"]["kernel"])
        return np.stack(out)

    def feed_forward(p, x):
        first, second = np.split(norm(x, p["norm_in"]["scale"]) @ p["up"]["kernel"], 2, axis=-1)
        gelu = first * 0.5 * (1 + np.vectorize(erf)(first / np.sqrt(2)))
        return norm(second * gelu, p["norm_inner"]["scale"]) @ p["down"]["kernel"]

    positions = sincos_2d(*config.grid, config.dim)
    x = lr @ p["encoder_in"]["kernel"] + p["encoder_in"]["bias"] + positions
    for layer in p["encoder"].values():
        x = x + attention(layer["attention"], x)
        x = x + feed_forward(layer["feed_forward"], x)
    memory = norm(x, p["encoder_norm"]["scale"])
    x = hr @ p["decoder_in"]["kernel"] + p["decoder_in"]["bias"]
    x = np.where(mask[..., None], p["mask_token"], x) + positions
    for layer in p["decoder"].values():
        x = x + attention(layer["attention"], x)
        x = x + attention(layer["cross_attention"], x, memory)
        x = x + feed_forward(layer["feed_forward"], x)
    return norm(x, p["decoder_norm"]["scale"]) @ p["logits"]["kernel"]


def test_network_is_the_published_one(tiny, params, run):
    lr, hr = vectors(0), vectors(1)
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, (2, 64))
    plain = jax.tree.map(lambda x: np.asarray(x, np.float64), params["generator"])
    expected = numpy_transformer(plain, tiny.generator, *(np.asarray(x) for x in (lr, hr, mask)))
    found = run(lr, hr, mask)
    assert found.shape == (2, 64, 16) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_memory_serves_every_step(method, params, run):
    lr, mask = vectors(0), jnp.arange(64)[None] < jnp.array([[20], [50]])
    network, own = method.generator, params["generator"]
    memory = jax.jit(lambda lr: network.apply(own, lambda m: m.encode(lr)))(lr)
    assert [kv.key.shape for kv in memory] == [(2, 65, 2, 16)]
    decode = jax.jit(lambda *args: network.apply(own, lambda m: m.decode(*args)))
    for seed in (1, 2):
        hr = vectors(seed)
        np.testing.assert_allclose(decode(hr, mask, memory), run(lr, hr, mask), atol=1e-5)


def test_masked_tokens_do_not_matter_and_the_others_do(run):
    lr, hr = vectors(0), vectors(1)
    mask = jax.random.bernoulli(jax.random.key(3), 0.5, (2, 64))
    garbage = jnp.where(mask[..., None], 1e3 * vectors(4), hr)
    np.testing.assert_array_equal(run(lr, hr, mask), run(lr, garbage, mask))
    visible = jnp.where(mask[..., None], hr, vectors(5))
    assert not jnp.allclose(run(lr, hr, mask), run(lr, visible, mask), atol=1e-3)
    assert not jnp.allclose(run(lr, hr, mask), run(vectors(6), hr, mask), atol=1e-3)


def test_critic_has_no_mask_token(method, params):
    assert "mask_token" in params["generator"] and "mask_token" not in params["critic"]
    logits = jax.eval_shape(
        lambda p, x: method.critic.apply(p, lambda m: m.decode(x, None, m.encode(x))),
        params["critic"],
        vectors(0),
    )
    assert logits.shape == (2, 64, 1) and logits.dtype == jnp.float32


def test_remat_and_bfloat16_leave_the_function(tiny, params):
    def evaluate(dtype, transform, remat=False):
        network = Network(
            lambda rngs: TokenTransformer(tiny.generator, dtype=dtype, rngs=rngs, remat=remat)
        )

        def loss(own, lr, hr):
            module, mask = network.bind(own), jnp.arange(64)[None] < jnp.full((1, 1), 9)
            return jnp.mean(module.decode(hr, mask, module.encode(lr)) ** 2)

        arguments = params["generator"], vectors(0, 1), vectors(1, 1)
        return jax.jit(transform(loss))(*arguments)

    both = jax.value_and_grad
    value, grads = evaluate(jnp.float32, both)
    again, same = evaluate(jnp.float32, both, remat=True)
    np.testing.assert_allclose(value, again, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    rough = evaluate(jnp.bfloat16, lambda loss: loss)
    np.testing.assert_allclose(value, rough, rtol=0.05)
