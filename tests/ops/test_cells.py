"""ops.cells: every cell once, whatever the order."""

import numpy as np
import pytest

from maskgit_sr.ops.cells import ORDERS, rounds


@pytest.mark.parametrize(("grid", "cell"), [(32, 4), (16, 4), (8, 4), (12, 2), (2, 1)])
@pytest.mark.parametrize("order", ORDERS)
def test_every_cell_is_in_exactly_one_round(order, grid, cell):
    found = rounds(order, grid, cell)
    count = (grid // cell) ** 2
    turns = count if order == "raster" else 4
    assert found.shape == (turns, count // turns, cell * cell) and found.dtype == np.int32
    np.testing.assert_array_equal(np.sort(found, axis=None), np.arange(grid * grid))
    rows, columns = np.divmod(found, grid)
    for place in (rows, columns):  # a cell is a square of tokens that lie beside each other
        assert (place.max(-1) - place.min(-1) == cell - 1).all()
        assert (place.min(-1) % cell == 0).all()


def test_raster_is_row_by_row():
    np.testing.assert_array_equal(rounds("raster", 4, 2)[:, 0, 0], [0, 2, 8, 10])
    np.testing.assert_array_equal(rounds("raster", 4, 2)[1, 0], [2, 3, 6, 7])


def test_cells_of_a_shifted_round_do_not_touch():
    rows, columns = np.divmod(rounds("shift", 32, 4)[:, :, 0] // 4, 8)
    for places in zip(rows, columns, strict=True):
        row, column = (place[:, None] - place[None] for place in places)
        near = (abs(row) <= 1) & (abs(column) <= 1)
        assert near.sum() == 16  # each to itself alone


def test_cells_of_a_halton_round_spread():
    """Each half and each third of the grid has its share of every round, to within two cells."""
    rows, columns = np.divmod(rounds("halton", 32, 4)[:, :, 0], 32)
    for turn in range(4):
        for place in (rows[turn] // 4, columns[turn] // 4):
            assert abs(np.sum(place < 4) - 8) <= 2
    # 2 and 3 are the bases: the first three points are (1/2, 1/3), (1/4, 2/3), (3/4, 1/9).
    np.testing.assert_array_equal(rows[0, :3] // 4, [4, 2, 6])
    np.testing.assert_array_equal(columns[0, :3] // 4, [2, 5, 0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("spiral", 8, 4), "order: expected one of shift, raster, halton, found 'spiral'"),
        (("shift", 8, 3), "cell: expected an even number of cells in 8, found 3"),
        (("shift", 12, 4), "cell: expected an even number of cells in 12, found 4"),
    ],
)
def test_what_does_not_fit_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        rounds(*given)
