"""methods.srmap: seeds, windows that agree, both stages, what is balanced, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import srmap as config
from maskgit_sr import images
from maskgit_sr.bundles import Metadata
from maskgit_sr.errors import UserError
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods import registry
from maskgit_sr.methods import srmap as stages
from maskgit_sr.methods.srmap import SRMAP, SRMAPLosses
from maskgit_sr.models.functional import count
from maskgit_sr.models.srmap_critic import CriticConfig
from maskgit_sr.models.srmap_generator import GeneratorConfig
from maskgit_sr.ops.noise import Windows
from maskgit_sr.ops.resample import enlarge_bilinear
from maskgit_sr.ops.resize import downsample_bicubic
from tests.methods import small

LOSSES = SRMAPLosses(critic=CriticConfig((4, 8), (1,), kernel=4, latent=8, levels=4.0))


@pytest.fixture(scope="module")
def upscaler():
    method = SRMAP(small.srmap())
    metadata = Metadata(method.name, method.describe(), method.scale)
    params = small.random_params(method)
    return Upscaler(method, params, metadata, batch=2, device=jax.devices("cpu")[0])


def pixels(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 40)])
def test_any_size_and_seeds(upscaler, height, width):
    """One seed repeats bit for bit, two differ, and without noise all are one image."""
    given = pixels(height, width)
    found = upscaler(given, seed=1).image
    assert found.shape == (2 * height, 2 * width, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, upscaler(given, seed=1).image)
    assert (found != upscaler(given, seed=2).image).any()
    silent = upscaler(given, seed=1, noise=0.0).image
    np.testing.assert_array_equal(silent, upscaler(given, seed=2, noise=0.0).image)
    assert not upscaler.options(noise=0.0).stochastic and upscaler.options().stochastic


def test_noise_out_of_range():
    with pytest.raises(ValueError, match="noise: expected 0 to 10, found -1"):
        SRMAP(small.srmap()).options(noise=-1.0)


def test_windows_draw_the_same_noise_where_they_overlap(upscaler):
    """The noise of a window is what its neighbour has there; its index and batch are nothing."""
    method, options = upscaler.method, upscaler.options()
    run = jax.jit(lambda *given: method.restore_windows(*given, options).image)
    lr = jnp.full((2, 8, 8, 3), 0.5)
    keys = jax.vmap(jax.random.key)(jnp.zeros(2, jnp.uint32))
    found = run(upscaler.params, lr, Windows.of(keys, jnp.array([(0, 0, 4), (5, 0, 4)])))
    np.testing.assert_array_equal(found[0], found[1])
    moved = run(upscaler.params, lr, Windows.of(keys, jnp.array([(0, 0, 4), (1, 0, 5)])))
    np.testing.assert_array_equal(found[0], moved[0])
    # Of a flat image only the noise tells where it is. Away from the border the shifted window has
    # the same, as far as the features reach.
    inner = 2 * np.arange(3, 5)
    rows, columns = np.ix_(inner, inner)
    apart = np.abs(moved[0][rows, columns] - moved[1][rows, columns - 2]).max()
    assert apart < 0.2 * np.abs(moved[0] - moved[1]).max()


def test_batch_and_order_change_nothing(upscaler):
    picture, options = images.from_array(pixels(20, 20)), upscaler.options()
    found = upscaler.restore(picture).picture.color
    mosaics = [upscaler.mosaic(p, options) for p in (images.from_array(pixels(9, 9)), picture)]
    *_, other = upscaler.complete(mosaics, options)
    np.testing.assert_allclose(other.color.astype(int), found.astype(int), atol=1)


def test_it_begins_as_the_enlarged_image():
    method, lr = SRMAP(small.srmap()), jax.random.uniform(jax.random.key(0), (2, 5, 7, 3))
    params, _ = method.init(jax.random.key(0), method.groups)
    keys = jax.random.split(jax.random.key(1), 2)
    found = jax.jit(lambda p: method.restore(p, lr, keys, method.options()).image)(params)
    np.testing.assert_allclose(found, enlarge_bilinear(lr), atol=1e-6)
    assert {float(x) for leaf in jax.tree.leaves(params["noise"]) for x in leaf.ravel()} == {
        float(np.float32(0.05))
    }


def test_published_sizes_and_those_of_the_configs():
    sizes = {}
    for size in config.SIZES:
        for scale in (2, 4):
            found = config.get_config(f"{size},scale={scale}")
            method = registry.build(
                found.method, found.model.to_dict(), losses=found.losses.to_dict()
            )
            shapes = method.shapes()
            assert method.scale == scale
            assert method.losses.critic.side == found.stages["map"].crop
            assert method.config.generator.arrays <= len(jax.tree.leaves(shapes["generator"]))
            sizes[size, scale] = sum(map(count, shapes.values())), count(method.critic.shapes)
    assert sizes["base", 4] == (20_933_504, 20_817_025)
    assert all(parameters <= 2e6 for parameters, _ in (sizes["nano", 2], sizes["nano", 4]))


@pytest.fixture(scope="module")
def trained():
    """Scores of the LR image after a few steps of the stage ``map`` at several factors α."""
    rng = np.random.default_rng(0)
    hr = jnp.asarray(rng.random((4, 8, 8, 3), np.float32))
    batch = {"hr": hr, "lr": downsample_bicubic(hr, 2)}
    method = SRMAP(small.srmap(), LOSSES)
    params, _ = method.init(jax.random.key(0), ("generator", "noise", "critic"))

    @jax.jit
    def run(params, alpha):
        # The factor is traced, so that all runs are one program.
        chosen = SRMAP(method.config, dataclasses.replace(LOSSES, fidelity=1.0))
        optimizer = optax.adam(3e-3)

        def step(carry, key):
            params, states = carry
            metrics = {}
            for phase in chosen.stages["map"].phases:
                groups = {name: params[name] for name in phase.groups}

                def loss(groups, phase=phase, params=params, key=key):
                    value, found = phase.loss({**params, **groups}, {}, batch, key, jnp.int32(0))
                    if "fidelity" in found.metrics:
                        value += (alpha - 1) * found.metrics["fidelity"]
                    return value, found.metrics

                grads, found = jax.grad(loss, has_aux=True)(groups)
                name = phase.groups[0]
                with jax.numpy_dtype_promotion("standard"):
                    updates, states[name] = optimizer.update(grads, states[name])
                params = {**params, **optax.apply_updates(groups, updates)}
                metrics |= {f"{name}/{kind}": value for kind, value in found.items()}
            return (params, states), metrics

        states = {
            phase.groups[0]: optimizer.init({name: params[name] for name in phase.groups})
            for phase in chosen.stages["map"].phases
        }
        return jax.lax.scan(step, (params, states), jax.random.split(jax.random.key(1), 30))[1]

    return {alpha: run(params, alpha) for alpha in (0.0, 1.0, 2550.0)}


def test_fidelity_grows_with_its_factor(trained):
    """α → ∞ drives the output's reduction to the LR image; without it, away from it."""
    last = {
        alpha: float(found["generator/fidelity"][-5:].mean()) for alpha, found in trained.items()
    }
    first = float(trained[0.0]["generator/fidelity"][0])
    assert last[2550.0] < 0.9 * first and last[2550.0] < last[0.0]
    for found in trained.values():
        assert np.isfinite(found["critic/penalty"]).all() and (found["critic/penalty"] > 0).all()
        # What critic and generator see at the start are equal halves of the same loss.
        np.testing.assert_allclose(found["critic/relativistic"][0], np.log(2), atol=0.2)


