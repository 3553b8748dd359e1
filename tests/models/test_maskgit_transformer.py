"""models.maskgit_transformer: the public code's numbers, positions, the head's rows, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.convert.maskgit import from_official
from maskgit_sr.losses.token import masked_cross_entropy
from maskgit_sr.models.fields import from_mapping
from maskgit_sr.models.functional import Network, count, flatten
from maskgit_sr.models.maskgit_transformer import (
    MaskGITTransformer,
    MaskGITTransformerConfig,
    prepend,
)
from tests.models.maskgit_oracle import TINY, agree, golden, inputs

CONFIG = TINY.transformer


def build(config=CONFIG, dtype=jnp.float32, remat=False):
    return Network(lambda rngs: MaskGITTransformer(config, dtype=dtype, rngs=rngs, remat=remat))


@pytest.fixture(scope="module")
def stored():
    return golden()[0]


@pytest.fixture(scope="module")
def params():
    return from_official(golden()[1][1], CONFIG)


@pytest.fixture(scope="module")
def run(params):
    """Jitted logits of rows and positions."""
    network = build()
    return jax.jit(lambda *args, **more: network.apply(params, lambda m: m(*args, **more)))


@pytest.fixture(scope="module")
def rows():
    return jnp.asarray(inputs()[2])


@pytest.mark.parametrize(("positions", "expected"), [(1025, 173_047_017), (257, 172_457_193)])
def test_published_counts(positions, expected):
    config = MaskGITTransformerConfig(positions=positions)
    assert count(build(config).shapes) == expected
    assert (config.vocabulary, config.mask, config.no_class) == (2025, 2024, 2024)


def test_public_numbers(stored, run, rows):
    """Logits with a class in front and without one, where the positions shift by one."""
    sequence = prepend(rows, CONFIG.codes)
    found = run(sequence)
    assert found.shape == (2, 17, 24) and found.dtype == jnp.float32
    agree(found, stored["with_class"])
    agree(run(rows), stored["without_class"])
    agree(run(rows, jnp.arange(16)), stored["without_class"])
    fitting = run(rows, 1 + jnp.arange(16))
    assert np.abs(fitting - stored["without_class"]).max() > 0.1


def test_public_loss_and_gradient(stored, params, rows):
    tokens = jnp.asarray(inputs()[1])

    def loss(params):
        logits = build().apply(params, lambda m: m(rows))
        return masked_cross_entropy(logits, tokens, jnp.ones_like(tokens, bool))

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    agree(value, stored["loss"])
    expected = stored["gradient/Embed_0/position_embeddings/embedding"]
    agree(grads["positions"]["embedding"], expected, 1e-3)
    # Rows that are not predicted learn no bias; the mask is learnt as an input all the same.
    assert not np.any(grads["head"]["bias"][CONFIG.codes :])
    assert np.any(grads["words"]["embedding"][CONFIG.mask])
    assert not np.any(grads["words"]["embedding"][CONFIG.codes : CONFIG.mask])


def test_prepend():
    tokens = jnp.arange(6, dtype=jnp.int32).reshape(2, 3)
    np.testing.assert_array_equal(prepend(tokens, 9), [[9, 0, 1, 2], [9, 3, 4, 5]])
    np.testing.assert_array_equal(prepend(tokens, jnp.array([7, 8]))[:, 0], [7, 8])


def test_mask_is_the_last_row(run, rows):
    public = jnp.where(rows == CONFIG.mask, -1, rows)
    np.testing.assert_array_equal(run(public), run(rows))


def test_no_class_is_a_vector_of_its_own(run, rows, params):
    """It differs from each class, and its position's embedding reaches no other sequence."""
    sequence = prepend(rows, CONFIG.no_class)
    assert np.abs(run(sequence) - run(prepend(rows, CONFIG.codes))).max() > 0.01
    table = params["positions"]["embedding"].copy()
    table[0] *= -1.0
    network, moved = build(), params | {"positions": {"embedding": table}}
    logits = jax.jit(lambda *args: network.apply(moved, lambda m: m(*args)))
    assert np.abs(logits(sequence) - run(sequence)).max() > 0.01
    fitting = 1 + jnp.arange(16)
    np.testing.assert_array_equal(logits(rows, fitting), run(rows, fitting))


