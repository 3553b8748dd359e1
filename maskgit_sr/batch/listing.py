"""The plan of a run: which image becomes which file, either of which may be in a bucket.

It is complete before anything runs: two images with one output name are an error, not a race.
Names follow `maskgit_sr.images.files`: below the output folder as below the input folder or the
fixed part of a pattern, and `NAME_x4` where that would be beside the image itself. What exists
under its name is no pattern.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from maskgit_sr import paths
from maskgit_sr.batch import storage
from maskgit_sr.errors import UserError
from maskgit_sr.images import files
from maskgit_sr.images.inputs import UNREAD_SUFFIXES, Found, PassedOver, is_picture, twins

PART = re.compile(r"(^|/)\.[^/]*\.[0-9a-f]{8}\.part$")  # what `storage.write` writes to


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
    passed: PassedOver | None = None,
) -> Plan:
    """Pairs every image with its output in the folder `output`.

    Args:
        inputs: files, folders with their sub-folders, and patterns; on this machine, or at any
            address that Beam's file systems know.
        scale: for the name of an output beside its input.
        overwrite: skip nothing.
        passed: gets what is left out.

    Raises:
        UserError: nothing is found, an address cannot be listed, an output is also an input, or
            two inputs have one output.
    """
    passed = PassedOver() if passed is None else passed
    if format not in files.FORMATS:
        known = ", ".join(files.FORMATS)
        raise UserError(f"--format: expected one of {known}, found '{format}'")
    if suffix is not None and set(suffix) & {"/", "\\", "\0"}:
        raise UserError(f"--suffix: expected part of a file name, found '{suffix}'")
    folder = _address(output)
    local = not paths.is_remote(folder)
    if local and os.path.lexists(folder) and not os.path.isdir(folder):
        raise UserError(f"--output: expected a folder, found a file: {output}")
    # one listing rather than a request for every output
    there = storage.below(f"{folder}/")
    sources: dict[str, Found] = {}
    for text in inputs:
        found = {p: one for p, one in _find(text, passed).items() if not _is_below(p, folder, text)}
        if not found:
            raise UserError("; ".join([f"--input: no pictures in {text}", *passed.lines()]))
        for path, one in found.items():
            sources.setdefault(path, one)  # inputs may overlap: an image is restored once
    folds = local and any(one.case_twin for one in sources.values()) and files.folds(Path(folder))
    todo: list[Task] = []
    taken: dict[str, str] = {}
    for source, one in sources.items():
        target = _target(source, one, folder, format, suffix, scale, folds)
        if target in sources:
            raise UserError(f"{target}: output of {source}, but also an input")
        if target in taken:
            raise UserError(
                f"{target}: output of both {taken[target]} and {source}; give the folder above"
                " them, or other output folders one by one"
            )
        taken[target] = source
        if overwrite or not (target in there or (local and os.path.lexists(target))):
            todo.append(Task(source, target))
    parts = [path for path in there if PART.search(path)]
    return Plan(folder, todo, len(sources) - len(todo), parts)


def _address(text: str) -> str:
    """Returns an absolute address, since workers run in other folders, without a final slash."""
    if paths.is_remote(text):
        return text.rstrip("/")
    return os.path.realpath(os.path.expanduser(text))


def _find(text: str, passed: PassedOver) -> dict[str, Found]:
    """Returns the images by their addresses; see `files.Found`."""
    if not paths.is_remote(text):
        return {_address(str(one.source)): one for one in files.pictures(text, passed)}
    if storage.exists(text):  # a file, whatever its suffix, and before patterns
        base = text[: text.rindex("/") + 1]
        found, there = {text}, storage.below(f"{base}{_beginning(text)}")
    else:
        base = text.rstrip("/") + "/"
        found = there = storage.below(base)
        if not found and storage.has_magic(text):
            fixed = re.split(r"[*?[]", text)[0]
            base = fixed[: fixed.rindex("/") + 1]
            there = storage.below(f"{base}{_beginning(fixed)}")
            found = {path for path in there if storage.matches(path, text)}
    named = {path: PurePosixPath(path.removeprefix(base)) for path in sorted(found)}
    if found != {text}:
        visible = {p: n for p, n in named.items() if not any(x.startswith(".") for x in n.parts)}
        unread = (p for p, name in visible.items() if name.suffix.lower() in UNREAD_SUFFIXES)
        passed.files.update(unread)
        named = {path: name for path, name in visible.items() if is_picture(name)}
    names = {PurePosixPath(path.removeprefix(base)) for path in there}
    alike = twins({name for name in names if is_picture(name)} | {*named.values()})
    return {p: Found(Path(p), name, alike[name][0]) for p, name in named.items()}


def _beginning(address: str) -> str:
    """Returns the part of a file's name before its suffixes, which its twins have, too."""
    return address.rpartition("/")[2].partition(".")[0]


def _is_below(path: str, folder: str, text: str) -> bool:
    """Returns True if `path` is an earlier output, unless the search began in its folder."""
    return path.startswith(f"{folder}/") and not _address(text).startswith(folder)


def _target(
    source: str,
    found: Found,
    folder: str,
    format: str,
    suffix: str | None,
    scale: float,
    folds: bool,
) -> str:
    parent = "/".join([folder, *found.name.parent.parts])
    if parent == source.rpartition("/")[0]:
        suffix = f"_x{scale:g}" if suffix is None else suffix
        if not suffix:  # as in `files`
            found = found._replace(twin=False)
    return f"{parent}/{files.output_name(found, suffix or '', format, folds)}"