@pytest.fixture(scope="module")
def drawn():
    """Parameters with a critic that is not flat, and a batch."""
    method = SRMAP(small.srmap(), LOSSES)
    params, _ = method.init(jax.random.key(0), ("generator", "noise", "critic"))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    hr = jax.random.uniform(jax.random.key(2), (4, 8, 8, 3))
    return jax.tree.unflatten(tree, moved), {"hr": hr, "lr": downsample_bicubic(hr, 2)}


def test_penalties_add_up_and_may_be_lazy(drawn):
    params, batch = drawn

    def penalty(step=0, **changes):
        method = SRMAP(small.srmap(), dataclasses.replace(LOSSES, **changes))
        given = (method, params, {}, batch, jax.random.key(0))
        loss, found = jax.jit(lambda step: stages.critic_loss(*given, step))(jnp.int32(step))
        np.testing.assert_allclose(
            loss, found.metrics["relativistic"] + found.metrics["penalty"], rtol=1e-6
        )
        return float(found.metrics["penalty"])

    r1, r2 = penalty(r1=0.5, r2=0.0), penalty(r1=0.0, r2=0.5)
    assert r1 > 0 and r2 > 0 and abs(r1 - r2) > 1e-3 * r1  # of HR and of the generator's images
    both = dict(r1=0.5, r2=0.5, penalty_every=4)
    np.testing.assert_allclose(penalty(8, **both), 4 * (r1 + r2), rtol=1e-5)
    assert penalty(9, **both) == 0


