"""decoding.diffusion: the public steps, closed forms, and Gaussian data, where all is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.convert.sr3 import map_state
from maskgit_sr.decoding.diffusion import SAMPLERS, Table, sample, table
from maskgit_sr.methods.sr3_base import SR3Config
from maskgit_sr.models.functional import Network
from maskgit_sr.models.sr3_unet import UNet
from maskgit_sr.ops import diffusion
from tests.models.golden import agree
from tests.models.sr3_oracle import (
    SCHEDULE,
    STEPS,
    TINY,
    chain_noise,
    golden,
    inputs,
    state,
)

TRAINED = diffusion.gammas("linear", 2000, 1e-6, 1e-2)
S2 = 0.25


def clipped(clean, step):
    return jnp.clip(clean, -1, 1)


# ---------------------------------------------------------------- the public code


@pytest.fixture(scope="module")
def network():
    """Our network with the weights of the stored numbers."""
    params = map_state(state(golden()["entries"]), SR3Config(scale=2, unet=TINY))["unet"]
    network = Network(lambda rngs: UNet(TINY, dtype=jnp.float32, rngs=rngs))
    return network.bind(params)


def run(network, noises, coefficients, start, clip):
    condition = inputs((8, 12))[0]

    @jax.jit
    def call():
        context, shifts = network.context(condition), network.shifts(coefficients.levels)
        return sample(
            lambda y, step: network(y, context, jax.lax.dynamic_slice_in_dim(shifts, step, 1)),
            lambda step: jnp.where(step == 0, start, jnp.asarray(noises)[jnp.maximum(step, 1) - 1]),
            coefficients,
            *([clipped] if clip else []),
        )

    return call()


def small():
    gammas = diffusion.gammas("linear", STEPS, **SCHEDULE)
    return table(gammas, "ancestral", variance="small")


@pytest.mark.parametrize("clip", [0, 1])
def test_a_public_step(network, clip):
    _, y, noise = inputs((8, 12))
    whole, at = small(), STEPS - 1 - 7
    one = Table(whole.levels[at : at + 1], whole.steps[at : at + 1])
    agree(run(network, noise[None], one, y, clip), golden()[f"step/{clip}"], 2e-5)


def test_a_public_chain(network):
    noises = chain_noise((2, 8, 12, 3))
    agree(run(network, noises[1:], small(), noises[0], 1), golden()["chain"], 1e-3)


# ---------------------------------------------------------------- closed forms


def test_the_paper_s_step():
    """Algorithm 2: y_{t−1} = (y_t − (1 − α)/√(1 − γ)·ε)/√α + √(1 − α)·z, in two steps."""
    gammas = diffusion.respaced(TRAINED, 2)
    alpha = gammas[1:] / gammas[:-1]
    y, z, e = np.random.default_rng(0).standard_normal((3, 1, 2, 2, 1))
    expected = (y - (1 - alpha[1]) / np.sqrt(1 - gammas[2]) * e) / np.sqrt(alpha[1])
    expected += np.sqrt(1 - alpha[1]) * z
    one, given = table(gammas, "ancestral"), iter((y, z))
    found = sample(
        lambda y, step: jnp.asarray(e, jnp.float32),
        lambda step: jnp.asarray(next(given), jnp.float32),
        Table(one.levels[:1], one.steps[:1]),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_ddim():
    """η 0 is the closed form of arXiv:2010.02502, Equation 12; η 1 the posterior's step."""
    gammas = diffusion.respaced(TRAINED, 10)
    plain, full = table(gammas, "ddim"), table(gammas, "ddim", eta=1.0)
    posterior = table(gammas, "ancestral", variance="small")
    np.testing.assert_allclose(full.steps, posterior.steps, atol=1e-6)
    y, e = np.random.default_rng(0).standard_normal((2, 10))
    now, after = gammas[:0:-1], gammas[-2::-1]
    clean = (y - np.sqrt(1 - now) * e) / np.sqrt(now)
    expected = np.sqrt(after) * clean + np.sqrt(1 - after) * e
    scale, share, a, b, c, d = plain.steps.T
    assert (c == 0).all() and (d == 0).all()
    found = a * y + b * (scale * y - share * e)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(b * scale * y).max())


