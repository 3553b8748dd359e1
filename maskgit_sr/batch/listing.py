"""The plan of a run: which image becomes which file, either of which may be in a bucket.

It is complete before anything runs: two images with one output name are an error, not a race.
Names follow `maskgit_sr.images.files`: below the output folder as below the input folder or the
fixed part of a pattern, and `NAME_x4` where that would be beside the image itself.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.images import files

PART = re.compile(r"(^|/)\.[^/]*\.[0-9a-f]{8}\.part$")  # what `stages.put` writes to


class Task(NamedTuple):
    """One image to restore: the addresses that a worker opens."""

    source: str
    target: str


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Attributes:
        folder: absolute address of the outputs.
        skipped: number of images whose output exists.
        parts: unfinished files that a killed run has left.
    """

    folder: str
    todo: list[Task]
    skipped: int
    parts: list[str]


def plan(
    inputs: Sequence[str],
    output: str,
    *,
    format: str,
    suffix: str | None,
    scale: float,
    overwrite: bool,
) -> Plan:
    """Pairs every image with its output in the folder `output`.

    Args:
        inputs: files, folders with their sub-folders, and patterns; on this machine, or at any
            address that Beam's file systems know.
        scale: for the name of an output beside its input.
        overwrite: skip nothing.

    Raises:
        UserError: nothing is found, an address cannot be listed, an output is also an input, or
            two inputs have one output.
    """
    if format not in files.FORMATS:
        known = ", ".join(files.FORMATS)
        raise UserError(f"--format: expected one of {known}, found '{format}'")
    if suffix is not None and set(suffix) & {"/", "\\", "\0"}:
        raise UserError(f"--suffix: expected part of a file name, found '{suffix}'")
    folder = _address(output)
    if not paths.is_remote(folder) and os.path.lexists(folder) and not os.path.isdir(folder):
        raise UserError(f"--output: expected a folder, found a file: {output}")
    # one listing rather than a request for every output
    there = _listed(f"{folder}/**")
    sources: dict[str, str] = {}
    for text in inputs:
        found = [(path, name) for path, name in _find(text) if not _is_below(path, folder, text)]
        if not found:
            raise UserError(f"--input: no pictures in {text}")
        for path, name in found:
            sources.setdefault(path, name)  # inputs may overlap: an image is restored once
    todo: list[Task] = []
    taken: dict[str, str] = {}
    for source, name in sources.items():
        target = _target(source, name, folder, format, suffix, scale)
        if target in sources:
            raise UserError(f"{target}: output of {source}, but also an input")
        if target in taken:
            raise UserError(f"{target}: output of both {taken[target]} and {source}")
        taken[target] = source
        if overwrite or target not in there:
            todo.append(Task(source, target))
    parts = [path for path in there if PART.search(path)]
    return Plan(folder, todo, len(sources) - len(todo), parts)


def _address(text: str) -> str:
    """Returns an absolute address, since workers run in other folders, without a final slash."""
    if paths.is_remote(text):
        return text.rstrip("/")
    return os.path.realpath(os.path.expanduser(text))


def _find(text: str) -> list[tuple[str, str]]:
    """Returns (address, name below folder or fixed part of the pattern) of the images, sorted."""
    if not paths.is_remote(text):
        return [(_address(str(path)), name.as_posix()) for path, name in files.pictures(text)]
    if glob.has_magic(text):
        pattern, base = text, text[: text.rindex("/", 0, re.search(r"[*?[]", text).start()) + 1]  # type: ignore[union-attr]
    elif not text.endswith("/") and text in _listed(text):  # a file, whatever its suffix
        return [(text, text.rpartition("/")[2])]
    else:
        base = text.rstrip("/") + "/"
        pattern = f"{base}**"
    # sorted, as a set of strings has another order in every process
    named = [(path, path.removeprefix(base)) for path in sorted(_listed(pattern))]
    return [(path, name) for path, name in named if _is_picture(PurePosixPath(name))]


def _is_picture(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    return not hidden and name.suffix.lower() in files.PICTURE_SUFFIXES


def _is_below(path: str, folder: str, text: str) -> bool:
    """Returns True if `path` is an earlier output, unless the search began in its folder."""
    return path.startswith(f"{folder}/") and not _address(text).startswith(folder)


def _target(
    source: str, name: str, folder: str, format: str, suffix: str | None, scale: float
) -> str:
    below = PurePosixPath(name)
    parent = FileSystems.join(folder, *below.parent.parts) if below.parent.parts else folder
    if suffix is None:
        suffix = f"_x{scale:g}" if parent == source.rpartition("/")[0] else ""
    return FileSystems.join(parent, f"{below.stem}{suffix}.{format}")


def _listed(pattern: str) -> set[str]:
    """Returns the addresses of the files that match, which may be none.

    Raises:
        UserError: the file system is unknown or does not respond.
    """
    try:
        [found] = FileSystems.match([pattern])
    except ValueError as error:  # of Beam, for an address that none of its file systems knows
        scheme = pattern.partition("://")[0]
        raise UserError(
            f"{pattern}: no file system for {scheme}:// here (gs:// needs "
            "pip install 'maskgit-sr[beam]')"
        ) from error
    except BeamIOError as error:
        raise UserError(f"{pattern}: cannot be listed ({reason(error)})") from error
    return {entry.path for entry in found.metadata_list}


def reason(error: BaseException) -> str:
    """Returns the reason of an error in one line, without Beam's wrapping."""
    details: Any = getattr(error, "exception_details", None)
    if isinstance(details, dict) and details:
        return reason(next(iter(details.values())))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if len(error.args) == 1 and isinstance(error.args[0], OSError):  # Beam's local file system
        return reason(error.args[0])
    return " ".join(str(error).split()) or type(error).__name__
