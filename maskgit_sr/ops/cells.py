"""Orders in which square cells of a token grid are worked through."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

ORDERS = ("shift", "raster", "halton")


def rounds(order: str, grid: int, cell: int) -> np.ndarray:
    """Returns the tokens of the cells of each round, int32 [R, cells of a round, cell²].

    Tokens are numbered in raster order. Every cell is in exactly one round.

    Args:
        order: ``shift``: four rounds, each with every second cell in both directions, none beside
            another. ``raster``: a round for each cell, row by row. ``halton``: four rounds of
            cells that follow a Halton sequence, which spreads those of a round evenly.
        grid: side of the token grid.
        cell: side of a cell.

    Raises:
        ValueError: unknown order, or a grid that is not an even number of cells a side.
    """
    if order not in ORDERS:
        raise ValueError(f"order: expected one of {', '.join(ORDERS)}, found {order!r}")
    side, rest = divmod(grid, cell)
    if rest or side % 2:
        raise ValueError(f"cell: expected an even number of cells in {grid}, found {cell}")
    if order == "halton":
        cells = np.array(list(_halton(side)))
    else:
        cells = np.stack(np.divmod(np.arange(side * side), side), axis=1)
    if order == "shift":
        parity = cells[:, 0] % 2 * 2 + cells[:, 1] % 2
        cells = cells[np.argsort(parity, kind="stable")]
    rows, columns = np.divmod(np.arange(cell * cell), cell)
    tokens = (cells[:, :1] * cell + rows) * grid + cells[:, 1:] * cell + columns
    count = len(tokens) if order == "raster" else 4
    return tokens.reshape(count, -1, cell * cell).astype(np.int32)


def _halton(side: int) -> Iterator[tuple[int, int]]:
    """Yields every (row, column) of a grid once, in the order of a Halton(2, 3) sequence."""
    seen: set[tuple[int, int]] = set()
    index = 0
    while len(seen) < side * side:
        index += 1
        place = (int(_radical(index, 2) * side), int(_radical(index, 3) * side))
        if place not in seen:
            seen.add(place)
            yield place


def _radical(index: int, base: int) -> float:
    """Returns the digits of ``index`` mirrored behind the point, in [0, 1)."""
    value, weight = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        weight /= base
        value += digit * weight
    return value
