"""decoding.masked: the loop against NumPy, how often the networks run, what may change when."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.decoding.masked import Canvas, blank, decode
from maskgit_sr.decoding.rules import ConfidenceRule, CriticRule, Drawn, SamplingRule
from maskgit_sr.ops.masking import top_mask
from maskgit_sr.ops.schedules import mask_counts

BATCH, TOKENS, CODES = 2, 24, 7
RNG = np.random.default_rng(0)
BIAS = RNG.normal(size=(BATCH, TOKENS, CODES)).astype(np.float32)
PULL = RNG.normal(size=(CODES + 1, CODES)).astype(np.float32)  # a neighbour's token, or the mask
JUDGED = RNG.normal(size=(BATCH, TOKENS, CODES)).astype(np.float32)
RULES = ("critic", "confidence")


def generate(np, tokens, mask):
    """Logits that depend on the neighbours' tokens where those are known."""
    left = np.roll(np.where(mask, CODES, tokens), 1, axis=1)
    return BIAS + np.take(PULL, left, axis=0)


def critic_logits(np, tokens):
    """Critic logits that depend on the tokens and on their right neighbours."""
    own = np.take_along_axis(np.asarray(JUDGED), tokens[..., None], axis=-1)[..., 0]
    return own + 2 * np.take(PULL[:, 0], np.roll(tokens, -1, axis=1), axis=0)


def keys(*seeds):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def rule(name, critic=None):
    critic = critic or partial(critic_logits, jnp)
    return CriticRule(critic) if name == "critic" else ConfidenceRule()


def run(name, steps, **options):
    keys = jax.random.split(jax.random.key(0), BATCH)
    decode_all = partial(decode, partial(generate, jnp), rule(name), **options)
    counts = jnp.asarray(mask_counts(steps, TOKENS))
    return jax.jit(lambda keys: decode_all(blank(BATCH, TOKENS), counts, keys))(keys)


