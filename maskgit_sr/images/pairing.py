"""Matches outputs with references: files of two or three folders paired by their names.

Tools append something to the name of what they restore (`0001_x4.png`, `Canon_001_out.png`), and
test sets append what a file is (`Canon_001_LR4`, `Canon_001_HR`). Names are compared as they are,
then without the file suffix, without such suffixes and capitals; at last an output may begin with
the name of its reference. Accented letters are the same in both forms of Unicode, since a Mac
writes another than anybody else.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from maskgit_sr.errors import UserError
from maskgit_sr.images import files
from maskgit_sr.images.inputs import PassedOver, fold

# Behind a digit a scale needs no separator: `img_3x4` is `img_3`, but `box4` is a name.
_SUFFIX = re.compile(
    r"(?:[_-](?:lr|hr|gt|sr|lq|hq|out|output|rlt|result|restored|bicubic)\d*"
    r"|[_-](?:x\d+|\d+x)"
    r"|(?<=\d)x\d+)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Entry:
    """Files of one scene.

    `name` is the reference's, or the output's where there is none; with its file suffix if another
    scene has the same without. `more` are further outputs for the same input.
    """

    name: str
    sr: Path | None = None
    hr: Path | None = None
    lr: Path | None = None
    more: tuple[Path, ...] = ()


def scene(name: str) -> str:
    """Returns a name without what test sets and tools append: `Canon_001_LR4_x4` → `Canon_001`.

    Args:
      name: of a file, without its file suffix; folders before it stay as they are.
    """
    # Never down to nothing: a file may be called `_x4`.
    while (found := _SUFFIX.search(name)) and name[: found.start()].rpartition("/")[2]:
        name = name[: found.start()]
    return name


def match(
    sr: str | None = None,
    hr: str | None = None,
    lr: str | None = None,
    passed: PassedOver | None = None,
) -> tuple[list[Entry], list[str]]:
    """Returns entries in the order of names, and one line for each file without a partner.

    Args:
      sr, hr, lr: folders (searched with their sub-folders), patterns of files, or one file each;
        those that are None are not looked for.
      passed: gets what is left out of the folders.

    Raises:
      UserError: nothing given, a missing or empty folder, files and folders mixed, or no two names
        that go together.
    """
    given = {kind: text for kind, text in (("hr", hr), ("sr", sr), ("lr", lr)) if text is not None}
    if not given:
        raise UserError("expected at least one of --sr, --hr and --lr")
    found = {kind: files.pictures(text, passed) for kind, text in given.items()}
    # A pattern of several files is a set, too.
    single = [
        kind for kind, text in given.items() if not Path(text).is_dir() and len(found[kind]) == 1
    ]
    if single and len(single) < len(given):
        raise UserError(
            f"--{single[0]} {given[single[0]]}: is a file, the others are folders; expected all "
            "files or all folders"
        )
    if single:
        paths: dict[str, Any] = {kind: some[0].source for kind, some in found.items()}
        return [Entry(next(iter(paths.values())).stem, **paths)], []
    by_name = {kind: {str(one.name): one.source for one in some} for kind, some in found.items()}
    first, *others = by_name
    fits = {kind: partners(by_name[first], by_name[kind]) for kind in others}
    stems = Counter(map(_stem, by_name[first]))
    problems, entries = [], []
    for name, path in by_name[first].items():
        missing = [kind for kind in others if name not in fits[kind]]
        if missing:
            problems.append(f"{path}: no single partner in --{missing[0]} {given[missing[0]]}")
            continue
        files_of: dict[str, Any] = {kind: by_name[kind][fits[kind][name]] for kind in others}
        title = _stem(name) if stems[_stem(name)] == 1 else name
        entries.append(Entry(title, **files_of | {first: path}))
    for kind in others:
        taken = set(fits[kind].values())
        problems += [
            f"{path}: no single partner in --{first} {given[first]}"
            for name, path in by_name[kind].items()
            if name not in taken
        ]
    if not entries:
        raise UserError(
            f"--{others[0]} {given[others[0]]}: no name goes with one in --{first} {given[first]}, "
            f"such as {next(iter(by_name[first]))} and {next(iter(by_name[others[0]]))}"
        )
    return entries, problems


def match_samples(
    sr: Sequence[str],
    hr: str | None = None,
    lr: str | None = None,
    passed: PassedOver | None = None,
) -> tuple[list[Entry], list[str]]:
    """Returns `match` of several outputs for each input: one of each of the folders `sr`.

    A scene that a folder lacks is left out and told.

    Args:
      sr: folders, patterns of files, or one file each.

    Raises:
      UserError: as `match`; or several are given without `hr`, by whose names they are joined.
    """
    if len(sr) > 1 and hr is None:
        raise UserError("--sr: several of them need --hr")
    found = [match(one, hr, lr, passed) for one in sr]
    (first, problems), *others = found
    tables = [{e.name: e.sr for e in entries if e.sr is not None} for entries, _ in others]
    joined = [
        replace(entry, more=tuple(table[entry.name] for table in tables))
        for entry in first
        if all(entry.name in table for table in tables)
    ]
    if not joined:
        raise UserError(f"--sr {', '.join(sr)}: no name is in all of them")
    return joined, list(dict.fromkeys([*problems, *(line for _, more in others for line in more)]))


def partners(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Returns the partner of each of `names` among `others`; one that fits several has none.

    Args:
      names, others: paths relative to two folders, with their file suffixes.
    """
    found: dict[str, str] = {}
    names, others = list(names), list(others)
    # Equal names first, so that a suffix which is part of a name is not taken for a tool's. A file
    # suffix may be part of the other's name: outputs of a.jpg and a.png are a.jpg.png, a.png.png.
    for mine, theirs in (
        *((str, str), (_whole, _whole), (_stem_form, _stem_form)),
        *(
            (_whole, _stem_form),
            (_stem_form, _whole),
            (_whole_scene, _scene),
            (_scene, _whole_scene),
        ),
        (_scene, _scene),
    ):
        groups, other_groups = _grouped(names, mine), _grouped(others, theirs)
        for group, [name, *more] in groups.items():
            if not more and len(other_groups.get(group, ())) == 1:
                found[name] = other_groups[group][0]
        taken = set(found.values())
        names = [name for name in names if name not in found]
        others = [other for other in others if other not in taken]
    begins: dict[str, list[str]] = {}
    for name in names:
        start = _scene(name)
        # With the separator: img_3 must not match the output of img_33.
        fits = [o for o in others if fold(o).startswith((f"{start}_", f"{start}-"))]
        if len(fits) == 1:
            begins.setdefault(fits[0], []).append(name)
    return found | {only: other for other, [only, *more] in begins.items() if not more}


def _stem(name: str) -> str:
    return str(PurePath(name).with_suffix(""))


def _whole(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _stem_form(name: str) -> str:
    return _whole(_stem(name))


def _scene(name: str) -> str:
    return fold(scene(_stem(name)))


def _whole_scene(name: str) -> str:
    return fold(name)


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups
