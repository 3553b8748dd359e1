"""Writer of scalars and image panels to TensorBoard and a JSONL file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from maskgit_sr import paths

_LOG = logging.getLogger(__name__)
_SECONDS = 60.0  # between two copies to a bucket, each of which sends files whole
_BYTES = 32 * 2**20  # an event file of this size is closed: buckets take whole files only
_BINS = np.logspace(-12, 20, 772)  # TensorBoard's own bins of histograms, each a tenth wider
_ORDER = ("lr", "output", "hr", "confidence")  # jit hands dictionaries back sorted by name


class Writer:
    """Writes scalars to ``scalars.jsonl``, an object a line, and to TensorBoard; images there only.

    A bucket's files cannot be appended to: they are written to a local folder and copied to the
    bucket every minute and on closing.

    Args:
        folder: local or in a bucket; may hold the files of an earlier start.
        silent: writes nothing, for all hosts but one.

    Attributes:
        folder: local folder of the files; others put there, such as traces, are copied as well.

    Raises:
        UserError: by every method; a local file cannot be written, as on a full disk.
    """

    def __init__(self, folder: paths.PathLike, silent: bool = False):
        self._bucket = epath.Path(folder) if paths.is_remote(folder) else None
        self.folder = Path(folder) if self._bucket is None else Path(tempfile.mkdtemp())
        self._silent, self._copied, self._when = silent, dict[Path, int](), time.monotonic()
        lines = self.folder / "scalars.jsonl"
        with paths.naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Fetched first: the next copy overwrites the bucket's file, earlier starts' lines too.
            if self._bucket is not None and not silent and (self._bucket / lines.name).exists():
                (self._bucket / lines.name).copy(lines)
            self._board = self._events()
            self._lines = open(os.devnull, "w") if silent else lines.open("a")  # noqa: SIM115

    def _events(self) -> EventsWriter | None:
        # Not tensorboardX's SummaryWriter: it leaves writing to a thread, which a full disk ends,
        # and then waits for that thread for ever.
        suffix = f".{time.monotonic_ns()}"  # the name has seconds only
        return None if self._silent else EventsWriter(str(self.folder / "events"), suffix)

    def _add(self, step: int, what: Any) -> None:
        if self._board is not None:
            self._board.write_event(Event(summary=what, step=step, wall_time=time.time()))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes the scalars of a step, by name."""
        with paths.naming(self.folder):
            for name, value in values.items():
                self._add(step, summary.scalar(name, value))
            self._lines.write(json.dumps({"step": step, **values}) + "\n")
            self._lines.flush()
            if self._bucket is not None and time.monotonic() - self._when > _SECONDS:
                self._to_bucket(self._bucket)

    def _to_bucket(self, bucket: epath.Path) -> None:
        """Copies what there is, and begins another event file when that has become large."""
        if self._board is not None:
            self._board.flush()
        self._copy(bucket)
        events = [path.stat() for path in self.folder.glob("events.*")]
        if events and max((file.st_mtime, file.st_size) for file in events)[1] > _BYTES:
            if self._board is not None:
                self._board.close()
            self._board = self._events()

    def _copy(self, bucket: epath.Path) -> bool:
        """Copies files that have grown; False, with a warning, if the bucket is out of reach."""
        # Also where it fails: a bucket out of reach must not cost time at every line.
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
        """Writes the distribution of ``values``, of any shape, to TensorBoard."""
        bins = np.concatenate([-_BINS[::-1], [0.0], _BINS])
        with paths.naming(self.folder):
            self._add(step, summary.histogram(name, values.reshape(-1), bins))

    def panel(self, step: int, name: str, images: dict[str, np.ndarray]) -> None:
        """Writes one image: a row an example, a column an entry of ``images`` [B, H, W, 3].

        Columns are LR, output, HR and confidence, then entries of other names.
        """
        rank = {name: place for place, name in enumerate(_ORDER)}
        images = dict(sorted(images.items(), key=lambda item: rank.get(item[0], len(rank))))
        grid = tile_panel(images)
        tag = f"{name}/{'-'.join(images)}"  # TensorBoard's names know letters, digits, - / _ only
        with paths.naming(self.folder):
            self._add(step, summary.image(tag, grid, dataformats="HWC"))
            if self._board is not None:
                self._board.flush()

    def close(self) -> None:
        """Closes both files; deletes the local ones once they are copied to the bucket.

        Does nothing when it is called again, also after a failure.
        """
        if self._lines.closed:
            return
        board, self._board = self._board, None
        with paths.naming(self.folder), contextlib.ExitStack() as both:
            both.callback(self._lines.close)
            if board is not None:
                both.callback(board.close)
        if self._bucket is not None and self._copy(self._bucket):
            shutil.rmtree(self.folder)


def tile_panel(images: dict[str, np.ndarray]) -> np.ndarray:
    """Returns {name: [B, H, W, 3] in [0, 1]} as one image, uint8 [B·H, columns·W, 3]."""
    columns = [np.concatenate(list(np.asarray(batch)), axis=0) for batch in images.values()]
    grid = np.concatenate(columns, axis=1)
    return np.rint(np.clip(grid, 0, 1) * 255).astype(np.uint8)
