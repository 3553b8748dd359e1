"""Scalars and image panels, to TensorBoard and to a JSONL file."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from etils import epath
from tensorboardX import SummaryWriter

from maskgit_sr import paths

_LOG = logging.getLogger(__name__)
_SECONDS = 60.0  # between two copies to a bucket
_BYTES = 32 * 2**20  # an event file of this size is closed: buckets take whole files only
_ORDER = ("lr", "output", "hr", "confidence")  # jit hands dictionaries back sorted by name


class Writer:
    """``scalars.jsonl`` has one object a line; the images go to TensorBoard only.

    In a bucket, where nothing can be appended, the files are those of a local folder that are
    copied there every minute and on closing.

    Args:
        folder: on this machine or in a bucket; may hold the files of an earlier start.
        silent: writes nothing, as all hosts but one must.

    Attributes:
        folder: where the files are written; others put there, such as traces, go the same way.
    """

    def __init__(self, folder: paths.PathLike, silent: bool = False):
        self._bucket = epath.Path(folder) if paths.is_remote(folder) else None
        self.folder = Path(folder) if self._bucket is None else Path(tempfile.mkdtemp())
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = self.folder / "scalars.jsonl"
        if self._bucket is not None and not silent and (self._bucket / lines.name).exists():
            (self._bucket / lines.name).copy(lines)
        self._silent, self._copied, self._when = silent, dict[Path, int](), time.monotonic()
        self._board = self._events()
        self._lines = open(os.devnull, "w") if silent else lines.open("a")  # noqa: SIM115

    def _events(self) -> SummaryWriter:
        suffix = f".{time.monotonic_ns()}"  # the name has seconds only
        return SummaryWriter(
            str(self.folder), write_to_disk=not self._silent, filename_suffix=suffix
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes every value under its name."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        if self._bucket is not None and time.monotonic() - self._when > _SECONDS:
            self._board.flush()
            self._copy(self._bucket)
            events = self.folder.glob("events.*")
            if max((path.stat().st_mtime, path.stat().st_size) for path in events)[1] > _BYTES:
                self._board.close()
                self._board = self._events()

    def _copy(self, bucket: epath.Path) -> bool:
        """Copies what has grown; a bucket out of reach is told of and tried again later."""
        self._when = time.monotonic()
        try:
            for path in sorted(self.folder.rglob("*")):
                if path.is_file() and self._copied.get(path) != (size := path.stat().st_size):
                    target = bucket / path.relative_to(self.folder).as_posix()
                    target.parent.mkdir(parents=True, exist_ok=True)
                    epath.Path(path).copy(target, overwrite=True)
                    self._copied[path] = size
        except Exception as error:  # of the bucket's own library
            _LOG.warning("%s: cannot copy %s there: %s", bucket, self.folder, error)
            return False
        return True

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
        """Flushes both; copies them to the bucket and removes the local ones if they arrived."""
        self._board.close()
        self._lines.close()
        if self._bucket is not None and self._copy(self._bucket):
            shutil.rmtree(self.folder)


def tile_panel(images: dict[str, np.ndarray]) -> np.ndarray:
    """{name: [B, H, W, 3] in [0, 1]} → uint8 [B·H, columns·W, 3]."""
    columns = [np.concatenate(list(np.asarray(batch)), axis=0) for batch in images.values()]
    grid = np.concatenate(columns, axis=1)
    return np.rint(np.clip(grid, 0, 1) * 255).astype(np.uint8)
