"""Finds the input images of a command: files, folders and patterns.

A folder is searched with its sub-folders, linked ones too, each once however many links lead to it.
Nothing that may be an image is left out in silence: broken links are found as files, which then
cannot be read, and `PassedOver` holds what nothing here reads.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from maskgit_sr import paths
from maskgit_sr.errors import UserError

# Which files of a folder are images; a file named one by one may be called anything.
PICTURE_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .jif .pjpeg .mpo .webp .tif .tiff .bmp .dib .gif .ppm .pgm"
    " .pbm .pnm .avif .avifs .jp2 .j2k .j2c .jpc .jpf .jpx .heic .heif .hif .tga .ico".split()
)
# Images by their names that nothing here reads: raw photographs, layers, drawings, light fields.
UNREAD_SUFFIXES = frozenset(
    ".3fr .ari .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf"
    " .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
    " .afphoto .clip .kra .ora .pdn .psb .psd .xcf"
    " .ai .cdr .emf .eps .svg .svgz .wmf"
    " .cur .dcm .dds .exr .fit .fits .fts .hdp .hdr .icns .jng .jp2k .jxl .jxr .mng .pam .pcd .pct"
    " .pcx .pfm .pict .qoi .ras .rgbe .sgi .wbmp .wdp .xbm .xpm".split()
)


class Found(NamedTuple):
    """An input image.

    Attributes:
        source: its path.
        name: path below the input folder or the fixed part of a pattern, or only the file name.
        twin: an output called after `name` without its suffix could be that of another image in
            the same folder, such as a.jpg beside a.png.
        case_twin: another image there has the same name but for capitals or Unicode's form.
    """

    source: Path
    name: PurePath
    twin: bool = False
    case_twin: bool = False


@dataclass
class PassedOver:
    """What a search left out: images of formats that nothing here reads, and what failed.

    Attributes:
        files: real paths of the former.
        problems: a line for each folder that cannot be listed, and each broken link to one.
    """

    files: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Returns all that there is to tell, the files counted by their suffixes in one line."""
        counts = Counter(PurePath(file).suffix.lower() for file in self.files)
        if not counts:
            return self.problems
        total = counts.total()
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in sorted(counts.items()))
        counted = f"{total} file{'s'[: total > 1]} of formats that are not read: {kinds}"
        return [*self.problems, f"passed over {counted}"]


def is_picture(name: PurePath) -> bool:
    """Returns True if a file of a folder is taken for an image by its suffix."""
    return name.suffix.lower() in PICTURE_SUFFIXES


