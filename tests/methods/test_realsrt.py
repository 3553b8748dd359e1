"""methods.realsrt: restoration of tiles, configuration, and the groups of parameters."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from maskgit_sr.decoding.policies import Policy

from maskgit_sr.arrays import Execution
from maskgit_sr.methods import registry
from maskgit_sr.methods.base import RestoreOptions, TileSpec
from maskgit_sr.methods.realsrt import ControlConfig, RealSRT, RealSRTConfig
from maskgit_sr.models.functional import flatten
from maskgit_sr.ops.color import adain

LR = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3))
KEYS = jax.random.split(jax.random.key(1), 3)
SCORED = RestoreOptions(Policy(3, score=True))


@pytest.fixture(scope="module")
def restore(method):
    return jax.jit(method.restore, static_argnames="options")


@pytest.fixture(scope="module")
def scored(restore, params):
    return restore(params, LR, KEYS, options=SCORED)


def test_restored_tiles(scored):
    assert scored.image.shape == (3, 64, 64, 3) and scored.image.dtype == jnp.float32
    assert jnp.isfinite(scored.image).all()
    assert scored.tokens.shape == scored.confidence.shape == (3, 8, 8)
    assert ((scored.tokens >= 0) & (scored.tokens < 16)).all()
    assert ((scored.confidence >= 0) & (scored.confidence <= 1)).all()
    np.testing.assert_allclose(scored.image.mean((1, 2)), LR.mean((1, 2)), atol=1e-4)


def test_stages_of_restoration_give_the_same(method, params, scored):
    """Upsampling, tokens, rendering and colour, called one by one."""

    @jax.jit
    def by_hand(params):
        upsampled = method.upsample(LR)
        decoded = method.generate(params, upsampled, KEYS, SCORED.policy)
        tokens = decoded.tokens.reshape(3, 8, 8)
        return tokens, adain(method.render(params, tokens, upsampled), LR)

    tokens, image = by_hand(params)
    np.testing.assert_array_equal(tokens, scored.tokens)
    np.testing.assert_allclose(image, scored.image, atol=1e-4)


def test_a_tile_does_not_depend_on_its_neighbours(restore, params, scored):
    turned = restore(params, LR[::-1], KEYS[::-1], options=SCORED)
    np.testing.assert_array_equal(turned.tokens[::-1], scored.tokens)
    np.testing.assert_allclose(turned.image[::-1], scored.image, atol=1e-4)


def test_without_critic_and_control(restore, params, scored):
    """A bundle of tokenizer and generator restores too; no options, no colour fix, one step."""
    few = {group: params[group] for group in ("tokenizer", "codebook", "generator")}
    policy = Policy(1, "generator", temperature=0.5)
    options = RestoreOptions(policy, color_fix="none", control=False)
    found = restore(few, LR, KEYS, options=options)
    assert found.confidence is None and jnp.isfinite(found.image).all()
    other = restore(few, LR, jax.random.split(jax.random.key(9), 3), options=options)
    assert (found.tokens != other.tokens).any()
    with pytest.raises(ValueError, match="bundle has no critic"):
        restore(few, LR, KEYS, options=SCORED)


def test_control_steers_the_image_but_not_the_tokens(method, params, scored):
    render = jax.jit(method.render, static_argnames="control")
    upsampled = method.upsample(LR)
    steered = render(params, scored.tokens, upsampled, control=True)
    plain = render(params, scored.tokens, upsampled, control=False)
    assert not jnp.allclose(steered, plain, atol=1e-2)


def test_configuration_survives_json(method, tiny):
    text = json.dumps(method.describe())
    assert RealSRTConfig.from_dict(json.loads(text)) == tiny
    again = registry.build("realsrt", json.loads(text), Execution(jnp.bfloat16))
    assert again.execution.dtype == jnp.bfloat16
    assert flatten(again.shapes()) == flatten(method.shapes())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generater": {}}, "realsrt: unknown field 'generater', expected one of tokenizer, "),
        ({"generator": {"depth": 3}}, "realsrt.generator: unknown field 'depth'"),
    ],
)
def test_unknown_fields_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        RealSRTConfig.from_dict(values)


def test_parts_must_fit(tiny):
    with pytest.raises(ValueError, match="tile: size × 4 must be a multiple of 8"):
        RealSRT(dataclasses.replace(tiny, tile=TileSpec(size=15)))
    with pytest.raises(ValueError, match=r"generator: expected grid \(16, 16\) and code width 16"):
        RealSRT(dataclasses.replace(tiny, tile=TileSpec(size=32)))
    critic = dataclasses.replace(tiny.critic, code_width=8)
    with pytest.raises(ValueError, match="critic: expected grid .* found .* and 8"):
        RealSRT(dataclasses.replace(tiny, critic=critic))


def test_unknown_method():
    with pytest.raises(ValueError, match="method: expected one of realsrt, found 'sr9'"):
        registry.build("sr9", {})


def test_a_groups_start_does_not_depend_on_the_others(method):
    """Stages that start apart give what one start of everything gives."""

    @jax.jit
    def both(key):
        together, stats = method.init(key, method.bundle_groups)
        alone, _ = method.init(key, ("critic",))
        codes, own = method.init(key, ("codebook",))
        kernels = [p["critic"]["logits"]["kernel"] for p in (together, alone)]
        return kernels, [together["codebook"], codes["codebook"]], [stats, own]

    for pair in both(jax.random.key(3)):
        np.testing.assert_equal(*jax.device_get(pair))


def test_stages_name_what_they_need(method):
    stages = method.stages
    assert list(stages) == ["tokenizer", "generator", "critic", "control"]
    exported = [group for stage in stages.values() for group in stage.exports]
    assert sorted(exported) == sorted(method.bundle_groups)
    ready = {"perceptual"}
    for stage in stages.values():
        assert set(stage.needs) <= ready
        assert [phase.group for phase in stage.phases] == list(stage.trains)
        ready |= set(stage.exports)


def shape_of(tree):
    return jax.tree.map(lambda x: x.shape, tree)


@pytest.mark.parametrize(
    ("gan", "tune", "multiscale"),
    [(1.0, True, False), (0.0, False, False), (1.0, False, True), (0.0, False, True)],
)
def test_every_stage_fits_together(tiny, gan, tune, multiscale):
    """Losses, gradients, panels and exports by shape alone; nothing is computed."""
    losses = dataclasses.replace(tiny.losses, adversarial_weight=gan, tune_decoder=tune)
    control = ControlConfig(multiscale, 1.0, network=tiny.tokenizer)
    method = RealSRT(dataclasses.replace(tiny, losses=losses, control=control))
    batch = {"hr": (4, 64, 64, 3), "lr": (4, 16, 16, 3)}
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in batch.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = method.shapes()
    params = shapes | {"discriminator": method.discriminator.shapes}
    codes = {"counts": jax.ShapeDtypeStruct((16,), jnp.float32)}
    stats = {"codebook": params["codebook"] | codes | {"sums": params["codebook"]["embedding"]}}
    for stage in method.stages.values():
        ready, inputs = jax.eval_shape(stage.start, params), dict(batch)
        for phase in stage.phases:

            def run(ready, stats, inputs, key, phase=phase):
                def loss(trained):
                    everything = ready | {phase.group: trained}
                    return phase.loss(everything, stats, inputs, key, jnp.int32(0))

                return jax.grad(loss, has_aux=True)(ready[phase.group])

            grads, result = jax.eval_shape(run, ready, stats, inputs, key)
            assert shape_of(grads) == shape_of(ready[phase.group])
            assert shape_of(result.stats) == shape_of(stats)
            assert {x.shape for x in result.metrics.values()} == {()}
            inputs |= result.carry
        exported = jax.eval_shape(stage.finish, ready, stats)
        for group in stage.exports:
            assert shape_of(exported[group]) == shape_of(shapes[group])
        panel = jax.eval_shape(stage.panel, exported, stats, batch, key)
        assert {"hr", "output"} <= panel.keys()
        assert {image.shape for image in panel.values()} == {(4, 64, 64, 3)}


@pytest.mark.parametrize(
    ("network", "tune", "message"),
    [
        (dict(), True, "tune_decoder: a multiscale control module has a decoder of its own"),
        (dict(code_width=8), False, "control.network: expected the tokenizer's code_width 16"),
        (dict(patch=2), False, "control.network: expected the tokenizer's factor 8, found 4"),
    ],
)
def test_a_control_module_that_does_not_fit_is_refused(tiny, network, tune, message):
    control = ControlConfig(True, network=dataclasses.replace(tiny.tokenizer, **network))
    losses = dataclasses.replace(tiny.losses, tune_decoder=tune)
    with pytest.raises(ValueError, match=message):
        RealSRT(dataclasses.replace(tiny, losses=losses, control=control))


@pytest.mark.parametrize("multiscale", [False, True])
def test_control_learns_from_the_image_it_renders(tiny, multiscale):
    """The loss, taken apart for the adaptive weight, has the gradient of the whole."""
    losses = dataclasses.replace(tiny.losses, adversarial_weight=0.0, pixel="l2")
    config = dataclasses.replace(
        tiny, losses=losses, control=ControlConfig(multiscale, 1.0, network=tiny.tokenizer)
    )
    method = RealSRT(config)
    hr = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
    batch = {"hr": hr, "lr": hr.reshape(2, 16, 4, 16, 4, 3).mean((2, 4))}
    key = jax.random.key(2)

    rng = np.random.default_rng(0)  # no zero convolution is closed
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), jnp.float32), method.shapes()
    )
    (phase,) = method.stages["control"].phases
    upsampled = method.upsample(batch["lr"])
    policy = Policy(config.losses.control_steps, schedule=config.schedule)

    @jax.jit
    def both(params):
        tokens = method.generate(params, upsampled, jax.random.split(key, 2), policy).tokens
        tokens = tokens.reshape(2, *method.grid)

        def taken_apart(control):
            return phase.loss(params | {"control": control}, {}, batch, key, jnp.int32(0))[0]

        def whole(control):
            image = method.render(params | {"control": control}, tokens, upsampled)
            return jnp.mean(jnp.square(image - hr))

        return jax.grad(taken_apart)(params["control"]), jax.grad(whole)(params["control"])

    found, expected = both(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6)
    last = expected["decoder"] if multiscale else expected["zero"]
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(last))
