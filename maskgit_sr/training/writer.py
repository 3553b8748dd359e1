"""Scalars and image panels, to TensorBoard and to a JSONL file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

_ORDER = ("lr", "output", "hr", "confidence")  # jit hands dictionaries back sorted by name


class Writer:
    """``scalars.jsonl`` has one object a line; the images go to TensorBoard only.

    Args:
        silent: writes nothing, as all hosts but one must.
    """

    def __init__(self, folder: Path, silent: bool = False):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._board = SummaryWriter(str(folder), write_to_disk=not silent)
        self._lines = open(os.devnull, "w") if silent else (folder / "scalars.jsonl").open("a")  # noqa: SIM115

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes every value under its name."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """The distribution of ``values``, to TensorBoard."""
        self._board.add_histogram(name, values.reshape(-1), step)

    def panel(self, step: int, name: str, images: dict[str, np.ndarray]) -> None:
        """One picture: a row an example, a column for each entry of ``images`` [B, H, W, 3].

        Columns read input, output, target, confidence; entries of other names come after them.
        """
        rank = {name: place for place, name in enumerate(_ORDER)}
        images = dict(sorted(images.items(), key=lambda item: rank.get(item[0], len(rank))))
        grid = tile_panel(images)
        tag = f"{name}/{'-'.join(images)}"  # TensorBoard's names know letters, digits, - / _ only
        self._board.add_image(tag, grid, step, dataformats="HWC")
        self._board.flush()

    def close(self) -> None:
        """Flushes both."""
        self._board.close()
        self._lines.close()


def tile_panel(images: dict[str, np.ndarray]) -> np.ndarray:
    """{name: [B, H, W, 3] in [0, 1]} → uint8 [B·H, columns·W, 3]."""
    columns = [np.concatenate(list(np.asarray(batch)), axis=0) for batch in images.values()]
    grid = np.concatenate(columns, axis=1)
    return np.rint(np.clip(grid, 0, 1) * 255).astype(np.uint8)
