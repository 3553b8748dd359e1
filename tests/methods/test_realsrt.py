"""methods.realsrt: restoration of tiles, configuration, and the groups of parameters."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.arrays import Execution
from maskgit_sr.methods import registry
from maskgit_sr.methods.base import TileSpec, from_mapping
from maskgit_sr.methods.realsrt import RealSRT, RealSRTConfig, RealSRTOptions
from maskgit_sr.methods.realsrt_variants import RealSRTTuned
from maskgit_sr.models.functional import flatten
from maskgit_sr.ops.color import adain
from maskgit_sr.training import weights
from tests.methods import small

LR = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3))
KEYS = jax.random.split(jax.random.key(1), 3)
KINDS = [RealSRT.name, RealSRTTuned.name]
SCORED = RealSRTOptions(steps=3, confidence=True)


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
        decoded = method.generate(params, upsampled, KEYS, SCORED)
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
    options = RealSRTOptions(
        steps=1, rule="confidence", temperature=0.5, color_fix="none", control=False
    )
    found = restore(few, LR, KEYS, options=options)
    assert found.confidence is None and jnp.isfinite(found.image).all()
    other = restore(few, LR, jax.random.split(jax.random.key(9), 3), options=options)
    assert (found.tokens != other.tokens).any()
    with pytest.raises(ValueError, match="rule: there is no critic"):
        restore(few, LR, KEYS, options=SCORED)


def test_control_steers_the_image_but_not_the_tokens(method, params, scored):
    render = jax.jit(method.render, static_argnames="steered")
    upsampled = method.upsample(LR)
    steered = render(params, scored.tokens, upsampled, steered=True)
    plain = render(params, scored.tokens, upsampled, steered=False)
    assert not jnp.allclose(steered, plain, atol=1e-2)


def test_configuration_survives_json(method, tiny):
    text = json.dumps(method.describe())
    assert from_mapping(RealSRTConfig, json.loads(text), "model") == tiny
    again = registry.build("realsrt", json.loads(text), Execution(jnp.bfloat16))
    assert again.execution.dtype == jnp.bfloat16
    assert flatten(again.shapes()) == flatten(method.shapes())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generater": {}}, "model: unknown field 'generater', expected one of tokenizer, "),
        ({"generator": {"depth": 3}}, "model.generator: unknown field 'depth'"),
        ({"generator": 3}, "model.generator: expected a mapping, found 3"),
        ({"steps": "four"}, "model.steps: expected int, found 'four'"),
        ({"tokenizer": {"narrow_up": 1}}, "model.tokenizer.narrow_up: expected bool, found 1"),
    ],
)
def test_unknown_fields_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        registry.build("realsrt", values)


def test_options_have_the_models_own_defaults(tiny):
    method = RealSRT(dataclasses.replace(tiny, steps=7, schedule="cosine"))
    found = method.options(temperature=None, confidence=True)
    assert found == RealSRTOptions(steps=7, schedule="cosine", confidence=True)
    assert not found.stochastic and method.options(temperature=0.5).stochastic
    assert method.options(steps=2).steps == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alpha": 0.5}, "alpha: realsrt has no such option; expected one of color_fix, confid"),
        ({"steps": 0}, "steps: expected at least 1, found 0"),
        ({"rule": "luck"}, "rule: expected one of critic, confidence, found 'luck'"),
        ({"temperature": -0.1}, "temperature: expected 0 or more"),
        ({"temperature": float("nan")}, "temperature: expected 0 or more"),
        ({"schedule": "quick"}, "mask schedule: expected one of"),
        ({"color_fix": "warm"}, "color_fix: expected one of adain, wavelet, none, found 'warm'"),
    ],
)
def test_options_out_of_range_are_named(method, given, message):
    with pytest.raises(ValueError, match=message):
        method.options(**given)


def test_parts_must_fit(tiny):
    with pytest.raises(ValueError, match=r"tile.sides: expected one side, which × 4 is a multiple"):
        RealSRT(dataclasses.replace(tiny, tile=TileSpec(sides=(15,), overlap=0)))
    with pytest.raises(ValueError, match=r"tile.sides: expected one side, .* found \(16, 32\)"):
        RealSRT(dataclasses.replace(tiny, tile=TileSpec(sides=(16, 32), overlap=0)))
    with pytest.raises(ValueError, match=r"generator: expected grid \(16, 16\) and code width 16"):
        RealSRT(dataclasses.replace(tiny, tile=TileSpec(sides=(32,), overlap=16)))
    critic = dataclasses.replace(tiny.critic, code_width=8)
    with pytest.raises(ValueError, match="critic: expected grid .* found .* and 8"):
        RealSRT(dataclasses.replace(tiny, critic=critic))


def test_unknown_method():
    with pytest.raises(ValueError, match="method: expected one of realsrt, .*, found 'sr9'"):
        registry.build("sr9", {})


def test_a_groups_start_does_not_depend_on_the_others(method):
    """Stages that start apart give what one start of everything gives."""

    @jax.jit
    def both(key):
        together, stats = method.init(key, method.groups)
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
    assert sorted(exported) == sorted(method.groups)
    assert stages["tokenizer"].batch == ("hr",)
    ready = set()
    for stage in stages.values():
        assert set(stage.needs) <= ready
        assert [group for phase in stage.phases for group in phase.groups] == list(stage.trains)
        ready |= set(stage.exports)


@pytest.mark.parametrize("name", KINDS)
def test_every_stage_fits_together_without_a_gan(tiny, losses, name):
    method = small.build(name, tiny, losses, adversarial_weight=0.0)
    batch = {"hr": (4, 64, 64, 3), "lr": (4, 16, 16, 3)}
    batch = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in batch.items()}
    for stage in method.stages.values():
        assert "discriminator" not in stage.trains
        small.check_stage(method, stage, batch)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pixel": "l7"}, "losses.pixel: expected one of l1, l2, found 'l7'"),
        ({"perceptual": "vgg99"}, "losses.perceptual: expected one of lpips_squeeze, .* 'vgg99'"),
        ({"bypass": 0.5}, "losses: unknown field 'bypass'"),
    ],
)
def test_losses_that_do_not_exist_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        registry.build("realsrt", {}, losses=values)


@pytest.mark.parametrize("name", KINDS)
def test_control_learns_from_the_image_it_renders(tiny, losses, name):
    """The loss, taken apart for the adaptive weight, has the gradient of the whole."""
    method = small.build(name, tiny, losses, adversarial_weight=0.0, pixel="l2")
    hr = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
    batch = {"hr": hr, "lr": hr.reshape(2, 16, 4, 16, 4, 3).mean((2, 4))}
    key = jax.random.key(2)

    rng = np.random.default_rng(0)  # no zero convolution is closed
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), jnp.float32), method.shapes()
    )
    (phase,) = method.stages["control"].phases
    upsampled = method.upsample(batch["lr"])
    options = method.options(steps=losses.control_steps)

    @jax.jit
    def both(params):
        tokens = method.generate(params, upsampled, jax.random.split(key, 2), options).tokens
        tokens = tokens.reshape(2, *method.grid)
        trained = {path: weights.part(params, path) for path in phase.groups}

        def taken_apart(trained):
            everything = weights.merged(params, trained)
            return phase.loss(everything, {}, batch, key, jnp.int32(0))[0]

        def whole(trained):
            image = method.render(weights.merged(params, trained), tokens, upsampled)
            return jnp.mean(jnp.square(image - hr))

        return jax.grad(taken_apart)(trained), jax.grad(whole)(trained)

    found, expected = both(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected["control"]["zero"]))
    if name == RealSRTTuned.name:
        decoder = jax.tree.leaves(expected["tokenizer/decoder"])
        assert all(jnp.abs(leaf).max() > 0 for leaf in decoder)
