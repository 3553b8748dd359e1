"""ITER beside the public PyTorch code, run here on the same weights.

Needs PyTorch, einops, and a checkout of chaofengc/ITER, named by the environment variable
ITER_REFERENCE.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.convert.iter import map_state
from maskgit_sr.methods.iter_training import ITER, token_losses
from tests.models import iter_oracle as public
from tests.models.maskgit_oracle import agree
from tests.models.test_iter import ours

# The public code is written for an older PyTorch.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]


@pytest.fixture(scope="module")
def oracle():
    checkout = os.environ.get("ITER_REFERENCE")
    if not checkout:
        pytest.skip("needs ITER_REFERENCE, a checkout of chaofengc/ITER")
    return public.load(checkout)


@pytest.fixture(scope="module")
def both(oracle):
    """(public network, our method, our parameters): the same weights."""
    numbers = public.state(public.listing(oracle, public.TINY))
    return (
        public.loaded(oracle, public.TINY, numbers),
        ITER(public.TINY),
        map_state(numbers, public.TINY),
    )


def test_stored_numbers_are_those_of_the_oracle(oracle):
    stored, numbers = public.golden()
    assert stored["entries"] == public.listing(oracle, public.TINY)
    fresh = public.outputs(oracle, numbers)
    for name in stored.keys() - {"entries", "published_entries"}:
        agree(stored[name], fresh[name], 1e-5)


@pytest.mark.parametrize("grid", [(16, 16), (8, 24), (16, 8)])
def test_networks(both, grid):
    net, method, params = both
    given = list(public.inputs(grid=grid, batch=2, seed=grid[1]))
    given[0] = given[1][:, ::4, ::4]  # an LR image of the same grid
    expected = public.networks(net, given, public.TINY)
    found = ours(method, params, given)
    # Random vectors lie between many codes: near ties may differ.
    assert np.mean(np.asarray(found["tokens"]) == expected["tokens"]) > 0.99
    for name in ("vectors", "image", "removal", "refinement", "evaluation"):
        agree(found[name], expected[name], 2e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8])
def test_every_step_of_the_loop(both, monkeypatch, alpha, schedule):
    net, method, params = both
    lr = public.inputs(side=32, grid=(16, 16), seed=2)[0]
    lr_tokens = jnp.argmax(method.predict(params, jnp.asarray(lr)), -1).astype(jnp.int32)
    final, passes = public.refine(net, np.asarray(lr_tokens), alpha, 8, schedule)
    seen = []
    network = type(method.refinement.bind(params["refinement"]))
    call = network.__call__

    def spy(self, tokens, condition, mask=None):
        if mask is not None:
            jax.debug.callback(
                lambda t, m: seen.append((np.where(m[0], -1, t[0]), m[0])),
                tokens, mask, ordered=True,
            )  # fmt: skip
        return call(self, tokens, condition, mask)

    monkeypatch.setattr(network, "__call__", spy)
    options = method.options(alpha=alpha, schedule=schedule, temperature=0.0, noise=0.0)
    keys = jax.random.split(jax.random.key(0), 1)
    found = jax.jit(lambda: method.refine(params, lr_tokens, keys, options).tokens)()
    jax.effects_barrier()
    np.testing.assert_array_equal(found.reshape(16, 16), final)
    # Where no step is needed ours runs one for the batch, and drops it.
    assert len(passes) >= 1 and len(seen) == len(passes)
    for (tokens, mask), (their_tokens, their_mask) in zip(seen, passes, strict=True):
        np.testing.assert_array_equal(mask, their_mask)
        np.testing.assert_array_equal(tokens, their_tokens)


def test_losses(oracle, both, monkeypatch):
    """The four cross-entropies for HR tokens and a mask that are given to both sides."""
    import torch

    net, method, params = both
    lr, _, tokens, _, mask, _ = public.inputs(side=16, batch=2, seed=5)
    found, _ = jax.jit(lambda p: token_losses(method, p, lr, tokens, mask))(params)

    part, indices = net.token_refine_net, torch.from_numpy(tokens)[:, None].long()
    logits = net.lq_encoder(torch.from_numpy(np.moveaxis(lr, -1, 1).copy()))
    removal = torch.nn.functional.cross_entropy(logits, indices[:, 0])
    balanced = []
    whole = oracle.iter_arch.class_balanced_xentropy

    def keep(*args):
        balanced.append(whole(*args))
        return balanced[0]

    monkeypatch.setattr(oracle.iter_arch, "class_balanced_xentropy", keep)
    monkeypatch.setattr(part, "sample_k", lambda *_: torch.from_numpy(mask[:, None]).float())
    with torch.no_grad():
        part.training = True
        _, total, _ = part(logits.argmax(1, keepdim=True), indices)
        part.training = False
    agree(found["removal"], removal.item())
    agree(found["evaluation_lr"], balanced[0].item())
    agree(sum(found.values()) - found["removal"], total.item())
