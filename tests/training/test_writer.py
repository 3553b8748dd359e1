"""training.writer: scalars as lines, panels as one picture."""

import contextlib
import gc
import json
import resource

import numpy as np
import pytest

from maskgit_sr.errors import UserError
from maskgit_sr.training.writer import Writer, tile_panel


def test_scalars_and_panels(tmp_path):
    for step in (1, 2):  # a resumed run goes on in the same file
        writer = Writer(tmp_path / "run", first=step - 1)
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


def test_histograms_and_many_scalars_reach_the_event_file(tmp_path):
    writer = Writer(tmp_path)
    for step in range(30):
        writer.scalars(step, {"loss": 0.5})
    writer.histogram(30, "counts", np.arange(12.0).reshape(3, 4))
    writer.close()
    (events,) = tmp_path.glob("events*")
    assert events.read_bytes().count(b"loss") == 30 and b"counts" in events.read_bytes()


# tensorboardX leaves a file open that it could not write to its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("what", ["scalars", "panel", "histogram"])
def test_a_full_disk_is_one_line_and_nothing_waits(tmp_path, what):
    """Files may not grow beyond 4 KiB, as on a full disk."""
    writer = Writer(tmp_path / "run")
    images = {"hr": np.random.default_rng(0).uniform(size=(1, 64, 64, 3))}
    calls = {
        "scalars": lambda: writer.scalars(1, {f"loss{i}": 0.5 for i in range(40)}),
        "panel": lambda: writer.panel(1, "generator", images),
        "histogram": lambda: writer.histogram(1, "counts", np.arange(1e3)),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, hard))
    try:
        with pytest.raises(UserError, match="run: cannot be written .File too large"):
            for _ in range(100):
                calls[what]()
        with contextlib.suppress(UserError):  # what is left in memory may fit
            writer.close()
        writer.close()  # again, as the trainer does after a failure
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    del writer, calls
    gc.collect()  # here, where the warning of the open file is expected


def test_panel_has_a_row_an_example_and_a_column_an_entry():
    left, right = np.zeros((2, 3, 4, 3)), np.full((2, 3, 4, 3), 0.5)
    left[1], right[0] = -1.0, 2.0  # out of range is clipped
    panel = tile_panel({"left": left, "right": right})
    assert panel.shape == (6, 8, 3) and panel.dtype == np.uint8
    assert (
        (panel[:, :4] == 0).all() and (panel[:3, 4:] == 255).all() and (panel[3:, 4:] == 128).all()
    )
