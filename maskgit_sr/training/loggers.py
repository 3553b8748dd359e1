"""Where a run's scalars, histograms and panels go: TensorBoard, a JSONL file, Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maskgit_sr import paths
from maskgit_sr.errors import UserError, cause

LINES = "scalars.jsonl"
WANDB_ID = "wandb-id"
RESUMED = (LINES, WANDB_ID)
"""Files that a resumed run goes on with."""
_BINS = np.logspace(-12, 20, 772)  # TensorBoard's own bins of histograms, each a tenth wider
_PACKAGES = {"tensorboard": "tensorboardX", "jsonl": "json", "wandb": "wandb"}
_EXTRAS = {"tensorboard": "train", "wandb": "wandb"}


class Logger(Protocol):
    """One destination. Values that it has no place for are left out."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the scalars of a step, by name."""

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Writes the distribution of ``values``, of any shape."""

    def panel(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes an image, uint8 [H, W, 3]."""

    def flush(self) -> None:
        """Hands what is written to the operating system."""

    def close(self) -> None:
        """Ends the log."""


class TensorBoard:
    """Event files ``events…`` in a folder, a new one at each start."""

    def __init__(self, folder: Path):
        # Imported here: TensorBoard may be chosen by nobody, and its package be absent.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event

        self._folder, self._summary, self._event = folder, summary, Event
        self._open, self._events = EventsWriter, self._begin(EventsWriter)

    def _begin(self, kind: Any) -> Any:
        # Not tensorboardX's SummaryWriter: it leaves writing to a thread, which a full disk ends,
        # and then waits for that thread for ever.
        suffix = f".{time.monotonic_ns()}"  # the name has seconds only
        return kind(str(self._folder / "events"), suffix)

    def _add(self, step: int, what: Any) -> None:
        self._events.write_event(self._event(summary=what, step=step, wall_time=time.time()))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._add(step, self._summary.scalar(name, value))

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """See `Logger`."""
        bins = np.concatenate([-_BINS[::-1], [0.0], _BINS])
        self._add(step, self._summary.histogram(name, values.reshape(-1), bins))

    def panel(self, step: int, name: str, image: np.ndarray) -> None:
        """See `Logger`."""
        self._add(step, self._summary.image(name, image, dataformats="HWC"))
        self.flush()

    def flush(self) -> None:
        """See `Logger`."""
        self._events.flush()

    def renew(self, size: int) -> None:
        """Closes an event file of more than ``size`` bytes and begins another one."""
        events = [path.stat() for path in self._folder.glob("events.*")]
        if events and max((file.st_mtime, file.st_size) for file in events)[1] > size:
            self._events.close()
            self._events = self._begin(self._open)

    def close(self) -> None:
        """See `Logger`."""
        self._events.close()


class Lines:
    """``scalars.jsonl``: an object a line, with ``step``; each step's once, however often resumed.

    Args:
        first: step that the run goes on from. Lines of later steps, which a killed run had written
            after its last checkpoint, are dropped, as they are written again; so is a last line
            that was cut off. None: all whole lines stay.
    """

    def __init__(self, folder: Path, first: int | None):
        path = folder / LINES
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            kept = "".join(line for line in text.splitlines(True) if _stays(line, first))
            if kept != text:
                paths.write(path, kept)
        self._file = path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Writes nothing."""

    def panel(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes nothing."""

    def flush(self) -> None:
        """Does nothing: every line is flushed."""

    def close(self) -> None:
        """See `Logger`."""
        self._file.close()


class Wandb:
    """A run of Weights & Biases; a resumed run of ours goes on with its run.

    Project, entity and mode are those of the environment (``WANDB_PROJECT``, ``WANDB_MODE``, …).
    Steps that it has already are kept as they are: W&B takes ascending steps only.

    Raises:
        UserError: W&B refuses to begin, as without an account's key.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        import wandb

        path = folder / WANDB_ID
        if not path.exists():
            paths.write(path, secrets.token_hex(8))
        settings: dict[str, Any] = dict(id=path.read_text(encoding="utf-8"), resume="allow")
        settings["project"] = os.environ.get("WANDB_PROJECT", "maskgit_sr")
        try:
            self._run = wandb.init(name=name, dir=str(folder), config=dict(config), **settings)
        except Exception as error:  # of its own kinds, which are not of one family
            raise UserError(
                f"--config.logger: wandb does not begin ({cause(error)}); 'wandb login', or set "
                "WANDB_MODE=offline"
            ) from error
        self._wandb = wandb

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(values), step=step)

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """See `Logger`."""
        self._run.log({name: self._wandb.Histogram(values.reshape(-1))}, step=step)

    def panel(self, step: int, name: str, image: np.ndarray) -> None:
        """See `Logger`."""
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def flush(self) -> None:
        """Does nothing: W&B writes by itself."""

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


def parse(text: str) -> tuple[str, ...]:
    """Returns the names in ``config.logger``, separated by commas, each once.

    Raises:
        UserError: an unknown name or none, or the package of one is not installed.
    """
    names = tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))
    if not names or not set(names) <= _PACKAGES.keys():
        known = ", ".join(_PACKAGES)
        raise UserError(
            f"--config.logger: expected one or several of {known}, separated by commas, "
            f"found {text!r}"
        )
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise UserError(
                f"--config.logger: {name} needs {_PACKAGES[name]}: "
                f"pip install 'maskgit-sr[{_EXTRAS[name]}]'"
            )
    return names


def _stays(line: str, first: int | None) -> bool:
    try:
        found = json.loads(line)
    except ValueError:
        return False
    whole = line.endswith("\n") and isinstance(found, dict) and isinstance(found.get("step"), int)
    return whole and (first is None or found["step"] <= first)
