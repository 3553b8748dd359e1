"""models.structure against NumPy, lax and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_sr.models.functional import Network
from maskgit_sr.models.structure import Structure, StructureConfig, activate

CONFIG = StructureConfig(scale=2, width=6, depth=2)


def network(dtype=jnp.float32, remat=False):
    return Network(lambda rngs: Structure(CONFIG, dtype=dtype, remat=remat, rngs=rngs))


def draws(shapes, seed=0):
    """A value for every parameter, none of them zero: residual convolutions and `keep` too."""
    rng = np.random.default_rng(seed)

    def fill(shape):
        deviation = 0.2 if len(shape.shape) < 4 else np.prod(shape.shape[-4:-1]) ** -0.5
        return jnp.asarray(rng.normal(0, deviation, shape.shape), jnp.float32)

    return jax.tree.map(fill, shapes)


@pytest.fixture(scope="module")
def params():
    return draws(network().shapes)


LR = jax.random.uniform(jax.random.key(1), (3, 6, 9, 3))
STRENGTH = jnp.asarray([0.0, 0.4, 1.0])


def run(params, strength=STRENGTH, lr=LR, unroll=False, **options):
    return jax.jit(lambda p: network(**options).apply(p, lambda m: m(lr, strength, unroll)))(params)


def oracle(params, lr, strength):
    """The network by NumPy loops over the taps, one image at a time, in float64."""

    def convolve(x, kernel):
        height, width = x.shape[:2]
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        return sum(
            padded[i : i + height, j : j + width] @ kernel[i, j] for i, j in np.ndindex(3, 3)
        )

    def layer(x, group, index, weakness):
        weights = {name: np.asarray(leaf[index], np.float64) for name, leaf in group.items()}
        drive = convolve(x, weights["kernel"]) + weights["bias"] + weakness * weights["keep"]
        return np.where(drive > 0, drive, weights["slope"] * drive)

    def restore(image, weakness):
        x = layer(image, params["head"], 0, weakness)
        for index in range(CONFIG.depth):
            x = layer(x, params["plain"], index, weakness)
            x = x + layer(x, params["residual"], index, weakness)
        drawn = convolve(x, np.asarray(params["tail"]["kernel"], np.float64))
        drawn = drawn + np.asarray(params["tail"]["bias"])
        out = image.repeat(CONFIG.scale, 0).repeat(CONFIG.scale, 1)
        for y, x in np.ndindex(CONFIG.scale, CONFIG.scale):  # sub-pixels: (row, column, channel)
            channel = 3 * (CONFIG.scale * y + x)
            out[y :: CONFIG.scale, x :: CONFIG.scale] += drawn[..., channel : channel + 3]
        return out

    pairs = zip(np.asarray(lr, np.float64), np.asarray(strength, np.float64), strict=True)
    return np.stack([restore(image, 1 - s) for image, s in pairs])


@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_is_its_formula(params, batch):
    lr, strength = LR[:batch], STRENGTH[:batch]
    found = run(params, strength, lr)
    assert found.shape == (batch, 12, 18, 3) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, oracle(params, lr, strength), rtol=1e-4, atol=1e-4)


def test_fresh_residual_convolutions_leave_the_plain_chain():
    fresh = jax.jit(network().init)(jax.random.key(0))
    assert not fresh["residual"]["kernel"].any() and not fresh["residual"]["bias"].any()
    assert fresh["plain"]["kernel"].any() and fresh["head"]["kernel"].any()

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    @jax.jit
    def chain(params):
        x = LR
        kernels = jnp.split(params["plain"]["kernel"], CONFIG.depth)
        for kernel in (params["head"]["kernel"], *kernels):
            x = jax.nn.leaky_relu(convolve(x, kernel[0]), 0.25)
        return convolve(x, params["tail"]["kernel"])

    bound = jax.jit(lambda p: network().bind(p)(LR, STRENGTH))(fresh)
    plain = chain(fresh).reshape(3, 6, 9, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    expected = plain.reshape(3, 12, 18, 3) + LR.repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(bound, expected, rtol=1e-4, atol=1e-5)


def test_keep_has_a_part_below_full_strength_only(params):
    def without(name):
        return params[name] | {"keep": jnp.zeros_like(params[name]["keep"])}

    none = params | {name: without(name) for name in ("head", "plain", "residual")}
    for strength, differs in ((1.0, False), (0.5, True), (0.0, True)):
        whole = jnp.full(3, strength)
        assert bool((run(params, whole) != run(none, whole)).any()) == differs
    # At strength 0 it is one with the bias.
    moved = none | {
        name: none[name] | {"bias": params[name]["bias"] + params[name]["keep"]}
        for name in ("head", "plain", "residual")
    }
    zero = jnp.zeros(3)
    np.testing.assert_allclose(run(params, zero), run(moved, zero), rtol=1e-4, atol=1e-5)
    # Each image has its own.
    each = run(params, STRENGTH)
    for index, strength in enumerate(STRENGTH):
        alone = run(params, strength[None], LR[index : index + 1])
        np.testing.assert_allclose(each[index], alone[0], rtol=1e-4, atol=1e-5)


def test_loops_and_rematerialisation_change_nothing(params):
    def both(unroll, **options):
        def loss(params):
            return jnp.square(
                network(**options).apply(params, lambda m: m(LR, STRENGTH, unroll))
            ).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    plain = both(False)
    for other in (both(True), both(False, remat=True), both(True, remat=True)):
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4 * np.abs(a).max())


def test_bfloat16_is_close_to_float32(params):
    plain, coarse = run(params), run(params, dtype=jnp.bfloat16)
    assert coarse.dtype == jnp.float32
    error = np.abs(coarse - plain)
    assert 0 < error.mean() < 0.01 * np.abs(plain).mean()
    # The skip is added in float32: with a silent tail every pixel is exact.
    silent = params | {"tail": jax.tree.map(jnp.zeros_like, params["tail"])}
    exact = LR.repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(run(silent, dtype=jnp.bfloat16), exact)


@jax.jit
def gradients(x, bias, keep, slope, weakness, inside, target):
    """Value and gradients of `activate`, then those of its formula."""

    def plain(x, bias, keep, slope):
        drive = x + bias[None, None, None] + weakness * keep[None, None, None]
        return jnp.where(drive > 0, drive, slope[None, None, None] * drive) * inside

    def ours(x, bias, keep, slope):
        return activate(x, bias, keep, slope, weakness, inside)

    pulled = [jax.vjp(function, x, bias, keep, slope) for function in (ours, plain)]
    return [(value, *pull(target)) for value, pull in pulled]


@settings(max_examples=30)
@given(
    shape=st.sampled_from([(1, 1, 1, 1), (3, 2, 5, 4), (2, 4, 1, 3)]),
    scale=st.floats(0.01, 10),
    seed=st.integers(0, 2**31),
)
def test_gradients_of_activate_are_autodiffs(shape, scale, seed):
    rng = np.random.default_rng(seed)
    x, target = (np.float32(scale * rng.normal(size=shape)) for _ in range(2))
    vectors = [np.float32(rng.normal(size=shape[-1])) for _ in range(3)]
    weakness = np.float32(rng.uniform(size=(shape[0], 1, 1, 1)))
    inside = np.float32(rng.integers(0, 2, (1, 1, shape[2], 1)))
    found, expected = gradients(x, *vectors, weakness, inside, target)
    for ours, plain in zip(found, expected, strict=True):
        assert ours.shape == plain.shape
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4 * max(1, scale**2))


def test_parameters_are_counted_by_layers():
    module = nnx.eval_shape(
        lambda: Structure(StructureConfig(), dtype=jnp.float32, remat=False, rngs=nnx.Rngs(0))
    )
    shapes = {"/".join(map(str, p)): v.shape for p, v in nnx.to_flat_state(nnx.state(module))}
    assert shapes["plain/kernel"] == shapes["residual/kernel"] == (16, 3, 3, 64, 64)
    assert shapes["head/kernel"] == (1, 3, 3, 3, 64) and shapes["tail/kernel"] == (3, 3, 64, 48)