def test_diversity_is_rewarded(drawn, monkeypatch):
    params, batch = drawn
    monkeypatch.setattr(stages, "perceptual_loss", lambda _, a, b: jnp.abs(a - b).mean())
    losses = dataclasses.replace(LOSSES, adversarial=0.0, fidelity=0.0, diversity=2.0)
    method = SRMAP(small.srmap(), losses)

    @jax.jit
    def run(noise):
        given = {**params, "noise": noise, "perceptual": {}}
        return stages.map_loss(method, given, {}, batch, jax.random.key(0), jnp.int32(0))

    still = jax.tree.map(jnp.zeros_like, params["noise"])
    spread = [run(jax.tree.map(lambda x, f=f: jnp.full_like(x, f), still)) for f in (0, 0.05, 0.1)]
    values = [float(found.metrics["diversity"]) for _, found in spread]
    assert values[0] == 0 < values[1] < values[2]
    np.testing.assert_allclose([loss for loss, _ in spread], [-2 * v for v in values], rtol=1e-6)


def test_first_stage_leaves_a_net_without_noise():
    """The second one continues its generator, and begins with fresh scales."""
    method = SRMAP(small.srmap(), LOSSES)
    first, second = method.stages["l1"], method.stages["map"]
    silent = first.finish({"generator": {}}, {})["noise"]
    assert set(silent) == set(method.noise.shapes)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(silent))
    assert first.exports == second.exports == method.groups
    assert second.continues == ("generator",) and second.trains == ("critic", "generator", "noise")
    alone = SRMAP(small.srmap(), dataclasses.replace(LOSSES, adversarial=0.0)).stages["map"]
    assert alone.trains == ("generator", "noise")


def batch(count, side):
    shape = jax.ShapeDtypeStruct
    lr = shape((count, side // 2, side // 2, 3), jnp.float32)
    return {"lr": lr, "hr": shape((count, side, side, 3), jnp.float32)}


@pytest.mark.parametrize(
    ("count", "side", "message"),
    [
        (3, 8, "stage map: expected an even number of examples .* found 3"),
        (4, 16, "losses.critic: 1 stages and a kernel of 4 take HR crops of 8x8, found 16x16"),
    ],
)
def test_batches_that_do_not_fit(count, side, message):
    method = SRMAP(small.srmap(), LOSSES)
    groups = ("generator", "noise", "critic")
    params, _ = jax.eval_shape(lambda: method.init(jax.random.key(0), groups))
    key = jax.eval_shape(lambda: jax.random.key(0))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(
            lambda *given: stages.critic_loss(method, *given, jnp.int32(0))[0],
            *(params, {}, batch(count, side), key),
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(features=(8,)), "generator.features: expected 2 to 5 widths, found 1"),
        (dict(blocks=()), "generator.blocks: expected at least one stage, found none"),
        (dict(stem=6), "generator.compression: expected a divisor of 6, found 4"),
    ],
)
def test_generators_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**dict(stem=8, features=(8, 4), blocks=(1,)) | changes)


def test_critics_that_do_not_fit():
    with pytest.raises(ValueError, match="critic.blocks: expected a number for each width but"):
        CriticConfig((8, 8, 8), (1,))
    with pytest.raises(ValueError, match="critic.compression: expected a divisor of 6, found 4"):
        CriticConfig((8, 6), (1,))
