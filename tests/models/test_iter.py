"""ITER's networks: published counts, and numbers of the public code (`iter_oracle`)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.convert.iter import entries, map_state, published
from maskgit_sr.methods.iter_training import ITER
from maskgit_sr.models.functional import count, unflatten
from maskgit_sr.models.swin import (
    SwinConfig,
    bias_index,
    from_windows,
    shift_mask,
    to_windows,
)
from maskgit_sr.models.swin_vqgan import SwinVQGANConfig
from maskgit_sr.models.token_swin import RemovalConfig, TokenSwinConfig
from maskgit_sr.ops.schedules import keep_counts
from tests.models import iter_oracle as public
from tests.models.maskgit_oracle import agree

COUNTS = {4: 4_140_512, 2: 6_814_432}


@pytest.mark.parametrize("scale", [2, 4])
def test_published_counts(scale):
    """They are those of the names that `entries` gives, which describes the networks once."""
    found = {name: np.broadcast_to(0, e.target) for name, e in entries(published(scale)).items()}
    shapes = unflatten(found)
    assert {group: count(tree) for group, tree in shapes.items()} == {
        "tokenizer": 33_306_800 + 37_731_507,
        "codebook": 512 * 128,
        "encoder": COUNTS[scale],
        "refinement": 26_104_256,
        "evaluation": 25_972_930,
    }
    assert count(shapes["tokenizer"]["encoder"]) == 33_306_800


def test_published_entries():
    """Every learned entry of the public ×4 network is one of ours, with its shape."""
    stored, _ = public.golden()
    found = {entry.name: list(entry.shape) for entry in entries(published(4)).values()}
    assert found == dict(stored["published_entries"])


@pytest.fixture(scope="module")
def method():
    return ITER(public.TINY)


@pytest.fixture(scope="module")
def stored():
    return public.golden()


@pytest.fixture(scope="module")
def params(stored):
    return map_state(stored[1], public.TINY)


def ours(method, params, given):
    """Our outputs for `iter_oracle.inputs`, by the names of `iter_oracle.networks`."""
    lr, hr, tokens, lr_tokens, mask, lr_mask = given

    @jax.jit
    def run(params):
        refinement = method.refinement.bind(params["refinement"])
        evaluation = method.evaluation.bind(params["evaluation"])
        return dict(
            vectors=method.tokenizer.apply(params["tokenizer"], lambda m: m.encode(hr)),
            tokens=method.tokenize(params, hr),
            image=jnp.clip(method.decode_tokens(params, tokens), 0, 1),
            removal=method.predict(params, lr),
            refinement=refinement(tokens, refinement.condition(lr_tokens, lr_mask), mask),
            evaluation=evaluation(tokens, evaluation.condition(lr_tokens)),
        )

    return run(params)


@pytest.fixture(scope="module")
def found(method, params):
    return ours(method, params, public.inputs())


def test_networks_give_the_public_numbers(found, stored):
    np.testing.assert_array_equal(found["tokens"], stored[0]["tokens"])
    agree(found["image"][:, ::4, ::4], stored[0]["image"], 2e-4)
    for name in ("vectors", "removal", "refinement", "evaluation"):
        agree(found[name], stored[0][name], 2e-4)


def test_the_loop_gives_the_public_tokens(method, params, found, stored):
    """The start, the number of steps and the tokens over α; nothing drawn by chance."""
    lr_tokens = jnp.argmax(found["removal"], -1).astype(jnp.int32)
    keys = jax.random.split(jax.random.key(0), 1)
    options = method.options(temperature=0.0, noise=0.0)
    run = jax.jit(
        lambda alpha: method.refine(params, lr_tokens, keys, options.bind({"alpha": alpha}))
    )
    for alpha, expected in zip(public.ALPHAS, stored[0]["final"], strict=True):
        np.testing.assert_array_equal(run(alpha).tokens.reshape(8, 8), expected)
    assert list(stored[0]["passes"]) == sorted(stored[0]["passes"]) and stored[0]["passes"][-1] == 8


def test_windows():
    x = np.arange(2 * 8 * 12 * 3, dtype=np.float32).reshape(2, 8, 12, 3)
    parts = to_windows(jnp.asarray(x), 4)
    np.testing.assert_array_equal(parts[4].reshape(4, 4, 3), x[0, 4:8, 4:8])
    np.testing.assert_array_equal(from_windows(parts, x.shape, 4), x)
    index = bias_index(8)
    assert index.shape == (64, 64) and index[0, 0] == 112  # (0 + 7)·15 + 0 + 7
    assert index[9, 0] == 128 and index[0, 9] == 96 and len(np.unique(index)) == 225
    mask = shift_mask(8, 12, 4)
    assert mask.shape == (6, 16, 16) and set(np.unique(mask)) == {-100, 0}
    assert not mask[0].any() and mask[2, 0, 2] == -100 and mask[2, 0, 1] == 0
    # Of the corner's four quarters each token sees its own.
    assert (mask[5] == 0).sum() == 4 * 16


def test_keep_counts():
    assert list(keep_counts(8, 1024, "linear")) == [0, 128, 256, 384, 512, 640, 768, 896]
    assert list(keep_counts(4, 64, "cosine")) == [0, 4, 18, 39]
    with pytest.raises(ValueError, match="steps and tokens must be at least 1"):
        keep_counts(0, 4, "linear")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SwinConfig(dim=30), "swin.heads: expected a divisor of 30, found 8"),
        (lambda: SwinConfig(dim=8, squeeze=64), "swin.squeeze: expected a divisor of 32, found 64"),
        (lambda: SwinVQGANConfig(()), "tokenizer.channels: expected 1 to 11 levels, found 0"),
        (lambda: SwinVQGANConfig((16, 32)), "tokenizer.groups: expected a divisor of"),
        (lambda: RemovalConfig(stem=8), "encoder.groups: expected a divisor of 16, found 32"),
        (lambda: TokenSwinConfig(groups=7), "groups: expected a divisor of 256, found 7"),
        (lambda: ITER(dataclasses.replace(public.TINY, scale=3)), "scale: expected 8, the"),
        (
            lambda: ITER(dataclasses.replace(public.TINY, scale=2)),
            r"tile.sides: .* multiples of 64",
        ),
    ],
)
def test_shapes_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
