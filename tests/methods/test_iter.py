"""ITER: where decoding starts, what it keeps, how often its networks run, and its losses."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.losses.token import balanced_cross_entropy
from maskgit_sr.methods.iter import STARTS, plan
from maskgit_sr.methods.iter_training import ITER
from maskgit_sr.models.functional import Network
from maskgit_sr.models.unet_discriminator import UNetDiscriminator, UNetDiscriminatorConfig
from tests.methods import small

STEPS = 4
TABLE = {  # share of good tokens: steps, (released, Algorithm 2)
    "linear": {0.0: (8, 8), 0.3: (5, 6), 0.5: (4, 5), 0.7: (2, 3), 0.9: (0, 1)},
    "cosine": {0.0: (8, 8), 0.3: (3, 4), 0.5: (2, 3), 0.7: (1, 2), 0.9: (0, 1)},
}


@pytest.mark.parametrize("schedule", TABLE)
def test_steps_by_the_share_of_good_tokens(schedule):
    for share, expected in TABLE[schedule].items():
        kept = jnp.asarray([round(share * 1024)])
        found = [
            8 - int(plan(kept, 8, 1024, schedule, s)[0][0]) for s in ("released", "algorithm2")
        ]
        assert tuple(found) == expected, share


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("steps", "tokens"), [(8, 64), (5, 24), (8, 6), (1, 9)])
def test_every_step_keeps_more_until_all_are_kept(steps, tokens, start):
    """Against the rule step by step, for every number of good tokens."""
    kept = np.arange(tokens + 1)
    first, counts = (np.asarray(x) for x in plan(jnp.asarray(kept), steps, tokens, "linear", start))
    before = np.floor(np.arange(steps + 1) / np.float32(steps) * np.float32(tokens))
    before[-1] = tokens
    for good, begin, after in zip(kept, first, counts, strict=True):
        if start == "released":
            assert begin == min([i for i in range(steps) if before[i] >= good], default=steps)
        masked = tokens - good
        for step in range(begin, steps):
            wanted = tokens - before[step + 1]
            if start == "algorithm2":
                wanted = np.floor(tokens * (1 - np.float32(step + 1) / np.float32(steps)) + 1e-5)
            masked = max(0, min(wanted, masked - 1))
            assert abs(after[step] - masked) <= (start == "algorithm2" and tokens == 24)
        assert begin == steps or after[-1] == 0


@pytest.fixture(scope="module")
def method():
    return ITER(small.iter_config())


@pytest.fixture(scope="module")
def params(method):
    return small.random_params(method)


def lr_tokens(batch=2):
    return jnp.asarray(np.random.RandomState(0).randint(0, 16, (batch, 8, 8)), jnp.int32)


@pytest.fixture(scope="module")
def refine(method, params):
    return jax.jit(
        lambda tokens, keys, options, alpha: method.refine(
            params, tokens, keys, options.bind({"alpha": alpha})
        ),
        static_argnums=2,
    )


@pytest.fixture(scope="module")
def middle(method, params):
    """A value of α that some tokens of each example reach, more of one than of the other."""

    @jax.jit
    def rate(tokens):
        network = method.evaluation.bind(params["evaluation"])
        logits = network(tokens, network.condition(tokens))
        return jax.nn.sigmoid(logits[..., 1] - logits[..., 0])

    right = rate(lr_tokens())
    alpha = float(jnp.quantile(right, 0.7))
    kept = np.asarray((right >= alpha).sum((1, 2)))
    assert kept.min() > 0 and kept.max() < 40
    return alpha, np.asarray(right) >= alpha


def test_an_example_does_not_depend_on_its_batch(method, refine, middle):
    """Its start least of all: the public code takes all counts from the first example."""
    tokens, keys = lr_tokens(), jax.random.split(jax.random.key(1), 2)
    options = method.options(confidence=True)
    both = refine(tokens, keys, options, middle[0])
    for i in (0, 1):
        other = jnp.array([i, i])
        alone = refine(tokens[other], keys[other], options, middle[0])
        np.testing.assert_array_equal(both.tokens[i], alone.tokens[0])
        np.testing.assert_allclose(both.confidence[i], alone.confidence[0], atol=1e-5)


def test_no_refinement_is_needed_where_every_token_is_good(method, refine):
    keys = jax.random.split(jax.random.key(1), 2)
    found = refine(lr_tokens(), keys, method.options(confidence=True), 0.0)
    np.testing.assert_array_equal(found.tokens.reshape(2, 8, 8), lr_tokens())


def test_kept_tokens_stay_where_they_are_not_drawn_again(method, refine, middle):
    keys = jax.random.split(jax.random.key(1), 2)
    options = method.options(resample_kept=False, confidence=True)
    found = np.asarray(refine(lr_tokens(), keys, options, middle[0]).tokens).reshape(2, 8, 8)
    kept = middle[1]
    np.testing.assert_array_equal(found[kept], np.asarray(lr_tokens())[kept])
    assert (found[~kept] != np.asarray(lr_tokens())[~kept]).mean() > 0.3


class Spy:
    """A network that answers at once, and keeps the masks that it was asked for."""

    def __init__(self, answer):
        self.answer, self.masks = answer, []

    def bind(self, params):
        return self

    def condition(self, lr_tokens, lr_masked=None):
        return None

    def __call__(self, tokens, condition, mask=None):
        mask = jnp.zeros(tokens.shape, bool) if mask is None else mask
        jax.debug.callback(lambda m: self.masks.append(np.asarray(m).reshape(-1)), mask)
        return self.answer


@pytest.mark.parametrize(("good", "refined"), [(0, 4), (20, 2), (60, 1)])
def test_how_often_the_networks_run_and_what_is_kept(good, refined):
    """φ_e runs once for the start and once for each step but the last."""
    method = ITER(small.iter_config())
    scores = np.random.RandomState(0).rand(64).astype(np.float32) + 1
    scores[:good] = 9
    logits = np.stack([0 * scores, scores], -1).reshape(1, 8, 8, 2)
    method.evaluation, method.refinement = Spy(logits), Spy(jnp.zeros((1, 8, 8, 16)))
    options = method.options(alpha=0.99)
    keys = jax.random.split(jax.random.key(0), 1)
    empty = {"evaluation": {}, "refinement": {}}
    jax.jit(lambda tokens: method.refine(empty, tokens, keys, options))(lr_tokens(1))
    jax.effects_barrier()
    masks = method.refinement.masks
    assert len(masks) == len(method.evaluation.masks) == refined
    assert masks[0].sum() == 64 - good and not masks[0][:good].any()
    for step, (before, after) in enumerate(itertools.pairwise(masks), STEPS - refined + 1):
        # What was kept stays kept: no position is kept twice.
        assert not (after & ~before).any()
        assert after.sum() == 64 - 16 * step


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(alpha=1.5), "alpha: expected 0 to 1, found 1.5"),
        (dict(alpha=float("nan")), "alpha: expected 0 to 1, found nan"),
        (dict(steps=0), "steps: expected 1 to 1024, found 0"),
        (dict(start="late"), "start: expected one of released, algorithm2, found 'late'"),
        (dict(noise=-1.0), "noise: expected 0 or more, found -1.0"),
        (dict(temperature=float("inf")), "temperature: expected 0 or more, found inf"),
        (dict(schedule="slow"), "mask schedule: expected one of"),
    ],
)
def test_options_out_of_range(method, given, message):
    with pytest.raises(ValueError, match=message):
        method.options(**given)


def test_defaults_are_the_models_own():
    config = dataclasses.replace(small.iter_config(), alpha=0.4, steps=5, schedule="cosine")
    options = ITER(config).options()
    assert (options.alpha, options.steps, options.schedule) == (0.4, 5, "cosine")
    assert options.stochastic and options.color_fix == "adain"
    assert not ITER(config).options(temperature=0.0, noise=0.0).stochastic
    assert options.split()[0].alpha == 0.7 and options.split()[1] == {"alpha": np.float32(0.4)}


def test_balanced_cross_entropy():
    random = np.random.RandomState(0)
    logits, labels = random.randn(200, 2).astype(np.float32), random.rand(200) < 0.05
    counts = np.array([(~labels).sum(), labels.sum()])
    weights = (1 - 0.9999) / (1 - 0.9999 ** counts.astype(np.float64))
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(200), labels.astype(int)]
    weight = weights[labels.astype(int)]
    found = balanced_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, (weight * losses).sum() / weight.sum(), rtol=1e-4)
    none = balanced_cross_entropy(jnp.asarray(logits), jnp.zeros(200, bool))
    expected = (np.log(np.exp(logits).sum(1)) - logits[:, 0]).mean()
    np.testing.assert_allclose(none, expected, rtol=1e-5)


def test_the_discriminators_kernels_have_norm_one():
    config = UNetDiscriminatorConfig(4)
    network = Network(lambda rngs: UNetDiscriminator(config, dtype=jnp.float32, rngs=rngs))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(0, 0.2, s.shape).astype(np.float32), network.shapes)
    image = rng.random((1, 8, 16, 3), np.float32)

    @jax.jit
    def run(params, factors):
        module = network.bind(params)
        vectors = module.vectors(jax.random.key(1))
        vectors = jax.lax.fori_loop(0, 60, lambda _, v: module.iterate(v)[0], vectors)

        def call(factor):
            normed = jax.tree.map(lambda kernel: factor * kernel, params["normed"])
            return network.apply(params | {"normed": normed}, lambda m: m(image, vectors))

        return vectors, module.iterate(vectors)[1], jax.lax.map(call, factors)

    # The kernels' size makes no difference.
    vectors, right, found = run(params, np.float32([1, 3]))
    for i, layer in params["normed"].items():
        matrix = layer["kernel"].reshape(-1, layer["kernel"].shape[-1])
        norm, largest = right[i] @ matrix @ vectors[i], np.linalg.svd(matrix)[1][0]
        assert 0.95 * largest < norm < 1.001 * largest
    assert found.shape == (2, 1, 8, 16, 1) and np.std(found[0]) > 1e-3
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


def test_its_tokenizer_is_the_ceiling(method, params):
    (reference,) = method.references
    assert (reference.source, reference.method.scale) == ("hr", 1)
    assert reference.method.tile.sides == (64,) and reference.method.tile.overlap == 16
    hr = jnp.asarray(np.random.RandomState(0).rand(1, 64, 64, 3), jnp.float32)
    found = jax.eval_shape(
        lambda p: reference.method.restore(p, hr, None, reference.method.options()), params
    )
    assert found.image.shape == hr.shape and found.tokens.shape == (1, 8, 8)
