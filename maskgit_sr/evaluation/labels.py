"""Labelled photographs: a folder with sub-folders of classes, or with a table of labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from maskgit_sr.errors import UserError
from maskgit_sr.images import files
from maskgit_sr.images.inputs import Found, PassedOver


class Labelled(NamedTuple):
    """A photograph and the index of its class."""

    name: str
    path: Path
    label: int


def labelled(
    folder: str,
    classes: int,
    *,
    labels: Path | None = None,
    names: Path | None = None,
    passed: PassedOver | None = None,
) -> tuple[list[Labelled], list[str]]:
    """Returns the photographs of a folder with their labels, and a line for each that has none.

    Args:
        folder: photographs in a sub-folder for each class, whose name is the class's index; or one
            of `names`; or there are as many of them as classes, in the order of their names, as
            torchvision sorts ImageNet's. With `labels`, photographs in any order.
        classes: of the network.
        labels: CSV of file name and class index; the photographs come in its order.
        names: text file of the classes' names, one a line, in the order of their indices.
        passed: gets what is left out of the folder.

    Raises:
        UserError: no photographs, a table that cannot be read, a label that is no class, or
            sub-folders that name none.
    """
    found = files.pictures(folder, passed)
    if labels is not None:
        return _by_table(found, labels, classes)
    tops = {one.name.parts[0] for one in found if len(one.name.parts) > 1}
    index = _class_names(folder, tops, classes, names)
    entries, problems = [], []
    for one in found:
        top = one.name.parts[0] if len(one.name.parts) > 1 else None
        if top in index:
            entries.append(Labelled(str(one.name), one.source, index[top]))
        else:
            problems.append(f"{one.source}: in no sub-folder of a class")
    return entries, problems


def _class_names(
    folder: str, tops: set[str], classes: int, names: Path | None
) -> dict[str | None, int]:
    """Returns the class indices by the names of sub-folders."""
    if names is not None:
        listed = [line.strip() for line in _text(names).splitlines() if line.strip()]
        if len(listed) != classes:
            raise UserError(f"{names}: expected {classes} names of classes, found {len(listed)}")
        index: dict[str | None, int] = {name: i for i, name in enumerate(listed)}
        if unknown := sorted(tops - set(listed)):
            raise UserError(f"{folder}: sub-folder {unknown[0]} is no class of {names}")
        return index
    if tops and all(top.isdecimal() for top in tops):
        if (most := max(map(int, tops))) >= classes:
            raise UserError(f"{folder}: expected classes 0 to {classes - 1}, found {most}")
        return {top: int(top) for top in tops}
    if len(tops) == classes:
        return {top: i for i, top in enumerate(sorted(tops))}
    raise UserError(
        f"{folder}: expected sub-folders named by class index, or {classes} of them, found "
        f"{len(tops)}; --classes names them, --labels has a table"
    )


def _by_table(
    found: Sequence[Found], table: Path, classes: int
) -> tuple[list[Labelled], list[str]]:
    by_name = {str(one.name): one.source for one in found}
    by_stem = {str(one.name.with_suffix("")): one.source for one in found}
    entries, problems = [], []
    for number, row in enumerate(csv.reader(_text(table).splitlines()), 1):
        if not row or (number == 1 and not row[-1].strip().isdecimal()):  # a head
            continue
        if len(row) != 2 or not row[1].strip().isdecimal():
            raise UserError(f"{table}: line {number}: expected NAME,CLASS, found {','.join(row)!r}")
        name, label = row[0].strip(), int(row[1])
        if label >= classes:
            raise UserError(
                f"{table}: line {number}: expected a class of 0 to {classes - 1}, found {label}"
            )
        path = by_name.get(name) or by_stem.get(name)
        if path is None:
            problems.append(f"{name}: named in {table}, but not in the folder")
        else:
            entries.append(Labelled(name, path, label))
    if not entries:
        raise UserError(f"{table}: names no photograph of the folder")
    return entries, problems


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8: {error.reason}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
