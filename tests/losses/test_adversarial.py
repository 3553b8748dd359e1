"""losses.adversarial: hinge values, and one backward pass equal to the three of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.losses.adversarial import (
    balanced_loss,
    hinge_discriminator,
    hinge_generator,
    nonsaturating_discriminator,
    nonsaturating_generator,
    r1_penalty,
)

EPS, CEILING = 1e-4, 1e4


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_hinge():
    real, fake = np.array([-0.5, 0.2, 3.0]), np.array([-2.0, 0.5, 1.0])
    expected = 0.5 * (np.mean([1.5, 0.8, 0.0]) + np.mean([0.0, 1.5, 2.0]))
    np.testing.assert_allclose(hinge_discriminator(jnp.asarray(real), jnp.asarray(fake)), expected)
    np.testing.assert_allclose(hinge_generator(jnp.asarray(fake)), -fake.mean(), rtol=1e-6)


def test_nonsaturating():
    real, fake = np.array([-0.5, 0.2, 3.0]), np.array([-2.0, 0.5, 1.0])
    expected = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()
    found = nonsaturating_discriminator(jnp.asarray(real), jnp.asarray(fake))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    found = nonsaturating_generator(jnp.asarray(fake))
    np.testing.assert_allclose(found, np.log1p(np.exp(-fake)).mean(), rtol=1e-6)


def test_r1_penalty_is_the_squared_norm_of_each_image():
    images, weight = normal(6, 3, 4, 4, 3), normal(7, 1, 4, 4, 3)
    found = r1_penalty(lambda x: jnp.sum(weight * x**2, axis=3, keepdims=True), images)
    expected = (np.square(2 * weight * images).sum((1, 2, 3))).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


X, TARGET, JUDGE = normal(0, 2, 6), normal(1, 2, 3), normal(2, 3, 4)
PARAMS = {
    "first": normal(3, 6, 5),
    "last": {"kernel": normal(4, 5, 3), "bias": normal(5, 3)},
}


def features_of(first):
    return jnp.tanh(X @ first)


def tail(last, features):
    return jnp.sin(features @ last["kernel"] + last["bias"][None])


def reconstruction(image):
    return jnp.mean((image - TARGET) ** 2)


def adversarial(image):
    return -jnp.mean(jnp.tanh(image @ JUDGE))


def naive(scale, boost):
    """Gradient of reconstruction + scale · weight · adversarial with the weight's definition."""

    def losses(params):
        image = tail(params["last"], features_of(params["first"]))
        return reconstruction(image), boost * adversarial(image)

    grads = [jax.grad(lambda p, i=i: losses(p)[i])(PARAMS) for i in (0, 1)]
    norms = [jnp.linalg.norm(g["last"]["kernel"]) for g in grads]
    weight = jnp.clip(norms[0] / (norms[1] + EPS), 0, CEILING)
    mixed = jax.tree.map(lambda a, b: a + scale * weight * b, *grads)
    return losses(PARAMS), weight, mixed


def balanced(params, adversarial, scale=1.0, **options):
    """The surrogate, and all of `balanced_loss` beside it."""
    features = features_of(params["first"])
    found = balanced_loss(
        features, params["last"], tail, reconstruction, adversarial, scale, **options
    )
    return found.surrogate, found


def boosted(boost):
    return lambda image: boost * adversarial(image)


def assert_close(found, expected, atol=1e-7):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("scale", "boost"), [(1.0, 1.0), (0.8, 3.0), (1.0, 1e-9)])
def test_gradient_is_the_definitions(scale, boost):
    both = jax.value_and_grad(lambda p: balanced(p, boosted(boost), scale), has_aux=True)
    (value, found), grads = jax.jit(both)(PARAMS)
    losses, weight, expected = naive(scale, boost)
    assert value == 0
    np.testing.assert_allclose(found.image, tail(PARAMS["last"], features_of(PARAMS["first"])))
    np.testing.assert_allclose((found.reconstruction, found.adversarial), losses, rtol=1e-5)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-4)
    assert_close(grads, expected, atol=1e-6)


@pytest.mark.parametrize("given", [None, adversarial], ids=["no GAN", "before it starts"])
def test_without_the_adversarial_part(given):
    grads, found = jax.jit(jax.grad(lambda p: balanced(p, given, 0.0), has_aux=True))(PARAMS)
    plain = jax.grad(lambda p: reconstruction(tail(p["last"], features_of(p["first"]))))
    assert_close(grads, plain(PARAMS))
    assert found.weight is None or found.weight == 0


def test_no_gradient_flows_through_the_weight():
    """Doubling the discriminator changes the weight, and then nothing else."""
    once, twice = (
        jax.grad(lambda p, boost=boost: balanced(p, boosted(boost), eps=0.0)[0])(PARAMS)
        for boost in (1.0, 2.0)
    )
    assert_close(once, twice)
