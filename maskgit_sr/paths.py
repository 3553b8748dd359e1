"""Paths on this machine or in a bucket: gs://, s3://, whatever etils.epath knows."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

PathLike = str | os.PathLike[str]


def is_remote(path: PathLike) -> bool:
    """Whether the path names a bucket."""
    return "://" in os.fspath(path)


def absolute(path: PathLike) -> epath.Path:
    """The path as Orbax wants it; `~` is the home folder."""
    found = epath.Path(path)
    return found if is_remote(path) else found.expanduser().absolute()


@contextlib.contextmanager
def local(path: PathLike) -> Iterator[Path]:
    """The file itself, or a copy of a remote one that lasts as long as the block.

    Raises:
        FileNotFoundError: there is no such remote file.
    """
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / epath.Path(path).name
        epath.Path(path).copy(copy)
        yield copy