def test_added_embeddings(run, rows, params):
    other = params["words"]["embedding"][inputs()[1]]
    words = params["words"]["embedding"][np.asarray(rows)]
    moved = run(jnp.asarray(inputs()[1]))
    agree(run(rows, added=jnp.asarray(other - words)), moved)
    np.testing.assert_array_equal(run(rows, added=jnp.zeros((2, 16, 32))), run(rows))


def test_no_product_has_the_whole_vocabulary(params, rows):
    network = build()
    jaxpr = jax.make_jaxpr(lambda p: network.apply(p, lambda m: m(rows)))(params)
    text = str(jaxpr)
    assert f",{CONFIG.codes}]" in text and f"16,{CONFIG.vocabulary}]" not in text


def test_too_long_a_sequence_is_refused(params):
    with pytest.raises(ValueError, match="expected at most 17 rows, found 18"):
        build().apply(params, lambda m: m(jnp.zeros((1, 18), jnp.int32)))


def test_dropout_needs_a_rate_and_a_key(params, run, rows):
    key = jax.random.key(0)

    def logits(rate, key):
        network = build(dataclasses.replace(CONFIG, dropout=rate))
        return jax.jit(lambda: network.apply(params, lambda m: m(rows, key=key)))()

    plain = run(rows)
    np.testing.assert_array_equal(logits(0.0, key), plain)
    np.testing.assert_array_equal(logits(0.1, None), plain)
    dropped = logits(0.1, key)
    assert np.abs(dropped - plain).max() > 0.1
    np.testing.assert_array_equal(logits(0.1, key), dropped)
    assert np.abs(logits(0.1, jax.random.key(1)) - dropped).max() > 0.1
    # So rarely that only the other way to attend is left.
    agree(logits(1e-9, key), plain)


def test_remat_and_bfloat16_leave_the_function(params, rows):
    tokens = jnp.asarray(inputs()[1])

    def evaluate(dtype, transform, remat=False):
        network = build(dataclasses.replace(CONFIG, dropout=0.1), dtype, remat)

        def loss(own):
            logits = network.apply(own, lambda m: m(rows, key=jax.random.key(0)))
            assert logits.dtype == jnp.float32
            return masked_cross_entropy(logits, tokens, jnp.ones_like(tokens, bool))

        return jax.jit(transform(loss))(params)

    value, grads = evaluate(jnp.float32, jax.value_and_grad)
    again, same = evaluate(jnp.float32, jax.value_and_grad, remat=True)
    np.testing.assert_allclose(value, again, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(value, evaluate(jnp.bfloat16, lambda loss: loss), rtol=0.05)


def test_a_fresh_network_is_near_uniform():
    """Published initialisation: truncated normal of 0.02, no biases, norms of one."""
    fresh = flatten(build(dataclasses.replace(CONFIG, dim=128)).init(jax.random.key(0)))
    for name, leaf in fresh.items():
        if name.endswith(("/kernel", "/embedding")):
            assert np.abs(leaf).max() <= 0.04 and np.std(leaf) == pytest.approx(0.0176, rel=0.1)
        else:
            assert np.all(leaf == (1.0 if name.endswith("/scale") else 0.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(heads=7), "transformer.heads: expected a divisor of 768"),
        (dict(dropout=1.0), "transformer.dropout: expected 0 to 0.99, found 1.0"),
        (dict(depth=0), "transformer.depth: expected 1 to 1024, found 0"),
    ],
)
def test_sizes_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        from_mapping(MaskGITTransformerConfig, changes, "transformer")
