"""methods.structure: the stage `distil`, options, and one program for every strength."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.bundles import Metadata
from maskgit_sr.errors import UserError
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.losses import adversarial as gan
from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.structure import DistilLosses, Structure, StructureMethodConfig
from maskgit_sr.models.discriminator import DiscriminatorConfig
from maskgit_sr.models.structure import StructureConfig
from tests.methods.small import random_params

CONFIG = StructureMethodConfig(TileSpec((8, 16), 4), StructureConfig(2, width=8, depth=2))
KEY, STEP = jax.random.key(0), jnp.int32(0)


def method(**losses):
    plain = dict(perceptual="none", perceptual_weight=0.0)
    discriminator = DiscriminatorConfig(filters=8, layers=1)
    return Structure(CONFIG, DistilLosses(discriminator=discriminator, **(plain | losses)))


@pytest.fixture(scope="module")
def params():
    return random_params(method())


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(KEY, 3)
    return {
        "lr": jax.random.uniform(keys[0], (2, 8, 8, 3)),
        "teacher": jax.random.uniform(keys[1], (2, 16, 16, 3)),
        "hr": jax.random.uniform(keys[2], (2, 16, 16, 3)),
        "strength": jnp.asarray([1.0, 0.3]),
    }


def restored(params, batch):
    m = method()
    call = lambda p: m.structure.apply(p, lambda n: n(batch["lr"], batch["strength"]))  # noqa: E731
    return jax.jit(call)(params["structure"])


def differentiated(m, params, batch):
    """Loss, result and gradient of the first phase."""
    (phase, *_) = m.stages["distil"].phases
    inputs = {name: batch[name] for name in m.stages["distil"].batch}

    def loss(trained):
        return phase.loss(params | {"structure": trained}, {}, inputs, KEY, STEP)

    (value, result), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(params["structure"])
    return value, result, grad


def test_the_loss_is_the_distance_to_the_teacher(params, batch):
    output = restored(params, batch)
    _, result, grad = differentiated(method(), params, batch)
    expected = np.abs(output - batch["teacher"]).mean()
    np.testing.assert_allclose(result.metrics["reconstruction"], expected, rtol=1e-5)
    np.testing.assert_allclose(result.carry["fake"], output, rtol=1e-4, atol=1e-5)

    def plain(trained):
        call = lambda n: n(batch["lr"], batch["strength"])  # noqa: E731
        return jnp.abs(method().structure.apply(trained, call) - batch["teacher"]).mean()

    right = jax.jit(jax.grad(plain))(params["structure"])
    for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


def test_an_output_that_is_the_teachers_has_no_loss(params, batch):
    _, result, _ = differentiated(method(pixel="l2"), params, batch)
    same = batch | {"teacher": result.carry["fake"]}
    _, again, grad = differentiated(method(pixel="l2"), params, same)
    assert again.metrics["reconstruction"] < 1e-12 < result.metrics["reconstruction"]
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grad)) < 1e-5


def test_hr_weight_mixes_both_targets(params, batch):
    assert method().stages["distil"].batch == ("lr", "teacher", "strength")
    assert set(method(hr_weight=0.5).stages["distil"].batch) == {*batch}
    losses, grads = {}, {}
    for weight in (0.0, 0.25, 1.0):
        _, result, grad = differentiated(method(hr_weight=weight), params, batch)
        losses[weight], grads[weight] = result.metrics["reconstruction"], grad
    np.testing.assert_allclose(losses[0.25], 0.75 * losses[0.0] + 0.25 * losses[1.0], rtol=1e-5)
    expected = np.abs(restored(params, batch) - batch["hr"]).mean()
    np.testing.assert_allclose(losses[1.0], expected, rtol=1e-5)
    mixed = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, grads[0.0], grads[1.0])
    for a, b in zip(jax.tree.leaves(grads[0.25]), jax.tree.leaves(mixed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


def test_the_discriminator_takes_the_teacher_for_real(params, batch):
    assert len(method().stages["distil"].phases) == 1
    m = method(adversarial_weight=0.1)
    first, second = m.stages["distil"].phases
    assert (first.groups, second.groups) == (("structure",), ("discriminator",))
    judge, _ = jax.jit(lambda key: m.init(key, ("discriminator",)))(KEY)
    everything = params | judge
    _, result, _ = differentiated(m, everything, batch)
    assert result.metrics["adaptive_weight"] > 0 and "hr" not in m.stages["distil"].batch
    inputs = {name: batch[name] for name in m.stages["distil"].batch} | result.carry

    @jax.jit
    def both(params):
        loss, found = second.loss(params, {}, inputs, KEY, STEP)
        logits = [
            m.discriminator.apply(params["discriminator"], lambda n, image=image: n(image))
            for image in (batch["teacher"], result.carry["fake"])
        ]
        return loss, found.metrics, gan.hinge_discriminator(*logits), logits[0].mean()

    loss, metrics, expected, real = both(everything)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["real"], real, rtol=1e-4)


def test_the_panel_is_drawn_at_full_strength(params, batch):
    draw = jax.jit(method().stages["distil"].panel)
    found = draw(params, batch, KEY)
    assert found.keys() == {"output", "teacher", "hr"}
    whole = restored(params, batch | {"strength": jnp.ones(2)})
    np.testing.assert_allclose(found["output"], whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["teacher"], batch["teacher"])
    taught = {name: batch[name] for name in ("lr", "teacher", "strength")}
    assert draw(params, taught, KEY).keys() == {"output", "teacher"}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"hr_weight": 1.5}, "losses.hr_weight: expected 0 to 1, found 1.5"),
        ({"hr_weight": float("nan")}, "losses.hr_weight: expected 0 to 1, found nan"),
        ({"perceptual": "none+luck"}, "losses.perceptual: expected one of .*, found 'luck'"),
        ({"pixel": "l3"}, "losses.pixel: expected one of l1, l2, found 'l3'"),
    ],
)
def test_losses_out_of_range_are_named(losses, message):
    with pytest.raises(ValueError, match=message):
        DistilLosses(**losses)


def test_every_group_has_fresh_parameters_of_its_own():
    m = method(adversarial_weight=0.1)
    both = jax.jit(lambda key: m.init(key, ("structure", "discriminator"))[0])(KEY)
    alone = jax.jit(lambda key: m.init(key, ("structure",))[0])(KEY)
    for a, b in zip(*(jax.tree.leaves(p["structure"]) for p in (both, alone)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def upscaler(params):
    m = method()
    metadata = Metadata(m.name, m.describe(), m.scale)
    return Upscaler(m, params, metadata, batch=1, device=jax.devices("cpu")[0])


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (2, "strength: expected 0 to 1, found 2.0"),
        (-0.1, "strength: expected 0 to 1, found -0.1"),
        (float("nan"), "strength: expected 0 to 1, found nan"),
        ("full", "strength: expected float, found 'full'"),
    ],
)
def test_a_strength_out_of_range_is_named(upscaler, strength, message):
    with pytest.raises(UserError, match=message) as caught:
        upscaler(np.zeros((8, 8, 3), np.uint8), strength=strength)
    assert "\n" not in str(caught.value)


def test_it_is_exported_for_any_batch(params):
    m = method()
    (batch,) = jax.export.symbolic_shape("b")
    lr = jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)

    def restore(lr):
        return m.restore(params, lr, None, m.options(strength=0.5)).image

    exported = jax.export.export(jax.jit(restore))(lr)
    for count in (1, 3):
        lr = jax.random.uniform(KEY, (count, 8, 8, 3))
        expected = restored(params, {"lr": lr, "strength": jnp.full(count, 0.5)})
        np.testing.assert_allclose(exported.call(lr), expected, rtol=1e-4, atol=1e-5)


def test_every_strength_has_the_same_program(upscaler, params, monkeypatch):
    traced, plain = [], upscaler.method.restore

    def restore(*given):
        traced.append(given[-1])
        return plain(*given)

    monkeypatch.setattr(upscaler.method, "restore", restore)
    lr = np.random.default_rng(0).random((8, 8, 3), np.float32)
    found = {strength: upscaler(lr, strength=strength).image for strength in (1.0, 0.7, 0, 0.7)}
    assert len(traced) == 1
    for strength, image in found.items():
        given = {"lr": lr[None], "strength": jnp.asarray([strength], jnp.float32)}
        expected = np.clip(restored(params, given)[0], 0, 1)
        np.testing.assert_allclose(image, expected, atol=1e-4)
    assert np.abs(found[0] - found[1.0]).max() > 1e-3
    upscaler(lr, color_fix="adain", strength=0.5)
    assert len(traced) == 2
    assert dataclasses.asdict(upscaler.options())["strength"] == 1.0
