"""decoding.masked: the loop against NumPy, how often the networks run, what may change when."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from maskgit_sr.decoding.policies import Policy

from maskgit_sr.decoding.masked import decode
from maskgit_sr.ops.schedules import mask_counts

BATCH, TOKENS, CODES = 2, 24, 7
RNG = np.random.default_rng(0)
BIAS = RNG.normal(size=(BATCH, TOKENS, CODES)).astype(np.float32)
PULL = RNG.normal(size=(CODES + 1, CODES)).astype(np.float32)  # a neighbour's token, or the mask
DOUBT = RNG.normal(size=(BATCH, TOKENS, CODES)).astype(np.float32)
POLICIES = ("critic", "generator")


def generate(np, tokens, mask):
    """Logits that depend on the neighbours' tokens where those are known."""
    left = np.roll(np.where(mask, CODES, tokens), 1, axis=1)
    return BIAS + np.take(PULL, left, axis=0)


def doubt(np, tokens):
    """Critic logits that depend on the tokens and on their right neighbours."""
    own = np.take_along_axis(np.asarray(DOUBT), tokens[..., None], axis=-1)[..., 0]
    return own + 2 * np.take(PULL[:, 0], np.roll(tokens, -1, axis=1), axis=0)


def keys(*seeds):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def run(policy, keys=None):
    keys = jax.random.split(jax.random.key(0), BATCH) if keys is None else keys
    decode_all = partial(decode, partial(generate, jnp), partial(doubt, jnp), BATCH, TOKENS, policy)
    return jax.jit(decode_all)(keys)


class Recorder:
    """Decodes step by step in Python and keeps what the networks were asked."""

    def __init__(self, policy, batch=1):
        self.tokens, self.masks, self.judged = [], [], []

        def record(tokens, mask):
            self.tokens.append(np.asarray(tokens))
            self.masks.append(np.asarray(mask))
            return generate(jnp, jnp.repeat(tokens, BATCH, 0), jnp.repeat(mask, BATCH, 0))[:batch]

        def judge(tokens):
            self.judged.append(np.asarray(tokens))
            return doubt(jnp, jnp.repeat(tokens, BATCH, 0))[:batch]

        with jax.disable_jit():
            self.result = decode(record, judge, batch, TOKENS, policy, keys(*range(batch)))


@pytest.mark.parametrize("confidence", POLICIES)
@pytest.mark.parametrize(("steps", "score"), [(1, True), (4, False), (6, True)])
def test_how_often_networks_run(confidence, steps, score):
    policy = Policy(steps, confidence, "cosine", score=score)
    recorder = Recorder(policy)
    critic = confidence == "critic"
    assert len(recorder.tokens) == steps
    assert len(recorder.judged) == (steps - 1 + score if critic else 0)
    assert (recorder.result.confidence is not None) == score


@pytest.mark.parametrize("confidence", POLICIES)
@pytest.mark.parametrize("schedule", ["sqrt", "cosine"])
def test_exactly_the_scheduled_number_is_masked(confidence, schedule):
    recorder = Recorder(Policy(5, confidence, schedule))
    expected = [TOKENS, *mask_counts(5, TOKENS, schedule)[:-1]]
    assert [mask.sum() for mask in recorder.masks] == expected
    final = np.asarray(recorder.result.tokens)
    assert ((final >= 0) & (final < CODES)).all()


def test_tokens_kept_by_the_generator_stay():
    recorder = Recorder(Policy(6, "generator"))
    final = np.asarray(recorder.result.tokens)
    for earlier, mask, later in zip(
        recorder.tokens,
        recorder.masks,
        [*recorder.masks[1:], np.zeros_like(final, bool)],
        strict=True,
    ):
        assert not (later & ~mask).any()  # never masked again
        np.testing.assert_array_equal(earlier[~mask], final[~mask])


