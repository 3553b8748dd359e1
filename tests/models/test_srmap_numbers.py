"""SRMAP's networks and losses give the public code's numbers, stored in srmap_reference.npz."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.convert.srmap import constants, entries, map_state
from maskgit_sr.methods.srmap import SRMAP, SRMAPLosses, critic_loss, map_loss
from maskgit_sr.models.functional import flatten
from maskgit_sr.ops import resample
from tests.models import srmap_oracle as public
from tests.models.golden import agree
from tests.models.srmap_oracle import CRITIC, TINY, image


@pytest.fixture(scope="module")
def stored():
    return public.golden()


@pytest.fixture(scope="module")
def params(stored):
    found = map_state(public.state(stored["generator/entries"]) | constants(TINY), TINY)
    arrays = public.state(stored["critic/entries"])
    return found | {"critic": public.critic_params(arrays, CRITIC)}


def public_noise(method, params, lr):
    """The generator's noise of the public draws."""
    draw = public.draw(TINY, *lr.shape[:3])
    return method.noise.apply(params["noise"], lambda m: m(draw))


@pytest.fixture(scope="module")
def method():
    return SRMAP(TINY, SRMAPLosses(critic=CRITIC))


def test_generator_and_its_features(stored, params, method):
    lr = image(*public.SIDES)

    @jax.jit
    def run(params, lr):
        noise = public_noise(method, params, lr)
        return method.generator.apply(params["generator"], lambda m: m.trace(lr, noise))

    found, features = run(params, lr)
    agree(found, stored["generator"])
    for stage, feature in enumerate(features):
        agree(feature, stored[f"features/{stage}"])


def test_losses_and_gradients(stored, params, method, monkeypatch):
    """Fidelity, both relativistic losses, R1 and its second derivative, and the generator's."""
    side = CRITIC.side
    low, high = image(side // 4, side // 4, seed=2), image(side, side, seed=3)
    # The public losses are of one half each; here both halves are the same.
    lr, hr = (np.repeat(x, 2, axis=0) for x in (low, high))
    monkeypatch.setattr(
        "maskgit_sr.methods.srmap._draw",
        lambda method, params, lr, key: method.generate(
            params, lr, public_noise(method, params, lr)
        ),
    )

    def run(params, lr, hr, images):
        key, step, batch = jax.random.key(0), jnp.int32(0), {"lr": lr, "hr": hr}

        def wrapped(loss, groups):
            def call(trained):
                return loss(method, {**params, **trained}, {}, batch, key, step)

            grads, result = jax.grad(call, has_aux=True)({name: params[name] for name in groups})
            return grads, result.metrics

        def judge(images, critic):
            return method.critic.apply(critic, lambda m: m(images))

        def penalty(critic):
            gradient = jax.grad(lambda x: judge(x, critic).sum())(images)
            scale = method.losses.r1 / 2
            return scale * jnp.square(gradient).sum((1, 2, 3)).mean(), gradient

        second, gradient = jax.grad(penalty, has_aux=True)(params["critic"])
        return (
            wrapped(critic_loss, ("critic",))[1],
            wrapped(map_loss, ("generator", "noise")),
            (judge(images, params["critic"]), gradient, second),
        )

    costs, (grads, metrics), (scores, gradient, second) = jax.jit(run)(
        params, lr, hr, image(side, side)
    )
    agree(costs["relativistic"], stored["loss/critic"], 1e-5)
    agree(costs["penalty"], stored["loss/penalty"], 1e-5)
    agree(method.losses.fidelity * metrics["fidelity"], stored["loss/fidelity"], 1e-5)
    # Far below 1, where a softplus is e^x: its relative error is the absolute one of the scores.
    assert abs(metrics["relativistic"] - stored["loss/generator"]) <= 1e-5 * abs(scores).max()
    agree(scores, stored["critic/scores"])
    agree(gradient, stored["critic/gradient"], 1e-3)
    # The penalty's gradient in each kind of entry.
    ours, flat = public.critic_names(CRITIC), flatten(second)
    for name in public.CRITIC_GRADIENTS:
        expected = stored[f"penalty/{name}"]
        agree(public.as_public(np.asarray(flat[ours[name]]), expected.shape), expected, 1e-3)
    ours = {entry.name: name for name, entry in entries(TINY).items()}
    flat = flatten(grads["generator"])
    for name in public.GENERATOR_GRADIENTS:
        expected = stored[f"map/{name}"]
        if name in ours:
            agree(public.as_public(np.asarray(flat[ours[name]]), expected.shape), expected, 1e-3)
    scales = flatten(grads["noise"])
    inner = TINY.generator.stem // 4
    agree(
        scales["stages/0"][1, inner:],
        stored["map/Main.Stages.0.MainBlocks.1.NoiseLayer2.Scale"],
        1e-3,
    )
    agree(scales["before/0"], stored["map/Main.Upsamplers.0.NoiseLayer1.Scale"], 1e-3)


def test_blurred_shuffles(stored):
    """At odd and even sides; channels are ordered as PyTorch's."""
    for index, sides in enumerate(((5, 8), (6, 4))):
        x = jnp.asarray(np.tile(image(*sides, 1), 4))
        agree(resample.blur(resample.pixel_shuffle(x)), stored[f"up/{index}"], 1e-6)
    agree(resample.pixel_unshuffle(resample.blur(x)), stored["down/1"], 1e-6)
