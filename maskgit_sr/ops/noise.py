"""What windows draw by; Gaussian noise as a function of key, absolute position and step.

Windows of one image then see the same noise where they overlap, whatever their order, their batch
and their device.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from maskgit_sr.arrays import Keys

BLOCK = 32
"""Side in pixels of the blocks that noise is drawn in. A window takes every block that it touches:
smaller ones waste less beside it, larger ones need fewer keys."""


Indices = UInt[Array, "B"]


class Windows(NamedTuple):
    """What windows draw their random numbers by.

    Attributes:
        keys: of the windows' images, [B].
        indices: of each window in its image, in row-major order, uint32 [B].
        origins: row and column of each window's first pixel in its image, in LR pixels, int32
            [B, 2]; negative where the window begins in the padding.
    """

    keys: Keys
    indices: Indices
    origins: Int[Array, "B 2"]

    @classmethod
    def of(cls, keys: Keys, places: Int[Array, "B 3"]) -> Windows:
        """Returns windows at ``places``: index, row and column of each, see `Mosaic.places`."""
        return cls(keys, places[:, 0].astype(jnp.uint32), places[:, 1:])

    @classmethod
    def alone(cls, keys: Keys) -> Windows:
        """Returns windows that are images of their own."""
        return cls.of(keys, jnp.zeros((*keys.shape, 3), jnp.int32))

    def own_keys(self) -> Keys:
        """Returns a key for each window."""
        return jax.vmap(jax.random.fold_in)(self.keys, self.indices)


def noise_at(
    keys: Keys,
    origins: Int[Array, "B 2"],
    shape: tuple[int, int, int],
    step: jax.Array | int,
) -> Float[Array, "B H W C"]:
    """Returns standard normal noise [B, *shape] for windows at ``origins``.

    Args:
        keys: of the windows' images.
        origins: row and column, in the image, of each window's first pixel; may be negative.
        shape: of a window, (H, W, C).
        step: of a sampler; each has noise of its own.
    """

    height, width, channels = shape

    def one(key: jax.Array, origin: jax.Array) -> jax.Array:
        key = jax.random.fold_in(key, step)
        first = origin // BLOCK  # rounds down, for negative origins too
        # One block more than fits: a window rarely begins where a block does.
        rows, columns = (jnp.arange(-(-side // BLOCK) + 1) for side in (height, width))

        def block(row: jax.Array, column: jax.Array) -> jax.Array:
            place = jax.random.fold_in(jax.random.fold_in(key, row), column)
            return jax.random.normal(place, (BLOCK, BLOCK, channels))

        draw = jax.vmap(jax.vmap(block, (None, 0)), (0, None))
        blocks = draw(first[0] + rows, first[1] + columns)
        whole = blocks.swapaxes(1, 2).reshape(len(rows) * BLOCK, len(columns) * BLOCK, channels)
        corner = origin - first * BLOCK
        start = (corner[0], corner[1], jnp.int32(0))
        return jax.lax.dynamic_slice(whole, start, (height, width, channels))

    return jax.vmap(one)(keys, origins)


Words = UInt[Array, "B H W 2"]


def words_at(
    keys: Keys, origins: Int[Array, "B 2"], shape: tuple[int, int], step: jax.Array | int
) -> Words:
    """Returns what every pixel of windows draws by, of which `channels_of` makes its channels.

    For features of many channels: like :func:`noise_at` they draw the same wherever windows
    overlap, but no block is drawn beside a window, and a number costs a tenth of Threefry's.

    Args:
        keys, origins, step: as of :func:`noise_at`.
        shape: of a window, (H, W).
    """
    height, width = shape

    def one(key: jax.Array, origin: jax.Array) -> jax.Array:
        key = jax.random.fold_in(key, step)
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        rows = fold(key, origin[0] + jnp.arange(height))
        return jax.random.key_data(jax.vmap(fold, (0, None))(rows, origin[1] + jnp.arange(width)))

    return jax.vmap(one)(keys, origins)


def channels_of(words: Words, start: int, count: int) -> Float[Array, "B H W C"]:
    """Returns standard normal noise of the channels ``start`` … ``start + count − 1``.

    Elementwise, so that it is fused with what it is added to and never in memory as a whole.
    """
    # An odd multiple of the channel's number, so that 2^32 of them would all differ.
    channel = np.arange(start, start + count, dtype=np.uint32) * np.uint32(0x9E3779B9)
    bits = _mix(words[..., :1] + jnp.asarray(channel).reshape(1, 1, 1, -1))
    return _normal(_mix(bits ^ words[..., 1:]))


def _mix(x: UInt[Array, "*B"]) -> UInt[Array, "*B"]:
    """Returns a bijective hash of 32 bits (Wellons' lowbias32)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> jnp.uint32(shift))) * jnp.uint32(factor)
    return x ^ (x >> jnp.uint32(16))


_QUANTILE = (
    *(0.000452246924, -0.00836728234, 0.0621898398, -0.23270236, 0.446364909),
    *(-0.435236961, 0.562821209, -0.0597410202, 1.25843227),
)
"""√2 erfinv(x) / x as a polynomial of √(−ln(1 − x²)), highest power first, fitted by minimax."""


def _normal(bits: UInt[Array, "*B"]) -> Float[Array, "*B"]:
    """Returns standard normal numbers of uniform bits: their quantiles to 1.5e-4, up to 5.3.

    Twice as fast as `jax.lax.erf_inv`, which computes two polynomials of each number.
    """
    # 23 bits and a half: exact in float32, symmetric, and neither end is reached.
    uniform = ((bits >> jnp.uint32(9)).astype(jnp.float32) + 0.5) * np.float32(2**-23)
    root = jnp.sqrt(-jnp.log(4 * uniform * (1 - uniform)))
    factor = jnp.full_like(root, _QUANTILE[0])
    for coefficient in _QUANTILE[1:]:
        factor = factor * root + coefficient
    return factor * (2 * uniform - 1)
