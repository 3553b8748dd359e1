"""U-Net discriminator with spectral norms (Wang et al. 2021, Real-ESRGAN §3.4), which ITER uses."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskgit_sr.arrays import Image
from maskgit_sr.models.fields import Width
from maskgit_sr.models.layers import Feature, conv

Vectors = dict[str, Float[Array, " C"]]
"""Estimates of the normed kernels' largest left singular vectors, by the layer's index."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class UNetDiscriminatorConfig:
    """Shape of the discriminator.

    Attributes:
        filters: width at full resolution; doubled three times below.
    """

    filters: Width = 64


class UNetDiscriminator(nnx.Module):
    """Float32 logits [B, H, W, 1] of the pixels of an image [B, H, W, 3], sides multiples of 8.

    Its kernels but the first and the last are divided by their largest singular value, which one
    power iteration a step estimates from the vectors of the step before (Miyato et al. 2018).
    """

    def __init__(self, config: UNetDiscriminatorConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.dtype = dtype
        make = partial(conv, dtype=dtype, rngs=rngs)
        normed = partial(make, use_bias=False)
        w = config.filters
        down = [(w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)]
        up = [(8 * w, 4 * w), (4 * w, 2 * w), (2 * w, w), (w, w), (w, w)]
        self.conv_in = make(3, w)
        self.normed = nnx.List([normed(a, b, 4) for a, b in down] + [normed(a, b) for a, b in up])
        self.conv_out = make(w, 1)

    def vectors(self, key: jax.Array) -> Vectors:
        """Returns random unit vectors to begin with."""
        keys = jax.random.split(key, len(self.normed))
        found = {
            str(i): jax.random.normal(k, layer.kernel.shape[-1:])
            for i, (k, layer) in enumerate(zip(keys, self.normed, strict=True))
        }
        return {name: _unit(vector) for name, vector in found.items()}

    def iterate(self, vectors: Vectors) -> tuple[Vectors, Vectors]:
        """Returns the left and right vectors after one power iteration; no gradient."""
        left, right = {}, {}
        for name, vector in vectors.items():
            matrix = jax.lax.stop_gradient(self._matrix(int(name)))
            right[name] = _unit(matrix @ vector)
            left[name] = _unit(right[name] @ matrix)
        return left, right

    def __call__(self, image: Image, vectors: Vectors) -> Float[Array, "B H W 1"]:
        left, right = self.iterate(vectors)

        def apply(index: int, x: Feature, strides: int = 1) -> Feature:
            name = str(index)
            # The norm has a gradient, the vectors have none.
            norm = right[name] @ self._matrix(index) @ left[name]
            kernel = (self.normed[index].kernel[...] / norm).astype(self.dtype)
            x = jax.lax.conv_general_dilated(
                x.astype(self.dtype), kernel, (strides, strides), ((1, 1), (1, 1)),
                dimension_numbers=_LAYOUT,
            )  # fmt: skip
            return jax.nn.leaky_relu(x, 0.2)

        skips = [jax.nn.leaky_relu(self.conv_in(image), 0.2)]
        for index in range(3):
            skips.append(apply(index, skips[-1], strides=2))
        x = skips.pop()
        for index in range(3, 6):
            x = apply(index, _enlarge(x)) + skips.pop()
        x = apply(7, apply(6, x))
        return self.conv_out(x).astype(jnp.float32)  # losses are float32

    def _matrix(self, index: int) -> Float[Array, "M C"]:
        kernel = self.normed[index].kernel[...]
        return kernel.reshape(-1, kernel.shape[-1])


def _unit(vector: Float[Array, " C"]) -> Float[Array, " C"]:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


def _enlarge(x: Feature) -> Feature:
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "linear")
