"""SRMAP beside its public code at published sizes, and the converter of its checkpoints.

Needs SRMAP_REFERENCE, a checkout of r-mohanty/Super-Rez, and PyTorch; skipped without. Noise is
given to both sides.
"""

import os

import jax
import numpy as np
import pytest

from maskgit_sr.convert import srmap as conversion
from maskgit_sr.inference import load
from maskgit_sr.losses.relativistic import fidelity
from maskgit_sr.methods.srmap import SRMAP
from maskgit_sr.models.srmap_critic import CriticConfig
from tests.models import srmap_oracle as public
from tests.models.golden import agree, same
from tests.models.srmap_oracle import image


@pytest.fixture(scope="module")
def oracle():
    checkout = os.environ.get("SRMAP_REFERENCE")
    if not checkout:
        pytest.skip("needs SRMAP_REFERENCE, a checkout of SRMAP's public code")
    return public.load(checkout)


def test_stored_numbers_are_those_of_the_oracle(oracle):
    same(public.golden(), public.outputs(oracle), public.TEXTS)


@pytest.mark.parametrize(("scale", "sides"), [("x4", (12, 12)), ("x4", (13, 17)), ("x2", (13, 17))])
def test_generator_of_a_checkpoint(oracle, tmp_path, scale, sides):
    import torch

    config = conversion.PUBLISHED[scale]
    module = public.generator(oracle, config.generator)
    public.filled(module, public.state(public.listing(module)))
    torch.save({f"model.{k}": v for k, v in module.state_dict().items()}, tmp_path / "ema.pt")
    conversion.convert(tmp_path / "ema.pt", tmp_path / "made.safetensors", config=config)
    upscaler = load.load(tmp_path / "made.safetensors", dtype="float32", device="cpu")
    method, params, lr = upscaler.method, upscaler.params, image(*sides, batch=1)
    draw = public.draw(config, 1, *sides)

    @jax.jit
    def run(params):
        noise = method.noise.apply(params["noise"], lambda m: m(draw))
        return method.generator.apply(params["generator"], lambda m: m.trace(lr, noise))

    found, features = run(params)
    expected, kept = public.generate(oracle, module, lr)
    agree(found, expected)
    for ours, theirs in zip(features, kept, strict=True):
        agree(ours, theirs)


def test_critic_at_its_size(oracle):
    config = CriticConfig()
    module = public.critic(oracle, config)
    arrays = public.state(public.listing(module))
    public.filled(module, arrays)
    params, network = public.critic_params(arrays, config), public.critic_network(config)
    images = image(192, 192)

    @jax.jit
    def run(params, images):
        def total(x):
            scores = network.apply(params, lambda m: m(x))
            return scores.sum(), scores

        return jax.grad(total, has_aux=True)(images)

    gradient, scores = run(params, images)
    expected, slope, _ = public.judge(module, images)
    agree(scores, expected)
    agree(gradient, slope, 1e-3)


def test_fidelity(oracle):
    lr, hr = image(9, 11), image(36, 44, seed=1)
    expected = oracle.losses.FidelityLoss(public.first(hr), public.first(lr)).item()
    agree(fidelity(hr, lr), np.float32(expected), 1e-5)


def test_at_initialisation_both_enlarge_alike(oracle):
    module = public.generator(oracle, public.TINY.generator)
    method, lr = SRMAP(public.TINY), image(5, 6)
    params, _ = method.init(jax.random.key(0), ("generator",))
    expected, _ = public.generate(oracle, module, lr)
    np.testing.assert_allclose(jax.jit(method.generate)(params, lr), expected, atol=1e-6)