def test_tokens_kept_by_the_critic_can_be_revoked():
    recorder = Recorder(Policy(8, "critic"))
    masks, tokens = recorder.masks, [*recorder.tokens, np.asarray(recorder.result.tokens)]
    assert any((after & ~before).any() for before, after in pairwise(masks))
    for mask, before, after in zip(masks, tokens, tokens[1:], strict=False):
        np.testing.assert_array_equal(before[~mask], after[~mask])  # until then it stays


@pytest.mark.parametrize("confidence", POLICIES)
@pytest.mark.parametrize("steps", [1, 5])
def test_greedy_decoding_is_the_numpy_loop(confidence, steps):
    tokens = np.zeros((BATCH, TOKENS), np.int32)
    mask = np.ones((BATCH, TOKENS), bool)
    chosen = np.zeros((BATCH, TOKENS))
    for count in mask_counts(steps, TOKENS):
        logits = generate(np, tokens, mask).astype(np.float64)
        best = logits.argmax(-1)
        probability = np.exp(logits.max(-1)) / np.exp(logits).sum(-1)
        tokens, chosen = np.where(mask, best, tokens), np.where(mask, probability, chosen)
        kept_last = np.where(mask, -chosen, -np.inf)
        scores = doubt(np, tokens) if confidence == "critic" else kept_last
        mask = np.zeros_like(mask)
        for row, order in zip(mask, np.argsort(-scores, axis=-1, kind="stable"), strict=True):
            row[order[:count]] = True
    assert not mask.any()
    found = run(Policy(steps, confidence, score=True))
    np.testing.assert_array_equal(found.tokens, tokens)
    expected = 1 / (1 + np.exp(doubt(np, tokens))) if confidence == "critic" else chosen
    np.testing.assert_allclose(found.confidence, expected, rtol=1e-5)


def test_sampling_follows_the_tiles_own_key():
    policy = Policy(4, "generator", temperature=1.0)
    sample = jax.jit(
        lambda keys: (
            decode(
                lambda tokens, mask: jnp.take(
                    jnp.asarray(PULL), jnp.where(mask, CODES, tokens), axis=0
                ),
                None,
                BATCH,
                TOKENS,
                policy,
                keys,
            ).tokens
        )
    )
    first = sample(keys(1, 2))
    np.testing.assert_array_equal(first, sample(keys(1, 2)))
    np.testing.assert_array_equal(first[::-1], sample(keys(2, 1)))
    assert (first[0] != first[1]).any() and (first != sample(keys(3, 4))).any()


def test_low_temperature_is_greedy_and_high_is_even():
    logits = jnp.broadcast_to(jnp.arange(CODES) * 0.5, (BATCH, 4000, CODES))

    def share(temperature):
        policy = Policy(1, "generator", temperature=temperature)
        tokens = decode(lambda *_: logits, None, BATCH, 4000, policy, keys(0, 1)).tokens
        return np.bincount(np.asarray(tokens).ravel(), minlength=CODES) / tokens.size

    np.testing.assert_array_equal(share(1e-3), np.eye(CODES)[-1])
    expected = np.exp(np.arange(CODES) * 0.5)
    np.testing.assert_allclose(share(1.0), expected / expected.sum(), atol=0.03)
    np.testing.assert_allclose(share(100.0), 1 / CODES, atol=0.03)


def test_critic_policy_needs_a_critic():
    with pytest.raises(ValueError, match="confidence: .*no critic"):
        decode(partial(generate, jnp), None, BATCH, TOKENS, Policy(), keys(0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, found 0"),
        ({"confidence": "both"}, "confidence: expected one of critic, generator, found 'both'"),
        ({"temperature": -0.5}, "temperature: expected 0 or more, found -0.5"),
        ({"temperature": float("nan")}, "temperature"),
        ({"schedule": "quick"}, "mask schedule"),
    ],
)
def test_policy_errors_name_the_field(options, message):
    with pytest.raises(ValueError, match=message):
        Policy(**options)


def test_policy_is_hashable_and_knows_revocation():
    assert hash(Policy()) == hash(Policy(4, "critic", "sqrt", 0.0))
    assert Policy().revocable and not Policy(confidence="generator").revocable
