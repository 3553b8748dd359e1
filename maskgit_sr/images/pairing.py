"""Which output belongs to which reference: files of two or three folders matched by their names.

Tools append something to the name of what they restore (`0001_x4.png`, `Canon_001_out.png`), and
test sets append what a file is (`Canon_001_LR4`, `Canon_001_HR`). Names are compared as they are,
then without such suffixes; at last an output may begin with the name of its reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from maskgit_sr.errors import UserError
from maskgit_sr.images import files

_SUFFIX = re.compile(
    r"(?:[_-](?:lr|hr|gt|sr|lq|hq|out|output|rlt|result|restored|bicubic)\d*"
    r"|[_-](?:x\d+|\d+x)"
    r"|(?<=\d)x\d+)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Entry:
    """Files of one scene; `name` is the reference's, or the output's where there is none."""

    name: str
    sr: Path | None = None
    hr: Path | None = None
    lr: Path | None = None


def scene(name: str) -> str:
    """`Canon_001_LR4_x4` → `canon_001`: a name without what test sets and tools append."""
    while match := _SUFFIX.search(name):
        if match.start() == 0:
            break
        name = name[: match.start()]
    return name.lower()


def match(
    sr: str | None = None, hr: str | None = None, lr: str | None = None
) -> tuple[list[Entry], list[str]]:
    """Entries in the order of their names, and one line for each file without a partner.

    Args:
      sr, hr, lr: folders (searched with their sub-folders), or one file each; those that are None
        are not looked for.

    Raises:
      UserError: nothing given, a missing or empty folder, files and folders mixed, or no two names
        that go together.
    """
    given = {kind: text for kind, text in (("hr", hr), ("sr", sr), ("lr", lr)) if text is not None}
    if not given:
        raise UserError("expected at least one of --sr, --hr and --lr")
    found = {kind: files.pictures(text) for kind, text in given.items()}
    single = [kind for kind, text in given.items() if not Path(text).is_dir()]
    if single and len(single) < len(given):
        raise UserError(
            f"--{single[0]} {given[single[0]]}: is a file, the others are folders; expected all "
            "files or all folders"
        )
    if single:
        paths = {kind: some[0][0] for kind, some in found.items()}
        return [Entry(next(iter(paths.values())).stem, **paths)], []
    first, *others = found
    names = {path: relative for path, relative in found[first]}
    partners = {kind: _partners(names, dict(found[kind])) for kind in others}
    problems, entries = [], []
    for path, relative in names.items():
        missing = [kind for kind in others if path not in partners[kind]]
        if missing:
            problems.append(f"{path}: no single partner in --{missing[0]} {given[missing[0]]}")
            continue
        entries.append(
            Entry(
                str(relative.with_suffix("")),
                **{first: path},
                **{kind: partners[kind][path] for kind in others},
            )
        )
    for kind in others:
        taken = set(partners[kind].values())
        problems += [
            f"{path}: no single partner in --{first} {given[first]}"
            for path, _ in found[kind]
            if path not in taken
        ]
    if not entries:
        raise UserError(
            f"--{others[0]} {given[others[0]]}: no name goes with one in --{first} {given[first]}, "
            f"such as {next(iter(names.values()))} and {found[others[0]][0][1]}"
        )
    return entries, problems


def _partners(names: dict[Path, Path], others: dict[Path, Path]) -> dict[Path, Path]:
    """{path of `names`: its partner}; a name that fits several others has none."""
    found: dict[Path, Path] = {}
    stem = {path: str(relative.with_suffix("")) for path, relative in (names | others).items()}
    for key in (str, scene):
        mine, theirs = (_grouped(paths, stem, key) for paths in (names, others))
        for name, [path, *more] in mine.items():
            if path not in found and not more and len(theirs.get(name, ())) == 1:
                found[path] = theirs[name][0]
        others = {path: relative for path, relative in others.items() if path not in found.values()}
        names = {path: relative for path, relative in names.items() if path not in found}
    begins: dict[Path, list[Path]] = {}
    for path in names:
        start = scene(stem[path])
        fits = [o for o in others if stem[o].lower().startswith((f"{start}_", f"{start}-"))]
        if len(fits) == 1:
            begins.setdefault(fits[0], []).append(path)
    return found | {paths[0]: other for other, paths in begins.items() if len(paths) == 1}


def _grouped(
    paths: Iterable[Path], stem: dict[Path, str], key: Callable[[str], str]
) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(key(stem[path]), []).append(path)
    return groups
