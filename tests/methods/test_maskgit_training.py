"""methods.maskgit_training and the correction's stage: losses, metrics, who gets a gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.methods.maskgit_training import MaskGITLosses
from maskgit_sr.methods.sr_maskgit import Correction
from maskgit_sr.models.discriminator import DiscriminatorConfig
from tests.methods import small

CODES = 16


@pytest.fixture(scope="module")
def correction():
    losses = MaskGITLosses(perceptual="none", perceptual_weight=0.0, adversarial_weight=0.0)
    return Correction(small.maskgit(Correction.name), losses)


@pytest.fixture(scope="module")
def params(correction):
    return small.random_params(correction)


def test_metrics_of_the_token_stages(correction, params):
    rng = np.random.default_rng(2)
    batch = {
        "hr": jnp.asarray(rng.uniform(0, 1, (4, 32, 32, 3)), jnp.float32),
        "lr": jnp.asarray(rng.uniform(0, 1, (4, 16, 16, 3)), jnp.float32),
    }
    hr = np.asarray(correction.tokenize(params, batch["hr"])).reshape(4, -1)
    lr = np.asarray(correction.tokenize(params, correction.upsample(batch["lr"]))).reshape(4, -1)
    stages = correction.stages
    key = jax.random.key(0)

    def metrics(stage, method=correction):
        loss = method.stages[stage].phases[0].loss
        value, result = loss(params, {}, batch, key, jnp.int32(0))
        return float(value), {name: float(x) for name, x in result.metrics.items()}

    value, found = metrics("correction")
    logits = np.asarray(jax.nn.log_softmax(correction.logits(params, jnp.asarray(lr))))
    expected = -np.take_along_axis(logits, hr[..., None], -1).mean()
    assert value == found["cross_entropy"] == pytest.approx(expected, rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == hr).mean())
    assert found["copy_accuracy"] == pytest.approx((hr == lr).mean())

    value, found = metrics("prior")
    share = np.bincount(hr.reshape(-1), minlength=CODES) / hr.size
    entropy = -np.sum(share[share > 0] * np.log(share[share > 0]))
    assert found["unigram_entropy"] == pytest.approx(entropy, rel=1e-4)
    assert value > 0 and value != found["cross_entropy"]  # smoothed
    assert stages["correction"].continues == ("transformer",)

    losses = dataclasses.replace(correction.losses, joined=0.5)
    value, found = metrics("correction", Correction(correction.config, losses))
    assert 0 <= found["joined_accuracy"] <= 1 and np.isfinite(value)


def test_codes_and_encoder_both_get_gradients(correction):
    """Codebook loss moves codes alone, commitment the encoder alone."""
    params, _ = correction.init(jax.random.key(0), ("tokenizer",))
    batch = {"hr": jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))}

    @jax.jit  # of the factors too, since each program takes seconds to compile
    def compiled(params, factors):
        losses = dataclasses.replace(correction.losses, **factors)
        loss = Correction(correction.config, losses).stages["tokenizer"].phases[0].loss
        return jax.grad(lambda p: loss(p, {}, batch, jax.random.key(2), jnp.int32(0))[0])(params)

    def gradient(**factors):
        found = compiled(params, dict(codebook=0.0, commitment=0.0, entropy=0.0) | factors)
        found = found["tokenizer"]
        parts = (found["codebook"]["embedding"], found["encoder"]["conv_out"]["kernel"])
        return [np.asarray(part) for part in parts]

    none = gradient()
    assert not none[0].any() and none[1].any()  # straight through: the encoder's alone
    codes, encoder = gradient(codebook=1.0)
    assert codes.any() and np.allclose(encoder, none[1])
    codes, encoder = gradient(commitment=1.0)
    assert not codes.any() and not np.allclose(encoder, none[1])
    codes, encoder = gradient(entropy=1.0)
    assert codes.any() and not np.allclose(encoder, none[1])


def test_control_starts_from_the_tokens_alone(correction):
    """A fresh module changes nothing; its loss is of the predicted tokens' image."""
    method = Correction(dataclasses.replace(correction.config, control=True), correction.losses)
    stage = method.stages["control"]
    params = small.random_params(method)
    fresh, _ = method.init(jax.random.key(3), ("control",))
    params = stage.start(params | fresh)
    encoder = params["tokenizer"]["encoder"]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params["control"]["encoder"], encoder))
    rng = np.random.default_rng(4)
    lr = jnp.asarray(rng.uniform(0, 1, (2, 16, 16, 3)), jnp.float32)
    hr = jnp.asarray(rng.uniform(0, 1, (2, 32, 32, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)

    def image(params, **options):
        return method.restore(params, lr, keys, method.options(**options)).image

    plain = image(params, control=False)
    assert np.array_equal(image(params), plain)
    loss = stage.phases[0].loss
    batch, key = {"lr": lr, "hr": hr}, jax.random.key(1)
    value, result = loss(params, {}, batch, key, jnp.int32(0))
    assert float(value) == pytest.approx(float(jnp.mean(jnp.square(plain - hr))), rel=1e-5)
    assert set(result.carry) == {"fake"}
    zero = params["control"]["zero"] | {"bias": jnp.ones_like(params["control"]["zero"]["bias"])}
    moved = params | {"control": params["control"] | {"zero": zero}}
    assert not np.allclose(image(moved), plain)
    assert np.array_equal(image(moved, control=False), plain)


def test_the_gan_waits_for_its_start(correction):
    losses = dataclasses.replace(
        correction.losses,
        adversarial_weight=0.5,
        adversarial_start=3,
        r1=2.0,
        discriminator=DiscriminatorConfig(8, 1, norms=False),
    )
    method = Correction(correction.config, losses)
    params, _ = method.init(jax.random.key(0), ("tokenizer", "discriminator"))
    batch = {"hr": jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))}
    first, second = method.stages["tokenizer"].phases
    assert second.groups == ("discriminator",)

    def run(step):
        loss, result = first.loss(params, {}, batch, jax.random.key(2), jnp.int32(step))
        judged, found = second.loss(
            params, {}, batch | result.carry, jax.random.key(2), jnp.int32(step)
        )
        return float(loss), float(judged), result.metrics | found.metrics

    before, after = run(2), run(3)
    assert before[1] == 0
    both = after[2]
    assert after[0] - before[0] == pytest.approx(0.5 * float(both["adversarial"]), rel=1e-3)
    assert after[1] == pytest.approx(float(both["discriminator"] + 2 * both["r1"]), rel=1e-5)
