"""Vector quantisation with an exponential-moving-average codebook, as pure functions.

All sums run over the batch axis of a global array: under ``jit`` with a sharded batch they are sums
over the whole global batch, so the codebook is the same on every device and every mesh.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskgit_sr.arrays import Scalar

_DECAY, _EPS = 0.99, 1e-5


class CodebookStats(NamedTuple):
    """Running averages of vector quantisation (van den Oord et al. 2017, appendix A.1).

    Attributes:
        embedding: [K, C], the codes: ``sums`` / smoothed ``counts``.
        counts: [K], how many vectors of a batch chose each code.
        sums: [K, C], sum of those vectors.
    """

    embedding: Float[Array, "K C"]
    counts: Float[Array, " K"]
    sums: Float[Array, "K C"]


def init(key: jax.Array, codes: int, width: int) -> CodebookStats:
    """Returns unit-normal codes without history; the first update restarts the rarely chosen."""
    embedding = jax.random.normal(key, (codes, width), jnp.float32)
    return CodebookStats(embedding, jnp.zeros((codes,), jnp.float32), embedding)


def continued(embedding: Float[Array, "K C"]) -> CodebookStats:
    """Returns statistics that continue trained codes; counts are too high for an early restart."""
    # 2 · 0.99ⁿ falls below 1, where codes restart, only after 69 updates without a use.
    counts = jnp.full(embedding.shape[:1], 2.0, jnp.float32)
    return CodebookStats(embedding, counts, embedding * 2.0)


def nearest(vectors: Float[Array, "*n C"], embedding: Float[Array, "K C"]) -> Int[Array, "*n"]:
    """Returns the index of the nearest code in Euclidean distance; ties go to the lower index."""
    found = jnp.argmin(distances(vectors, embedding), axis=-1)
    return found.astype(jnp.int32).reshape(vectors.shape[:-1])


def distances(vectors: Float[Array, "*n C"], embedding: Float[Array, "K C"]) -> Float[Array, "M K"]:
    """Returns the squared Euclidean distances of all M vectors to all codes, float32."""
    # |v|² + |e|² − 2·v·e subtracts numbers of nearly equal size. In bfloat16, or in the reduced
    # precision of accelerators' float32 products, the rest is noise and changes tokens.
    flat = vectors.astype(jnp.float32).reshape(-1, vectors.shape[-1])
    embedding = embedding.astype(jnp.float32)
    return (
        jnp.sum(flat**2, 1, keepdims=True)
        + jnp.sum(embedding**2, 1)[None]
        - 2 * jnp.matmul(flat, embedding.T, precision="highest")
    )


def update(
    stats: CodebookStats,
    vectors: Float[Array, "M C"],
    indices: Int[Array, " M"],
    key: jax.Array,
) -> CodebookStats:
    """Returns the statistics after one EMA step over all M vectors of the global batch.

    A code whose EMA count falls below 1 restarts at a random vector of the batch; where M < K, the
    vectors are first tiled with small noise (as in RQ-VAE).
    """
    codes = stats.embedding.shape[0]
    # The codebook follows averages; no gradient may reach the encoder through it.
    vectors = jax.lax.stop_gradient(vectors.astype(jnp.float32))
    one_hot = jax.nn.one_hot(indices, codes, dtype=jnp.float32)
    counts = _DECAY * stats.counts + (1 - _DECAY) * one_hot.sum(0)
    sums = _DECAY * stats.sums + (1 - _DECAY) * jnp.matmul(one_hot.T, vectors, precision="highest")

    pick_key, noise_key = jax.random.split(key)
    candidates = _tile_with_noise(vectors, codes, noise_key)
    # Without replacement, so that no two codes restart at one vector.
    picks = jax.random.permutation(pick_key, candidates.shape[0])[:codes]
    alive = counts >= 1
    sums = jnp.where(alive[:, None], sums, candidates[picks])
    counts = jnp.where(alive, counts, 1.0)

    total = counts.sum()
    # Laplace smoothing, as in van den Oord et al.; the total stays the same.
    smoothed = total * (counts + _EPS) / (total + codes * _EPS)
    return CodebookStats(sums / smoothed[:, None], counts, sums)


def _tile_with_noise(
    vectors: Float[Array, "M C"], codes: int, key: jax.Array
) -> Float[Array, "L C"]:
    m, width = vectors.shape
    if m >= codes:
        return vectors
    # With noise, because of equal codes only the one of the lowest index is ever chosen.
    repeats = -(-codes // m)
    tiled = jnp.tile(vectors, (repeats, 1))
    return tiled + jax.random.normal(key, tiled.shape) * (0.01 / width**0.5)


def commitment(vectors: Float[Array, "*n C"], quantized: Float[Array, "*n C"]) -> Scalar:
    """Returns the mean squared distance to the codes; its gradient goes to the encoder alone."""
    return jnp.mean(jnp.square(vectors - jax.lax.stop_gradient(quantized)))


def straight_through(
    vectors: Float[Array, "*n C"], quantized: Float[Array, "*n C"]
) -> Float[Array, "*n C"]:
    """Returns the codes' values with the vectors' gradient (straight-through estimator)."""
    return vectors + jax.lax.stop_gradient(quantized - vectors)


def perplexity(indices: Int[Array, "*n"], codes: int) -> Scalar:
    """Returns exp(entropy) of the codes' frequencies in a batch, from 1 to K."""
    use = jnp.bincount(indices.reshape(-1), length=codes) / indices.size
    return jnp.exp(-jnp.sum(use * jnp.log(use + 1e-10)))  # 0 · log 0 of unused codes is 0
