"""models.codebook against NumPy, and the same on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from maskgit_sr.models import codebook
from maskgit_sr.training.sharding import make_mesh

CODES, WIDTH = 6, 4
update = jax.jit(codebook.update)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def stats():
    embedding = normal(0, CODES, WIDTH)
    counts = np.array([50, 3, 1.005, 0.9, 20, 1.2], np.float32)
    return codebook.CodebookStats(embedding, counts, embedding * counts[:, None])


def test_nearest_is_euclidean_with_ties_to_the_lower_index():
    embedding, vectors = normal(0, CODES, WIDTH), normal(1, 2, 3, WIDTH)
    embedding[4] = embedding[2]
    vectors[0, 0] = embedding[4]
    distance = ((vectors[..., None, :] - embedding) ** 2).sum(-1)
    found = codebook.nearest(jnp.asarray(vectors), jnp.asarray(embedding))
    assert found.dtype == jnp.int32 and found[0, 0] == 2
    np.testing.assert_array_equal(found, distance.argmin(-1))


@pytest.mark.parametrize("vectors", [24, 4], ids=["more vectors than codes", "fewer"])
def test_update_is_the_published_rule(vectors):
    before = stats()
    x = normal(1, vectors, WIDTH)
    indices = np.random.default_rng(2).choice([0, 1, 3], vectors)  # 2, 4 and 5 go unused
    key = jax.random.key(3)
    found = update(before, jnp.asarray(x), jnp.asarray(indices), key)

    counts, sums = np.zeros(CODES), np.zeros((CODES, WIDTH))
    for code in range(CODES):
        mine = x[indices == code]
        counts[code] = 0.99 * before.counts[code] + 0.01 * len(mine)
        sums[code] = 0.99 * before.sums[code] + 0.01 * mine.sum(0)
    dead = counts < 1
    assert dead[2] and not dead[5]
    np.testing.assert_allclose(found.sums[~dead], sums[~dead], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.counts, np.where(dead, 1, counts), rtol=1e-5)
    # a dead code becomes a vector of the batch, each one another vector (noise only if too few)
    distance = np.linalg.norm(np.asarray(found.sums)[dead][:, None] - x, axis=-1)
    assert distance.min(1).max() <= (1e-6 if vectors >= CODES else 0.05)
    if vectors >= CODES:
        assert len(set(distance.argmin(1))) == dead.sum()
    total = np.where(dead, 1, counts).sum()
    smoothed = total * (np.asarray(found.counts) + 1e-5) / (total + CODES * 1e-5)
    expected = np.asarray(found.sums) / smoothed[:, None]
    np.testing.assert_allclose(found.embedding, expected, rtol=1e-5)


def test_a_fresh_codebook_becomes_vectors_of_the_first_batch():
    x = jnp.asarray(normal(1, 32, WIDTH))
    fresh = codebook.init(jax.random.key(0), CODES, WIDTH)
    found = update(fresh, x, codebook.nearest(x, fresh.embedding), jax.random.key(1))
    distance = jnp.linalg.norm(found.embedding[:, None] - x[None], axis=-1)
    np.testing.assert_allclose(distance.min(1), 0, atol=1e-4)
    np.testing.assert_array_equal(found.counts, 1)


def test_global_batch_gives_one_codebook():
    x = jnp.asarray(normal(1, 32, WIDTH))
    before = stats()
    indices = codebook.nearest(x, before.embedding)
    alone = update(before, x, indices, jax.random.key(3))
    mesh = make_mesh()
    assert mesh.size == 8
    split = jax.device_put((x, indices), NamedSharding(mesh, P("data")))
    assert len(split[0].sharding.device_set) == 8
    together = update(before, *split, jax.random.key(3))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_gradients():
    x, quantized = jnp.asarray(normal(0, 3, WIDTH)), jnp.asarray(normal(1, 3, WIDTH))
    value, grads = jax.value_and_grad(codebook.commitment, (0, 1))(x, quantized)
    np.testing.assert_allclose(value, np.mean((x - quantized) ** 2), rtol=1e-6)
    np.testing.assert_allclose(grads[0], 2 * (x - quantized) / x.size, rtol=1e-5)
    np.testing.assert_array_equal(grads[1], 0)
    np.testing.assert_allclose(codebook.straight_through(x, quantized), quantized, atol=1e-6)
    weight = normal(2, 3, WIDTH)
    grads = jax.grad(lambda *a: jnp.sum(weight * codebook.straight_through(*a)), (0, 1))
    np.testing.assert_array_equal(grads(x, quantized)[0], weight)
    np.testing.assert_array_equal(grads(x, quantized)[1], 0)


def test_perplexity():
    even = jnp.arange(CODES).repeat(3)
    np.testing.assert_allclose(codebook.perplexity(even, CODES), CODES, rtol=1e-5)
    np.testing.assert_allclose(codebook.perplexity(jnp.zeros(9, int), CODES), 1, rtol=1e-5)
