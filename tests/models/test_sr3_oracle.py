"""SR3 beside its public re-implementation: network, schedules, steps, chain, losses.

Needs SR3_REFERENCE, a checkout of Janspiry/Image-Super-Resolution-via-Iterative-Refinement, and
PyTorch; skipped without. Noise is given to both sides.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.convert.sr3 import map_state
from maskgit_sr.decoding.diffusion import sample, table
from maskgit_sr.losses.diffusion import Level, diffuse
from maskgit_sr.losses.pixel import PIXEL_LOSSES
from maskgit_sr.methods.sr3_base import SR3Config
from maskgit_sr.models.functional import Network
from maskgit_sr.models.sr3_unet import UNet, UNetConfig
from maskgit_sr.ops import diffusion
from tests.models import sr3_oracle as public
from tests.models.golden import agree, same
from tests.models.sr3_oracle import LEVELS, SCHEDULE, STEPS, TINY, inputs


@pytest.fixture(scope="module")
def oracle():
    checkout = os.environ.get("SR3_REFERENCE")
    if not checkout:
        pytest.skip("needs SR3_REFERENCE, a checkout of SR3's public re-implementation")
    return public.load(checkout)


def pair(oracle, config, **options):
    """(the public diffusion, our network, its parameters) of the same weights."""
    module = public.model(oracle, config, **options)
    arrays = public.state(public.listing(module))
    params = map_state(arrays, SR3Config(scale=config.factor, unet=config))["unet"]
    network = Network(lambda rngs: UNet(config, dtype=jnp.float32, rngs=rngs))
    return public.filled(module, arrays), network, params


def test_stored_numbers_are_those_of_the_oracle(oracle):
    same(public.golden(), public.outputs(oracle), public.TEXTS)


@pytest.mark.parametrize("sides", [(32, 32), (64, 48)])
@pytest.mark.parametrize("attention", [(), (0, 2)])
def test_network(oracle, sides, attention):
    config = UNetConfig(16, (1, 2, 2), 2, attention, True, 8, 0.0, level_scale=1.0)
    module, network, params = pair(oracle, config)
    condition, y, _ = inputs(sides, batch=1)
    ours = jax.jit(
        lambda level: network.apply(
            params, lambda m: m(y, m.context(condition), m.shifts(level[None]))
        )
    )
    for level in LEVELS:
        agree(ours(level), public.noise_estimate(module, condition, y, level))


@pytest.mark.parametrize("clip", [True, False])
def test_a_chain_with_given_noise(oracle, clip):
    module, network, params = pair(oracle, TINY)
    condition, image, _ = inputs((16, 24))
    noises = public.chain_noise(image.shape)
    expected = public.reverse(
        module, condition, noises[0], range(STEPS - 1, -1, -1), noises[1:], clip
    )
    found = chain(network, params, condition, noises, clip)
    agree(found, expected, 1e-3)


def chain(network, params, condition, noises, clip):
    coefficients = table(
        diffusion.gammas("linear", STEPS, **SCHEDULE), "ancestral", variance="small"
    )
    given = jnp.asarray(noises)

    @jax.jit
    def run(params):
        def call(m):
            context, shifts = m.context(condition), m.shifts(jnp.asarray(coefficients.levels))
            return sample(
                lambda y, step: m(y, context, jax.lax.dynamic_slice_in_dim(shifts, step, 1)),
                lambda step: given[step],
                coefficients,
                *([lambda clean, step: jnp.clip(clean, -1, 1)] if clip else []),
            )

        return network.apply(params, call)

    return run(params)


@pytest.mark.parametrize("kind", ["l1", "l2"])
@pytest.mark.parametrize("level", [0.05, 0.6, 0.9995])
def test_training_loss(oracle, kind, level):
    module, network, params = pair(oracle, TINY, loss=kind)
    condition, image, noise = inputs((16, 16))
    signal = np.full(len(image), level, np.float32)
    noisy = diffuse(image, Level(signal, np.sqrt(1 - signal**2)), noise)
    found = jax.jit(
        lambda p: network.apply(p, lambda m: m(noisy, m.context(condition), m.shifts(signal)))
    )(params)
    expected = public.loss(module, condition, image, noise, level)
    agree(PIXEL_LOSSES[kind](found, noise), expected, 1e-5)


@pytest.mark.parametrize("kind", diffusion.KINDS)
@pytest.mark.parametrize("steps", [20, 2000])
def test_schedules(oracle, kind, steps):
    betas = np.asarray(oracle.diffusion.make_beta_schedule(kind, steps, 1e-6, 1e-2), np.float64)
    found = diffusion.gammas(kind, steps, 1e-6, 1e-2)
    np.testing.assert_allclose(diffusion.betas(kind, steps, 1e-6, 1e-2), betas, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[1:], np.cumprod(1 - betas), rtol=1e-9, atol=1e-300)


def test_posterior_coefficients(oracle):
    module = public.model(oracle, TINY)
    found = table(diffusion.gammas("linear", STEPS, **SCHEDULE), "ancestral", variance="small")
    names = ("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod")
    names += ("posterior_mean_coef2", "posterior_mean_coef1")
    for column, name in enumerate(names):
        expected = getattr(module, name).numpy()[::-1]
        np.testing.assert_allclose(found.steps[:, column], expected, rtol=1e-6)
    spread = np.exp(0.5 * module.posterior_log_variance_clipped.numpy()[::-1])
    np.testing.assert_allclose(found.steps[:-1, 5], spread[:-1], rtol=1e-6)
