"""Writer of a run's scalars, histograms and image panels to its loggers."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from maskgit_sr import paths
from maskgit_sr.training import loggers

_LOG = logging.getLogger(__name__)
_SECONDS = 60.0  # between two copies to a bucket, each of which sends files whole
_BYTES = 32 * 2**20  # an event file of this size is closed: buckets take whole files only
_ORDER = ("lr", "output", "hr", "confidence")  # jit hands dictionaries back sorted by name
DEFAULT = "tensorboard,jsonl"


class Writer:
    """Writes to the loggers that are chosen; see `maskgit_sr.training.loggers`.

    A bucket's files cannot be appended to: they are written to a local folder and copied to the
    bucket every minute and on closing.

    Args:
        folder: local or in a bucket; may hold the files of an earlier start.
        silent: writes nothing, for all hosts but one.
        chosen: names of loggers, separated by commas.
        first: step that the run goes on from; later ones are written anew. None: not known.
        config: settings of the run, its name among them, for loggers that show them.

    Attributes:
        folder: local folder of the files; others put there, such as traces, are copied as well.

    Raises:
        UserError: by every method; a local file cannot be written, as on a full disk. At the
            beginning also for a logger that is unknown, absent or refuses.
    """

    def __init__(
        self,
        folder: paths.PathLike,
        silent: bool = False,
        chosen: str = DEFAULT,
        first: int | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        settings = config or {}
        names = loggers.parse(chosen)
        self._bucket = epath.Path(folder) if paths.is_remote(folder) else None
        self.folder = Path(folder) if self._bucket is None else Path(tempfile.mkdtemp())
        self._copied, self._when = dict[Path, int](), time.monotonic()
        self._loggers: list[loggers.Logger] = []
        self._open = True
        with paths.naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if silent:
                return
            # Fetched first: the next copy overwrites the bucket's file, earlier starts' lines too.
            if self._bucket is not None:
                for file in loggers.RESUMED:
                    if (self._bucket / file).exists():
                        (self._bucket / file).copy(self.folder / file)
            # `folder` is that of a stage.
            title = "-".join(filter(None, (settings.get("name"), epath.Path(folder).name)))
            make: dict[str, Callable[[], loggers.Logger]] = {
                "tensorboard": lambda: loggers.TensorBoard(self.folder),
                "jsonl": lambda: loggers.Lines(self.folder, first),
                "wandb": lambda: loggers.Wandb(self.folder, title, settings),
            }
            self._loggers += [make[name]() for name in names]

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes the scalars of a step, by name."""
        with paths.naming(self.folder):
            for logger in self._loggers:
                logger.scalars(step, values)
            if self._bucket is not None and time.monotonic() - self._when > _SECONDS:
                self._to_bucket(self._bucket)

    def _to_bucket(self, bucket: epath.Path) -> None:
        """Copies what there is, and begins another event file when that has become large."""
        for logger in self._loggers:
            logger.flush()
        self._copy(bucket)
        for logger in self._loggers:
            if isinstance(logger, loggers.TensorBoard):
                logger.renew(_BYTES)

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
        """Writes the distribution of ``values``, of any shape."""
        with paths.naming(self.folder):
            for logger in self._loggers:
                logger.histogram(step, name, values)

    def panel(self, step: int, name: str, images: dict[str, np.ndarray]) -> None:
        """Writes one image: a row an example, a column an entry of ``images`` [B, H, W, 3].

        Columns are LR, output, HR and confidence, then entries of other names.
        """
        rank = {name: place for place, name in enumerate(_ORDER)}
        images = dict(sorted(images.items(), key=lambda item: rank.get(item[0], len(rank))))
        grid = tile_panel(images)
        tag = f"{name}/{'-'.join(images)}"  # TensorBoard's names know letters, digits, - / _ only
        with paths.naming(self.folder):
            for logger in self._loggers:
                logger.panel(step, tag, grid)

    def close(self) -> None:
        """Closes the loggers; deletes local files once they are copied to the bucket.

        Does nothing when it is called again, also after a failure.
        """
        if not self._open:
            return
        self._open = False
        with paths.naming(self.folder), contextlib.ExitStack() as all_of_them:
            for logger in self._loggers:
                all_of_them.callback(logger.close)
        if self._bucket is not None and self._copy(self._bucket):
            shutil.rmtree(self.folder)


def tile_panel(images: dict[str, np.ndarray]) -> np.ndarray:
    """Returns {name: [B, H, W, 3] in [0, 1]} as one image, uint8 [B·H, columns·W, 3]."""
    columns = [np.concatenate(list(np.asarray(batch)), axis=0) for batch in images.values()]
    grid = np.concatenate(columns, axis=1)
    return np.rint(np.clip(grid, 0, 1) * 255).astype(np.uint8)
