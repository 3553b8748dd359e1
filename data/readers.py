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
import math
import os
import secrets
import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.sources import Source, check_scale
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


class Cache:
    """Decoded images in the memory of one process, up to a number of bytes.

    What is in stays: an epoch asks for every image once, in another order each time, so that to
    push out the oldest would find no more of them.

    Args:
      limit: bytes of all images together.
      share: of what a copy in a worker process may hold; it begins empty.
    """

    def __init__(self, limit: float, share: float = 1.0):
        self._limit, self._share = limit, share
        self._lock = threading.Lock()
        self._held: dict[Any, dict[str, Any]] = {}
        self._bytes, self._full = 0, False

    def __getstate__(self) -> tuple[float, float]:
        return self._limit * self._share, 1.0

    def __setstate__(self, state: tuple[float, float]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def get(self, key: Any) -> dict[str, Any] | None:
        """Returns an example that is held, or None."""
        return self._held.get(key)

    def put(self, key: Any, example: dict[str, Any]) -> None:
        """Holds an example, and makes its arrays read-only, if there is room for it."""
        arrays = [value for value in example.values() if isinstance(value, np.ndarray)]
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if key in self._held:
                return
            if self._bytes + size > self._limit:
                if not self._full:
                    _log.info(
                        "the cache is full: %d photographs in %.2f GB stay decoded, the others are "
                        "decoded each time (data.cache_gb)",
                        *(len(self._held), self._bytes / 1e9),
                    )
                self._full = True
                return
            self._bytes += size
            for array in arrays:
                array.flags.writeable = False
            self._held[key] = example


class Reader:
    """A source whose unusable images are replaced by the next in its order.

    Args:
      source: examples with `image`, or with `hr` (and `lr`).
      least: shorter sides than this, in pixels, make an image unusable; 0: none does.
      scale: pairs whose larger image is not so many times LR are unusable; 0: sizes do not matter.
      cache: holds decoded images, 3·H·W bytes each; readers may share it. Do not write into them.
        True: one without a limit.
      bad: indices that are known to be unusable, with the reason, which begins with a name.
    """

    def __init__(
        self,
        source: Source,
        skipped: Skipped,
        *,
        least: int = 0,
        scale: int = 0,
        cache: Cache | bool = False,
        bad: Mapping[int, str] | None = None,
    ):
        self.source, self.skipped = source, skipped
        self._least, self._scale = least, scale
        self._cache = Cache(math.inf) if cache is True else cache or None
        self._name = secrets.token_hex(8)  # tells its images in the cache from another reader's
        self._bad = set(bad or ())  # not decoded again in every epoch
        for why in (bad or {}).values():
            skipped.note(why.partition(": ")[0], why)

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
        if self._cache is not None and (held := self._cache.get((self._name, i))) is not None:
            return held
        try:
            example = self.source[i]
            if "image" in example:
                example["hr"] = example.pop("image")
            height, width = example["hr" if "hr" in example else "teacher"].shape[:2]
            if min(height, width) < self._least:
                raise UserError(f"{example['id']}: {height}x{width} is smaller than {self._least}")
            if self._scale and "lr" in example:
                for name, what in (("hr", "HR"), ("teacher", "teacher's output")):
                    if name in example:
                        sizes = example[name].shape, example["lr"].shape
                        check_scale(*sizes, self._scale, str(example["id"]), what)
        except UserError as error:
            self._bad.add(i)
            self.skipped.note(str(error).partition(": ")[0], str(error))
            return None
        if self._cache is not None:
            self._cache.put((self._name, i), example)
        return example
