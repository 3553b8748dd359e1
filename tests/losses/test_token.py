"""losses.token against NumPy."""

import jax.numpy as jnp
import numpy as np

from maskgit_sr.losses.token import accuracy, critic_cross_entropy, masked_cross_entropy

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (3, 10, 5)).astype(np.float32)
TARGETS = RNG.integers(5, size=(3, 10))
MASK = RNG.random((3, 10)) < [[0.2], [0.5], [0.9]]


def test_masked_cross_entropy_is_over_masked_positions_of_the_batch():
    log_probability = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_probability, TARGETS[..., None], -1)[..., 0]
    found = masked_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS), jnp.asarray(MASK))
    np.testing.assert_allclose(found, -picked[MASK].mean(), rtol=1e-5)


def test_smoothing_gives_all_tokens_a_share():
    log_probability = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    target = 0.9 * np.eye(5)[TARGETS] + 0.1 / 5
    expected = -(target * log_probability).sum(-1)[MASK].mean()
    given = (jnp.asarray(LOGITS), jnp.asarray(TARGETS), jnp.asarray(MASK))
    np.testing.assert_allclose(masked_cross_entropy(*given, smoothing=0.1), expected, rtol=1e-5)


def test_nothing_masked_is_zero():
    empty = jnp.zeros_like(jnp.asarray(MASK))
    assert masked_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS), empty) == 0
    assert accuracy(jnp.asarray(LOGITS), jnp.asarray(TARGETS), empty) == 0


def test_critic_cross_entropy_labels_masked_positions_one():
    logits = LOGITS[..., 0]
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.where(MASK, np.log(probability), np.log(1 - probability)).mean()
    found = critic_cross_entropy(jnp.asarray(logits), jnp.asarray(MASK))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_accuracy():
    expected = (LOGITS.argmax(-1) == TARGETS)[MASK].mean()
    found = accuracy(jnp.asarray(LOGITS), jnp.asarray(TARGETS), jnp.asarray(MASK))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
