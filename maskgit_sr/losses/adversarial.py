"""Hinge GAN losses and the adaptive weight, with each gradient computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image, Scalar

Logits = Float[Array, "B h w 1"]


def hinge_discriminator(real: Logits, fake: Logits) -> Scalar:
    """Returns 0.5·(mean relu(1 − real) + mean relu(1 + fake))."""
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake)))


def hinge_generator(fake: Logits) -> Scalar:
    """Returns −mean(fake)."""
    return -jnp.mean(fake)


def nonsaturating_discriminator(real: Logits, fake: Logits) -> Scalar:
    """Returns mean softplus(−real) + mean softplus(fake) (Goodfellow et al. 2014)."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def nonsaturating_generator(fake: Logits) -> Scalar:
    """Returns mean softplus(−fake)."""
    return jnp.mean(jax.nn.softplus(-fake))


def r1_penalty(judge: Callable[[Image], Logits], real: Image) -> Scalar:
    """Returns the batch's mean of ‖∂ Σ logits / ∂image‖² at real images (Mescheder et al. 2018).

    Logits of an image must not depend on its neighbours, as those behind a batch norm do.
    """
    gradient = jax.grad(lambda image: jnp.sum(judge(image)))(real).astype(jnp.float32)
    return jnp.mean(jnp.sum(jnp.square(gradient), axis=(1, 2, 3)))


class Balanced(NamedTuple):
    """Losses and image of `balanced_loss`.

    Attributes:
        surrogate: value 0, gradient of reconstruction + scale · weight · adversarial.
        image: the network's output [B, H, W, 3].
        reconstruction: the reconstruction loss.
        adversarial: the generator's GAN loss; None without a GAN.
        weight: the adaptive weight; None without a GAN.
    """

    surrogate: Scalar
    image: Image
    reconstruction: Scalar
    adversarial: Scalar | None
    weight: Scalar | None


def balanced_loss(
    features: jax.Array,
    last_layer: Any,
    tail: Callable[[Any, jax.Array], Image],
    reconstruction: Callable[[Image], Scalar],
    adversarial: Callable[[Image], Scalar] | None,
    scale: jax.Array | float = 1.0,
    *,
    kernel: Callable[[Any], jax.Array] = lambda layer: layer["kernel"],
    eps: float = 1e-4,
    ceiling: float = 1e4,
) -> Balanced:
    """Returns reconstruction plus adversarial loss under taming-transformers' adaptive weight.

    weight = ‖∂reconstruction/∂W‖ / (‖∂adversarial/∂W‖ + eps), clipped to ``ceiling``, W the last
    layer's kernel (Esser et al. 2021, eq. 7). Written naively that takes two extra backward passes
    through the network; here the gradient of each loss passes ``tail`` once, and their weighted
    sum goes on from ``features`` as one.

    Args:
        features: input of the last layer, still attached to the network's parameters.
        last_layer: parameters of the last layer, or all that ``tail`` trains.
        kernel: picks W from such parameters.
        tail: (last_layer, features) → image.
        scale: factor on the adversarial loss, 0 before the GAN starts; an array decides at run
            time.
        eps, ceiling: as in taming-transformers.
    """
    # The forward pass of `tail` is shared: `pull` is linear, and is called once for each loss. Both
    # of its arguments are cut off the graph, because the gradient that the network gets is put
    # together below and must not also flow by way of `image`.
    image, pull = jax.vjp(tail, jax.lax.stop_gradient(last_layer), jax.lax.stop_gradient(features))
    value, image_grad = jax.value_and_grad(reconstruction)(image)
    grads = pull(image_grad)
    adversarial_value = weight = None
    if adversarial is not None:

        def balance() -> tuple[Any, Scalar, Scalar]:
            value, image_grad = jax.value_and_grad(adversarial)(image)
            others = pull(image_grad)
            norm, other_norm = (jnp.linalg.norm(kernel(g[0])) for g in (grads, others))
            weight = jnp.clip(norm / (other_norm + eps), 0.0, ceiling)
            # Cast, because a float32 weight would turn bfloat16 gradients into float32 ones.
            mixed = jax.tree.map(
                lambda a, b: a + (scale * weight).astype(a.dtype) * b, grads, others
            )
            return mixed, value, weight

        def before() -> tuple[Any, Scalar, Scalar]:
            return grads, jnp.float32(0), jnp.float32(0)

        # Without a branch where tracing can decide: behind lax.cond the GAN made a step on CPUs
        # twice as slow as its FLOPs say (docs/performance.md).
        if isinstance(scale, float):
            found = balance() if scale > 0 else before()
        else:
            found = jax.lax.cond(scale > 0, balance, before)
        grads, adversarial_value, weight = found
    # ⟨x, grad⟩ has the gradient `grad` in x, so the caller's one backward pass through the network
    # starts from `features` with the mixed gradient. The weight is part of the constant, so no
    # gradient flows through it.
    leaves = zip(jax.tree.leaves((last_layer, features)), jax.tree.leaves(grads), strict=True)
    surrogate = sum((_linear(leaf, grad) for leaf, grad in leaves), jnp.float32(0))
    return Balanced(surrogate, image, value, adversarial_value, weight)


def _linear(x: jax.Array, grad: jax.Array) -> Scalar:
    """Returns zero, with the gradient ``grad`` in x."""
    grad = jax.lax.stop_gradient(grad)
    # A sum over all features: bfloat16 holds two to three digits.
    product = jnp.sum(x.astype(jnp.float32) * grad.astype(jnp.float32))
    return product - jax.lax.stop_gradient(product)
