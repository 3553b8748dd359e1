"""Batches laid side by side as one wide image, which CPUs convolve twice as fast.

XLA's CPU convolution works along rows in pieces of 128 pixels: 64 channels, 48² pixels and a batch
of 8 run at 148 GFLOP/s on two cores, the same pixels as one image of 48×392 at 310.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Values = Float[Array, "B"]
Spread = Float[Array, "..."]

_GAP = 1
"""Columns of zeros between two images: the padding that a 3×3 convolution takes."""


@dataclasses.dataclass(frozen=True)
class Strip:
    """Layout of a batch of B images of W columns; the identity where there is nothing to gain.

    Attributes:
        batch: B, or 0 for the identity.
        width: W.
    """

    batch: int
    width: int

    @classmethod
    def of(cls, images: jax.Array) -> Strip:
        """Returns the layout for ``images`` [B, H, W, C] on the default backend."""
        batch, _, width, _ = images.shape
        # An export's batch is a symbol, for which the layout cannot be chosen.
        known = isinstance(batch, int) and isinstance(width, int)
        gains = known and batch > 1 and width % 128 and jax.default_backend() == "cpu"
        return cls(batch if gains else 0, width)

    def fold(self, images: Float[Array, "B H W C"]) -> Float[Array, "1 H V C"]:
        """Returns the images side by side, V = B·(W + 1), a column of zeros after each."""
        if not self.batch:
            return images
        padded = jnp.pad(images, ((0, 0), (0, 0), (0, _GAP), (0, 0)))
        b, h, w, c = padded.shape
        return padded.transpose(1, 0, 2, 3).reshape(1, h, b * w, c)

    def unfold(self, strip: Float[Array, "1 H V C"]) -> Float[Array, "B H W C"]:
        """Returns the images of :meth:`fold`."""
        if not self.batch:
            return strip
        _, h, _, c = strip.shape
        images = strip.reshape(h, self.batch, self.width + _GAP, c).transpose(1, 0, 2, 3)
        return images[:, :, : self.width]

    def inside(self) -> Spread:
        """Returns 1 where the strip holds images and 0 between them, to broadcast against it.

        Every layer must end with it, since the next convolution takes the gaps for its padding.
        """
        if not self.batch:
            return jnp.ones((1, 1, 1, 1), jnp.float32)
        columns = jnp.arange(self.batch * (self.width + _GAP)) % (self.width + _GAP)
        return (columns < self.width).astype(jnp.float32)[None, None, :, None]

    def spread(self, values: Values) -> Spread:
        """Returns a value of each image so that it broadcasts against folded features."""
        if not self.batch:
            return values[:, None, None, None]
        return jnp.repeat(values, self.width + _GAP)[None, None, :, None]
