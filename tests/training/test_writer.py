"""training.writer: scalars as lines, panels as one picture."""

import json

import numpy as np

from maskgit_sr.training.writer import Writer, tile_panel


def test_scalars_and_panels(tmp_path):
    for step in (1, 2):  # a resumed run goes on in the same file
        writer = Writer(tmp_path / "run")
        writer.scalars(step, {"loss": 0.5 / step})
        names = ("confidence", "extra", "hr", "lr", "output")  # as jit sorts them
        images = {name: np.zeros((2, 4, 4, 3)) for name in names}
        writer.panel(step, "generator", images)
        writer.close()
    lines = (tmp_path / "run" / "scalars.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25},
    ]
    events = list((tmp_path / "run").glob("events*"))
    assert events and b"generator/lr-output-hr-confidence-extra" in events[0].read_bytes()


def test_panel_has_a_row_an_example_and_a_column_an_entry():
    left, right = np.zeros((2, 3, 4, 3)), np.full((2, 3, 4, 3), 0.5)
    left[1], right[0] = -1.0, 2.0  # out of range is clipped
    panel = tile_panel({"left": left, "right": right})
    assert panel.shape == (6, 8, 3) and panel.dtype == np.uint8
    assert (
        (panel[:, :4] == 0).all() and (panel[:3, 4:] == 255).all() and (panel[3:, 4:] == 128).all()
    )
