"""Every registered method keeps the contract of `maskgit_sr.methods.base`."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.methods import image, registry
from maskgit_sr.models.functional import flatten
from maskgit_sr.ops.color import COLOR_FIXES
from tests.methods import small


@pytest.fixture(scope="module", params=list(registry.METHODS))
def method(request, tiny, losses):
    return small.build(request.param, tiny, losses)


@pytest.fixture(scope="module")
def restore(method):
    return jax.jit(method.restore, static_argnames="options")


def test_the_registry_knows_it_by_its_name(method):
    assert registry.METHODS[method.name] is type(method)
    assert method.scale >= 1 and isinstance(method.scale, int)
    assert method.provides <= {"confidence", "tokens"}


def test_a_bundle_has_its_groups_and_nothing_else(method):
    shapes = method.shapes()
    assert tuple(shapes) == method.groups or set(shapes) == set(method.groups)
    assert method.exact <= set(method.groups)
    params, stats = jax.eval_shape(lambda: method.init(jax.random.key(0), method.groups))
    assert small.shape_of(params) == small.shape_of(shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    continued = jax.eval_shape(method.continued_stats, params)
    assert small.shape_of(continued) == small.shape_of(stats)


def test_stages_build_on_those_before(method):
    ready = set()
    for stage in method.stages.values():
        assert set(stage.needs) <= ready and stage.batch
        assert set(stage.batch) <= {"lr", "hr", "teacher", "strength"}
        for path in stage.continues:
            assert path in stage.trains and path.partition("/")[0] in ready
        assert set(stage.exports) <= set(method.groups)
        ready |= set(stage.exports)
    assert ready == set(method.groups)


def test_every_stage_fits_together(method):
    side = method.tile.sides[-1]
    large = side * method.scale
    batch = {
        "strength": jax.ShapeDtypeStruct((4,), jnp.float32),
        "lr": jax.ShapeDtypeStruct((4, side, side, 3), jnp.float32),
        "hr": jax.ShapeDtypeStruct((4, large, large, 3), jnp.float32),
        "teacher": jax.ShapeDtypeStruct((4, large, large, 3), jnp.float32),
    }
    for stage in method.stages.values():
        small.check_stage(method, stage, batch)


@pytest.mark.parametrize("name", list(registry.METHODS))
def test_restoration_makes_no_network_that_only_trains(name, tiny, losses, monkeypatch):
    monkeypatch.setattr(image, "PatchDiscriminator", None)  # any use of it would raise
    method = small.build(name, tiny, losses)
    side = method.tile.sides[0]
    lr = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    options = method.options()
    restored = jax.eval_shape(lambda *a: method.restore(*a, options), method.shapes(), lr, keys)
    assert restored.image.shape == (1, method.scale * side, method.scale * side, 3)


def test_options_are_its_own(method):
    default = method.options()
    names = [field.name for field in dataclasses.fields(default)]
    assert default == method.options(**dict.fromkeys(names)) and hash(default) == hash(default)
    assert {"color_fix", "confidence"} <= set(names) and not default.confidence
    assert default.stochastic in (True, False)
    with pytest.raises(ValueError, match=f"luck: {method.name} has no such option; .*{names[-1]}"):
        method.options(luck=1)
    with pytest.raises(ValueError, match=f"color_fix: expected one of {', '.join(COLOR_FIXES)}"):
        method.options(color_fix="warm")
    if "confidence" in method.provides:
        assert method.options(confidence=True).confidence
    else:
        with pytest.raises(ValueError, match=f"confidence: {method.name} has none"):
            method.options(confidence=True)


def test_its_description_builds_it_again(method):
    values = json.loads(json.dumps(method.describe()))
    again = registry.build(method.name, values)
    assert again.describe() == method.describe() and again.tile == method.tile
    assert flatten(again.shapes()) == flatten(method.shapes())
    # Training is no part of it: renaming a loss must not break weights.
    training = {field.name for field in dataclasses.fields(method.losses)}
    assert not training & set(values)


def test_restored_windows(method, restore):
    params = small.random_params(method)
    keys = jax.random.split(jax.random.key(1), 2)
    for side in method.tile.sides:
        lr = jax.random.uniform(jax.random.key(side), (2, side, side, 3))
        options = method.options(confidence="confidence" in method.provides)
        found = restore(params, lr, keys, options=options)
        large = side * method.scale
        assert found.image.shape == (2, large, large, 3) and found.image.dtype == jnp.float32
        assert jnp.isfinite(found.image).all()
        for name in ("confidence", "tokens"):
            part = getattr(found, name)
            assert (part is not None) == (name in method.provides), name
            if part is not None:
                assert part.shape[0] == 2 and side % part.shape[1] == side % part.shape[2] == 0
        if found.confidence is not None:
            assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
            plain = restore(params, lr, keys, options=method.options())
            assert plain.confidence is None
            np.testing.assert_allclose(plain.image, found.image, atol=1e-4)
        turned = restore(params, lr[::-1], keys[::-1], options=options)
        np.testing.assert_allclose(turned.image[::-1], found.image, atol=1e-4)
        others = jax.random.split(jax.random.key(2), 2)
        changed = (restore(params, lr, others, options=options).image != found.image).any()
        assert changed == options.stochastic


@pytest.mark.parametrize("name", list(registry.METHODS))
def test_the_published_size_restores_by_shape(name):
    """Full-size networks are never allocated; any number of windows is one program, as exported."""
    method = registry.build(name, {})
    side = method.tile.sides[-1]
    (batch,) = jax.export.symbolic_shape("b")
    lr = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    keys = jax.ShapeDtypeStruct((batch,), jax.random.key(0).dtype)
    found = jax.eval_shape(
        lambda *given: method.restore(*given, method.options()), method.shapes(), lr, keys
    )
    assert found.image.shape == (batch, side * method.scale, side * method.scale, 3)