class Recorder:
    """Decodes step by step in Python and keeps what the networks were asked."""

    def __init__(self, name, steps, schedule="sqrt", batch=1, canvas=None, counts=None, **options):
        self.tokens, self.masks, self.judged = [], [], []

        def record(tokens, mask):
            self.tokens.append(np.asarray(tokens))
            self.masks.append(np.asarray(mask))
            both = (jnp.repeat(x, BATCH // batch, 0) for x in (tokens, mask))
            return generate(jnp, *both)[:batch]

        def judge(tokens):
            self.judged.append(np.asarray(tokens))
            return critic_logits(jnp, jnp.repeat(tokens, BATCH // batch, 0))[:batch]

        canvas = blank(batch, TOKENS) if canvas is None else canvas
        counts = mask_counts(steps, TOKENS, schedule) if counts is None else counts
        chosen = name if not isinstance(name, str) else rule(name, judge)
        with jax.disable_jit():
            self.result = decode(
                record, chosen, canvas, jnp.asarray(counts), keys(*range(batch)), **options
            )


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("steps", "confidence"), [(1, True), (4, False), (6, True)])
def test_how_often_networks_run(name, steps, confidence):
    recorder = Recorder(name, steps, "cosine", confidence=confidence)
    assert len(recorder.tokens) == steps
    assert len(recorder.judged) == (steps - 1 + confidence if name == "critic" else 0)
    assert (recorder.result.confidence is not None) == confidence


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("schedule", ["sqrt", "cosine"])
def test_exactly_the_scheduled_number_is_masked(name, schedule):
    recorder = Recorder(name, 5, schedule)
    expected = [TOKENS, *mask_counts(5, TOKENS, schedule)[:-1]]
    assert [mask.sum() for mask in recorder.masks] == expected
    final = np.asarray(recorder.result.tokens)
    assert ((final >= 0) & (final < CODES)).all()


def test_tokens_kept_by_confidence_stay():
    recorder = Recorder("confidence", 6)
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
    recorder = Recorder("critic", 8)
    masks, tokens = recorder.masks, [*recorder.tokens, np.asarray(recorder.result.tokens)]
    assert any((after & ~before).any() for before, after in pairwise(masks))
    for mask, before, after in zip(masks, tokens, tokens[1:], strict=False):
        np.testing.assert_array_equal(before[~mask], after[~mask])  # until then it stays


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("steps", [1, 5])
def test_greedy_decoding_is_the_numpy_loop(name, steps):
    tokens = np.zeros((BATCH, TOKENS), np.int32)
    mask = np.ones((BATCH, TOKENS), bool)
    chosen = np.zeros((BATCH, TOKENS))
    for count in mask_counts(steps, TOKENS):
        logits = generate(np, tokens, mask).astype(np.float64)
        best = logits.argmax(-1)
        probability = np.exp(logits.max(-1)) / np.exp(logits).sum(-1)
        tokens, chosen = np.where(mask, best, tokens), np.where(mask, probability, chosen)
        kept_last = np.where(mask, -chosen, -np.inf)
        scores = critic_logits(np, tokens) if name == "critic" else kept_last
        mask = np.zeros_like(mask)
        for row, order in zip(mask, np.argsort(-scores, axis=-1, kind="stable"), strict=True):
            row[order[:count]] = True
    assert not mask.any()
    found = run(name, steps, confidence=True)
    np.testing.assert_array_equal(found.tokens, tokens)
    expected = 1 / (1 + np.exp(critic_logits(np, tokens))) if name == "critic" else chosen
    np.testing.assert_allclose(found.confidence, expected, rtol=1e-5)


def known_canvas(start=(0, 0)):
    """Every third token is given, another third in the second example."""
    tokens = RNG.integers(0, CODES, (BATCH, TOKENS)).astype(np.int32)
    known = (np.arange(TOKENS) % 3)[None] == np.arange(BATCH)[:, None]
    return Canvas(jnp.asarray(tokens), jnp.asarray(known), jnp.asarray(start, jnp.int32))


@pytest.mark.parametrize("name", [*RULES, SamplingRule(lambda tokens: jnp.full(tokens.shape, 0.5))])
def test_given_tokens_never_change(name):
    canvas = known_canvas()
    recorder = Recorder(name, 5, batch=BATCH, canvas=canvas, redraw=True)
    known = np.asarray(canvas.known)
    for tokens, mask in zip(recorder.tokens, recorder.masks, strict=True):
        assert not (mask & known).any()
        np.testing.assert_array_equal(tokens[known], np.asarray(canvas.tokens)[known])
    free = (~known).sum(1)
    for mask, count in zip(recorder.masks[1:], mask_counts(5, TOKENS), strict=False):
        np.testing.assert_array_equal(mask.sum(1), np.minimum(count, free))
    final = np.asarray(recorder.result.tokens)
    np.testing.assert_array_equal(final[known], np.asarray(canvas.tokens)[known])


def test_examples_may_have_counts_and_first_steps_of_their_own():
    canvas = known_canvas(start=(2, 4))
    counts = np.array([[9, 6, 3, 0], [8, 8, 8, 0]])
    recorder = Recorder("confidence", 4, batch=BATCH, canvas=canvas, counts=counts)
    first = [mask[0].sum() for mask in recorder.masks]
    free = int((~np.asarray(canvas.known))[0].sum())
    assert first == [free, free, free, 3]  # nothing happens before step 2
    # the second one never starts, and keeps what it was given everywhere
    np.testing.assert_array_equal(recorder.result.tokens[1], canvas.tokens[1])


def test_all_may_begin_at_a_later_step():
    """Without the passes before it, and to the same tokens as where each example waits for it."""
    counts = np.array([9, 6, 3, 0])
    waiting = known_canvas(start=(2, 2))
    more = dict(batch=BATCH, counts=counts, temperature=1.0)
    slow = Recorder("confidence", 4, canvas=waiting, **more)
    ready = waiting._replace(start=jnp.zeros_like(waiting.start))
    fast = Recorder("confidence", 4, canvas=ready, first=2, **more)
    assert len(fast.masks) == 2 and len(slow.masks) == 4
    np.testing.assert_array_equal(fast.masks[1], slow.masks[3])
    np.testing.assert_array_equal(fast.result.tokens, slow.result.tokens)


def test_gumbel_noise_is_annealed_and_the_examples_own():
    tokens = jnp.zeros((2, 500), jnp.int32)
    probability = jnp.full((2, 500), 0.5)
    mask = jnp.arange(500)[None] < jnp.array([[250], [500]])

    def priority(step, *seeds):
        drawn = Drawn(tokens, mask, probability, step, 4)
        return np.asarray(ConfidenceRule(noise=4.5).priority(drawn, keys(*seeds)))

    first = priority(0, 1, 2)
    assert (
        np.isneginf(first[~np.asarray(mask)]).all() and np.isfinite(first[np.asarray(mask)]).all()
    )
    np.testing.assert_array_equal(first[1], priority(0, 5, 2)[1])
    assert (first != priority(0, 3, 4))[:, :250].all()
    # −(log p + 4.5·(1 − (t+1)/T)·G): the deviation of G is π/√6
    for step, share in ((0, 0.75), (1, 0.5), (2, 0.25)):
        spread = priority(step, 1, 2)[1].std() / (4.5 * share)
        assert spread == pytest.approx(np.pi / 6**0.5, rel=0.15)
    np.testing.assert_allclose(priority(3, 1, 2)[1], -np.log(0.5), rtol=1e-5)


def test_sampled_positions_follow_their_probabilities_without_replacement():
    """Two of five kept: χ² of the pairs against the exact sequential probabilities."""
    weight = np.array([0.05, 0.1, 0.2, 0.25, 0.4])
    draws, tokens = 40_000, jnp.zeros((40_000, 5), jnp.int32)
    sampling = SamplingRule(lambda tokens: jnp.broadcast_to(jnp.asarray(weight), tokens.shape))
    drawn = Drawn(tokens, jnp.ones((draws, 5), bool), jnp.ones((draws, 5)), 0, 4)
    priority = sampling.priority(drawn, jax.random.split(jax.random.key(1), draws))
    kept = ~np.asarray(top_mask(priority, jnp.int32(3)))
    assert (kept.sum(1) == 2).all()
    chi = 0.0
    for a in range(5):
        for b in range(a + 1, 5):
            p, q = weight[a], weight[b]
            expected = draws * (p * q / (1 - p) + q * p / (1 - q))
            chi += ((kept[:, a] & kept[:, b]).sum() - expected) ** 2 / expected
    assert chi < 21.67  # 9 degrees of freedom, p = 0.01
    some = drawn._replace(mask=jnp.arange(5)[None] > jnp.zeros((draws, 1), jnp.int32))
    assert np.isneginf(
        sampling.priority(some, jax.random.split(jax.random.key(1), draws))[:, 0]
    ).all()


def test_redrawing_changes_kept_tokens():
    logits = jnp.zeros((1, TOKENS, CODES))
    counts = jnp.asarray(mask_counts(3, TOKENS))
    seen = []

    def generate(tokens, mask):
        seen.append((np.asarray(tokens), np.asarray(mask)))
        return logits

    with jax.disable_jit():
        decode(
            generate, ConfidenceRule(), blank(1, TOKENS), counts, keys(0), temperature=1.0,
            redraw=True,
        )  # fmt: skip
    kept = ~seen[1][1] & ~seen[2][1]
    assert kept.any() and (seen[1][0] != seen[2][0])[kept].any()


def test_sampling_follows_the_tiles_own_key():
    pull = jnp.asarray(PULL)
    counts = jnp.asarray(mask_counts(4, TOKENS))

    @jax.jit
    def sample(keys):
        return decode(
            lambda tokens, mask: jnp.take(pull, jnp.where(mask, CODES, tokens), axis=0),
            ConfidenceRule(),
            blank(BATCH, TOKENS),
            counts,
            keys,
            temperature=1.0,
        ).tokens

    first = sample(keys(1, 2))
    np.testing.assert_array_equal(first, sample(keys(1, 2)))
    np.testing.assert_array_equal(first[::-1], sample(keys(2, 1)))
    assert (first[0] != first[1]).any() and (first != sample(keys(3, 4))).any()


def test_low_temperature_is_greedy_and_high_is_even():
    logits = jnp.broadcast_to(jnp.arange(CODES) / 2, (BATCH, 4000, CODES))

    def share(temperature):
        tokens = decode(
            lambda *_: logits, ConfidenceRule(), blank(BATCH, 4000), jnp.zeros(1, jnp.int32),
            keys(0, 1), temperature=temperature,
        ).tokens  # fmt: skip
        return np.bincount(np.asarray(tokens).ravel(), minlength=CODES) / tokens.size

    np.testing.assert_array_equal(share(1e-3), np.eye(CODES)[-1])
    expected = np.exp(np.arange(CODES) * 0.5)
    np.testing.assert_allclose(share(1.0), expected / expected.sum(), atol=0.03)
    np.testing.assert_allclose(share(100.0), 1 / CODES, atol=0.03)
