"""Readers that continue when an image cannot be used.

`Reader` stands between a source and the pipeline: an unusable image is replaced by the next one,
so that the example at an index is the same whoever asks for it and whenever. What was passed over
is noted in a folder of its own, which all reading processes share: each file is counted and named
once, by the process that trains.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import weakref
from typing import Any

import numpy as np

from data.sources import Source
from maskgit_sr import paths
from maskgit_sr.errors import UserError

_log = logging.getLogger(__name__)


class Skipped:
    """Files that were passed over, each noted once; all processes share them through a folder."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="skipped-")
        self._named: set[str] = set()
        self._told: set[str] = set()
        # A copy in a worker is not made by this function, so it does not clean up.
        weakref.finalize(self, shutil.rmtree, self._folder, True)

    def note(self, name: str, why: str) -> None:
        """Notes a file unless it was noted before."""
        if name in self._named:
            return
        self._named.add(name)
        # Hashed, since names hold slashes; fsencode, since they need not be UTF-8.
        path = os.path.join(self._folder, hashlib.sha256(os.fsencode(name)).hexdigest())
        if os.path.exists(path) or not os.path.isdir(self._folder):
            return
        paths.write(path, json.dumps([name, why]))  # of two processes the later one wins

    def notes(self) -> dict[str, str]:
        """Returns the notes so far: {name: reason}."""
        return dict(map(self._read, self._entries()))

    def fresh(self) -> list[str]:
        """Returns the reasons that it has not returned before."""
        # Compared with all that were told: entries sort by hash, so a new one may stand anywhere.
        entries = [entry for entry in self._entries() if entry not in self._told]
        self._told.update(entries)
        return [self._read(entry)[1] for entry in entries]

    def __len__(self) -> int:
        return len(self._entries())

    def _entries(self) -> list[str]:
        # Hidden files are notes that `paths.write` has not renamed yet.
        return sorted(name for name in os.listdir(self._folder) if not name.startswith("."))

    def _read(self, entry: str) -> tuple[str, str]:
        with open(os.path.join(self._folder, entry)) as file:
            name, why = json.load(file)
        return name, why


class Reader:
    """A source whose unusable images are replaced by the next in its order.

    Args:
      source: examples with `image`, or with `hr` (and `lr`).
      least: shorter sides than this, in pixels, make an image unusable; 0: none does.
      cache: keep decoded images in memory, 3·H·W bytes each and in each process. They are shared:
        do not write into them.
    """

    def __init__(self, source: Source, skipped: Skipped, *, least: int = 0, cache: bool = False):
        self.source, self.skipped = source, skipped
        self._least = least
        self._cache: dict[int, dict[str, Any]] | None = {} if cache else None
        self._bad: set[int] = set()  # not decoded again in every epoch

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns dict(hr, id), and lr where the source has it, or a taught example.

        Raises:
          UserError: no image of the source is usable.
        """
        for step in range(len(self)):
            i = (int(index) + step) % len(self)
            example = self._read(i)
            if example is not None:
                return example
        notes = self.skipped.notes()
        reason = f", first {next(iter(notes.values()))}" if notes else ""
        raise UserError(f"{self.source!r}: no image is usable{reason}")

    def _read(self, i: int) -> dict[str, Any] | None:
        if i in self._bad:
            return None
        if self._cache is not None and i in self._cache:
            return self._cache[i]
        try:
            example = self.source[i]
            if "image" in example:
                example["hr"] = example.pop("image")
            height, width = example["hr" if "hr" in example else "teacher"].shape[:2]
            if min(height, width) < self._least:
                raise UserError(f"{example['id']}: {height}x{width} is smaller than {self._least}")
        except UserError as error:
            self._bad.add(i)
            self.skipped.note(str(error).partition(": ")[0], str(error))
            return None
        if self._cache is not None:
            for array in example.values():
                if isinstance(array, np.ndarray):
                    array.flags.writeable = False
            self._cache[i] = example
        return example