def fold(name: str) -> str:
    """Returns the form in which names are compared where capitals make no difference.

    Accented letters may be one character, or a letter and an accent, which is what a Mac writes.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def twins(names: Iterable[PurePath]) -> dict[PurePath, tuple[bool, bool]]:
    """Returns (twin, case_twin), see `Found`, of each image, given all images of its folder."""
    names = list(names)
    full = Counter((name.parent, fold(name.name)) for name in names)
    groups: dict[tuple[PurePath, str], list[PurePath]] = defaultdict(list)
    for name in names:
        groups[name.parent, fold(name.stem)].append(name)
    found = {}
    for (folder, stem), group in groups.items():
        stems = Counter(name.stem for name in group)
        # A twin's output is called after its whole name, a.jpg.png, which must be no other's stem.
        several = full[folder, stem] > 0
        for name in group:
            same = full[folder, fold(name.name)]
            found[name] = (several or stems[name.stem] > 1 or same < len(group), same > 1)
    return found


def find(
    inputs: Sequence[str], own: str | None = None, passed: PassedOver | None = None
) -> list[Found]:
    """Returns all source files in a stable order, each once.

    Args:
        inputs: files, folders and patterns of `*`, `?`, `[...]` and `**`. What exists under its
            name is no pattern. Hidden files are found by their names alone.
        own: real path of a folder whose files are no inputs.
        passed: gets what is left out.

    Raises:
        UserError: an input that does not exist, cannot be listed or is without images.
    """
    passed = PassedOver() if passed is None else passed
    found: dict[str, tuple[Path, Path]] = {}
    for text in inputs:
        path = Path(text)
        if text and os.path.isdir(text):
            base, below = path, [file for _, files in _tree(path, own, passed) for file in files]
            missing = f"{text}: no pictures in this folder"
        elif text and os.path.lexists(path):  # before patterns: a[1].png may be a file's name
            found.setdefault(os.path.realpath(path), (path, Path(path.name)))
            continue
        else:
            paths.check_local(text)
            if not glob.has_magic(text):
                raise UserError(f"{text or 'INPUT'}: no such file or folder")
            base = _fixed_part(path)
            matches = dict.fromkeys(_expand(base, path.parts[len(base.parts) :], passed))
            below = [m for m in matches if not _is_below(m, own, base)]
            missing = f"{text}: no pictures match this pattern"
        some = [file for file in below if is_picture(file)]
        others = (file for file in below if file.suffix.lower() in UNREAD_SUFFIXES)
        passed.files.update(map(os.path.realpath, others))
        if not some:
            raise UserError("; ".join([missing, *passed.lines()]))
        for file in some:  # by real path: links and ./ lead to the same file
            found.setdefault(os.path.realpath(file), (file, file.relative_to(base)))
    return _with_twins(list(found.values()))


def _with_twins(some: Sequence[tuple[Path, Path]]) -> list[Found]:
    # Among all of a folder, not only those of this run: an output has one name in every run.
    names = {source for source, _ in some}
    for folder in {source.parent for source in names}:
        with contextlib.suppress(OSError):  # a folder may give a file without being listed
            names |= {path for path in folder.iterdir() if is_picture(path)}
    found = twins(names)
    return [Found(source, name, *found[source]) for source, name in some]


def _tree(folder: Path, own: str | None, passed: PassedOver) -> Iterator[tuple[Path, list[Path]]]:
    """Yields each real folder once, with its files: plain folders in order, then linked ones.

    Links come last, so that the files of a folder that also lies here have its own path.
    """
    seen: set[tuple[int, int]] = set()
    linked = deque([folder])
    while linked:
        stack = [linked.popleft()]
        while stack:
            base = stack.pop()
            try:
                status = base.stat()
                if (key := (status.st_dev, status.st_ino)) in seen:
                    continue
                names = sorted(os.listdir(base))
            except OSError as error:
                line = f"{base}: cannot be read ({error.strerror})"
                if base == folder:
                    raise UserError(line) from error
                passed.problems.append(line)
                continue
            seen.add(key)
            if base != folder and os.path.realpath(base) == own:
                continue
            paths = [base / name for name in names if not name.startswith(".")]
            folders = [path for path in paths if os.path.isdir(path)]
            yield base, [path for path in paths if _is_file(path, passed)]
            linked.extend(path for path in folders if path.is_symlink())
            stack += [path for path in reversed(folders) if not path.is_symlink()]


def _is_file(path: Path, passed: PassedOver) -> bool:
    if os.path.isdir(path):
        return False
    # With a suffix it is judged as any other file; without one it may have led to a folder.
    if not path.suffix and path.is_symlink() and not os.path.exists(path):
        passed.problems.append(f"{path}: broken link to {os.readlink(path)}")
        return False
    return True


def _expand(folder: Path, parts: Sequence[str], passed: PassedOver) -> Iterator[Path]:
    """Yields the files that a pattern matches below a folder. (`glob` hangs where links loop.)"""
    first, *rest = parts
    if first == "**":
        while rest[:1] == ["**"]:
            rest = rest[1:]
        for base, files in _tree(folder, None, passed) if os.path.isdir(folder) else ():
            yield from _expand(base, rest, passed) if rest else files
        return
    names = [first]
    if _is_pattern(folder, first):
        names = []
        with contextlib.suppress(OSError):  # no folder, or one that cannot be listed: no match
            names = sorted(name for name in os.listdir(folder) if _matches(name, first))
    for name in names:
        path = folder / name
        if rest:
            yield from _expand(path, rest, passed)
        elif os.path.lexists(path) and not os.path.isdir(path):
            yield path


def _matches(name: str, pattern: str) -> bool:
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return fnmatch.fnmatch(*(unicodedata.normalize("NFC", text) for text in (name, pattern)))


def _is_below(path: Path, folder: str | None, base: Path) -> bool:
    """Returns True if `path` lies in `folder`, unless that is where the search itself began."""
    if folder is None or folder == os.path.realpath(base):
        return False
    return folder in map(str, Path(os.path.realpath(path)).parents)


def _is_pattern(folder: Path, part: str) -> bool:
    return glob.has_magic(part) and not os.path.lexists(folder / part)


def _fixed_part(pattern: Path) -> Path:
    """Returns the folders of a pattern before the first part with a wildcard."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if _is_pattern(fixed, part):
            break
        fixed /= part
    return fixed
