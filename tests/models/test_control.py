"""models.control: a fresh module changes nothing; a trained one follows the LR image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskgit_sr.methods.realsrt_variants import (
    MultiscaleConfig,
    RealSRTMultiscale,
    RealSRTMultiscaleConfig,
)
from maskgit_sr.models import control
from maskgit_sr.models.functional import flatten
from maskgit_sr.models.vqgan import Decoder
from maskgit_sr.ops.filters import gaussian_blur, unsharp_mask, without_grid

LATENT = jax.random.normal(jax.random.key(1), (2, 8, 8, 16))
UPSAMPLED = jax.random.uniform(jax.random.key(2), (2, 64, 64, 3))


def test_fresh_module_ends_in_zeros(method):
    zero = jax.jit(lambda key: method.control.init(key)["zero"])(jax.random.key(0))
    assert zero["kernel"].shape == (1, 1, 32, 16)
    assert not zero["kernel"].any() and not zero["bias"].any()


def test_zeros_are_identity_and_features_follow_both_inputs(method, params):
    params = params["control"] | {"zero": jax.tree.map(jnp.zeros_like, params["control"]["zero"])}
    latent, upsampled = LATENT, UPSAMPLED

    @jax.jit
    def run(params, latent, upsampled):
        module = method.control.bind(params)
        return module(latent, upsampled), module.features(latent, upsampled)

    output, features = run(params, latent, upsampled)
    np.testing.assert_array_equal(output, latent)
    assert features.shape == (2, 8, 8, 32)
    for other in (run(params, latent + 1, upsampled), run(params, latent, upsampled[::-1])):
        assert not jnp.allclose(other[1], features, atol=1e-3)

    params["zero"]["kernel"] = params["zero"]["kernel"] + 0.1
    moved, _ = run(params, latent, upsampled)
    expected = latent + 0.1 * features.sum(-1, keepdims=True)
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module", params=[(0.0, 0.0), (2.0, 0.7)])
def filters(request):
    """Amount of the mask below, sigma of the blur above."""
    return dict(zip(("sharpen", "soften"), request.param, strict=True))


@pytest.fixture(scope="module")
def multiscale(tiny, filters):
    network = dataclasses.replace(tiny.tokenizer, channels=(32, 64), decoder_bottom=1)
    parts = {field.name: getattr(tiny, field.name) for field in dataclasses.fields(tiny)}
    module = MultiscaleConfig(**filters, network=network)
    return RealSRTMultiscale(RealSRTMultiscaleConfig(**parts, control=module))


@pytest.fixture(scope="module")
def fresh(multiscale):
    return jax.jit(lambda key: multiscale.init(key, ("control",))[0]["control"])(jax.random.key(0))


@pytest.fixture(scope="module")
def steered(multiscale):
    """Jitted: parameters → the module's image of both inputs."""
    return jax.jit(lambda p: multiscale.control.apply(p, lambda m: m(LATENT, UPSAMPLED)))


def test_a_started_multiscale_module_returns_the_upsampled_image(steered, fresh, filters):
    started = control.start_multiscale(fresh)
    expected = unsharp_mask(UPSAMPLED, filters["sharpen"])
    np.testing.assert_allclose(steered(started), expected, atol=1e-6)
    before, after = flatten(fresh), flatten(started)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"decoder/conv_out/kernel"}  # its bias is zero anyway


def test_multiscale_module_adds_its_decoding_and_the_levels(multiscale, steered, fresh, filters):
    """With only the last convolution open it adds the decoder's image; then each level counts."""
    decode = jax.jit(lambda p: multiscale.control.apply(p, lambda m: m.decoder(LATENT)))
    closed = steered(fresh)
    drawn = without_grid(decode(fresh), 4)
    if filters["soften"]:
        drawn = gaussian_blur(drawn, filters["soften"])
    expected = unsharp_mask(UPSAMPLED, filters["sharpen"]) + drawn
    np.testing.assert_allclose(closed, expected, rtol=1e-4, atol=1e-5)
    (skip,) = fresh["skips"].values()
    assert skip["kernel"].shape == (1, 1, 32, 64)
    opened = fresh | {"skips": {"0": skip | {"kernel": skip["kernel"] + 0.1}}}
    assert jnp.abs(steered(opened) - closed).max() > 1e-2


@pytest.mark.parametrize("narrow", [False, True])
def test_skips_join_every_upsampling_coarsest_first(tiny, narrow):
    """Three levels of different widths: each skip has the shape of what it is added to."""
    config = dataclasses.replace(tiny.tokenizer, channels=(32, 64, 96), groups=0, narrow_up=narrow)

    def run(key):
        built = control.MultiscaleControl(config, dtype=jnp.float32, rngs=nnx.Rngs(key))
        image = jnp.zeros((1, 64, 64, 3))
        *finer, last = built.residual.encoder.levels(image)
        skips = [skip(level) for skip, level in zip(built.skips, finer, strict=True)]
        assert isinstance(built.decoder, Decoder)
        return skips, built(jnp.zeros_like(last), image)

    skips, output = jax.eval_shape(run, jax.eval_shape(lambda: jax.random.key(0)))
    widths = (32, 64) if narrow else (64, 96)
    assert [skip.shape for skip in skips] == [(1, 16, 16, widths[0]), (1, 8, 8, widths[1])]
    assert output.shape == (1, 64, 64, 3)