def test_the_solver_is_exact_for_a_constant_estimate():
    """Where the network always gives the same image, every sampler ends there."""
    image = jnp.full((1, 2, 2, 3), 0.3)
    for sampler in SAMPLERS:
        for steps in (1, 2, 3, 10):
            coefficients = table(diffusion.respaced(TRAINED, steps), sampler)

            def denoise(y, step, coefficients=coefficients):
                scale, share = jnp.asarray(coefficients.steps)[step, :2]
                return (scale * y - image) / share

            def noise(step):
                return jax.random.normal(jax.random.fold_in(jax.random.key(0), step), image.shape)

            found = sample(denoise, noise, coefficients)
            np.testing.assert_allclose(found, image, atol=2e-4)


def test_unknown_names():
    with pytest.raises(ValueError, match="sampler: expected one of ancestral, ddim, dpm"):
        table(TRAINED, "euler")
    with pytest.raises(ValueError, match="variance: expected one of large, small"):
        table(TRAINED, "ancestral", variance="huge")


# ---------------------------------------------------------------- Gaussian data

# Output variance over that of the data, 0.25, without clipping.
VARIANCES = [
    (TRAINED, 0.992, 1.002, 0.997),
    (diffusion.gammas("linear", 100, 1e-6, 1e-2), 1.199, 1.237, 1.811),
    (diffusion.gammas("linear", 100, 1e-6, 0.187), 0.88, 1.03, 0.945),
    (diffusion.respaced(TRAINED, 100), 0.88, 1.03, 0.945),
    (diffusion.respaced(TRAINED, 50), 0.79, 1.065, 0.89),
    (diffusion.gammas("linear", 20, 1e-6, 0.71), 0.62, 1.17, 0.75),
    (diffusion.respaced(TRAINED, 20), 0.62, 1.09, 0.74),
]


def optimal(gamma):
    """Share of y that the best estimate of N(0, S2) data's noise is."""
    return np.sqrt(1 - gamma) / (gamma * S2 + 1 - gamma)


def recursion(gammas, coefficients):
    """Output variance of the best estimate, in float64: linear steps, and a shared history."""
    covariance = np.array([[1.0, 0.0], [0.0, 0.0]])  # of y and the estimate before
    for gamma, (scale, share, a, b, c, d) in zip(
        gammas[:0:-1], coefficients.steps.astype(np.float64), strict=True
    ):
        clean = scale - share * optimal(gamma)
        step = np.array([[a + b * clean, c], [clean, 0.0]])
        covariance = step @ covariance @ step.T + np.diag([d**2, 0.0])
    return covariance[0, 0] / S2


@pytest.mark.parametrize(("gammas", "small", "large", "ddim"), VARIANCES)
def test_variance_of_gaussian_data(gammas, small, large, ddim):
    for expected, given in (
        (small, dict(sampler="ancestral", variance="small")),
        (large, dict(sampler="ancestral", variance="large")),
        (ddim, dict(sampler="ddim")),
    ):
        # A table is rounded to its second or third digit.
        assert recursion(gammas, table(gammas, **given)) == pytest.approx(expected, rel=0.02)


def test_the_solver_keeps_the_variance_where_ddim_loses_it():
    for steps, lost, kept in ((100, 0.055, 0.011), (20, 0.26, 0.08)):
        gammas = diffusion.respaced(TRAINED, steps)
        assert 1 - recursion(gammas, table(gammas, "ddim")) > 0.8 * lost
        assert abs(1 - recursion(gammas, table(gammas, "dpm"))) < kept


@pytest.mark.parametrize(
    "given", [dict(variance="small"), dict(variance="large"), dict(sampler="ddim", eta=0.5),
              dict(sampler="dpm")],
)  # fmt: skip
def test_a_million_samples_follow_the_recursion(given):
    gammas = diffusion.respaced(TRAINED, 10)
    coefficients = table(gammas, **{"sampler": "ancestral"} | given)
    factors = jnp.asarray(optimal(gammas[:0:-1]), jnp.float32)

    @jax.jit
    def run(key):
        def noise(step):
            return jax.random.normal(jax.random.fold_in(key, step), (1, 580, 580, 3))

        return sample(lambda y, step: factors[step] * y, noise, coefficients)

    found = run(jax.random.key(0))
    assert float(found.var()) / S2 == pytest.approx(recursion(gammas, coefficients), rel=0.01)
    assert abs(float(found.mean())) < 0.01
