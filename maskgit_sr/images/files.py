"""Plans the jobs of a command line: which input file becomes which output file.

Everything that can be known to go wrong before the first picture is decoded is found here, so that
a batch does not stop half way.

Where an output goes:
  * no `output`: beside the input, for a single file only;
  * `output` is a folder if it exists as one, ends with a slash, or has no suffix of a picture;
  * otherwise it is the name of the output, for a single input file (a pattern may match one).

What it is called in a folder: the name of the input, with the sub-folders below the input folder or
below the fixed part of a pattern, + `suffix` + the suffix of `format`. Without `suffix`, names stay
as they are, but beside its input an output is called `NAME_x4` (after the scale).
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from maskgit_sr.errors import UserError

FORMATS = ("png", "jpg", "webp", "tif")
# Which files of a folder are pictures; a file named one by one may be called anything.
PICTURE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .mpo .webp .tif .tiff .bmp .dib .gif .ppm .pgm .pbm .pnm .avif .jp2"
    " .j2k".split()
)
_FORMAT_OF = {f".{f}": f for f in FORMATS} | {".jpeg": "jpg", ".tiff": "tif"}


@dataclass(frozen=True)
class Job:
    """One image to restore; `skipped` where `target` exists and existing ones are skipped."""

    source: Path
    target: Path
    skipped: bool = False


class _Found(NamedTuple):
    source: Path
    name: Path  # below the input folder, or only the file name


def plan(
    inputs: Sequence[str],
    output: str | None = None,
    *,
    scale: Callable[[], float],
    format: str | None = None,
    suffix: str | None = None,
    skip_existing: bool = False,
    overwrite: bool = False,
    confidence: bool = False,
) -> list[Job]:
    """Pairs every input with its output; see the top of this file for the rules.

    Args:
      inputs: files, folders (searched with their sub-folders, without hidden files) and patterns
        of `*`, `?`, `[...]` and `**`.
      output: file or folder.
      scale: returns the scale, for the name of an output beside its input. It is called only where
        there is such an output, since a model's own scale takes long to find out.
      format: one of `FORMATS`; by default that of an output file name, and png in a folder.
      suffix: goes between the name and its suffix, in a folder or beside the input.
      skip_existing: mark jobs whose output exists as skipped.
      overwrite: allow existing outputs.
      confidence: `confidence_path` of every output will be written, too.

    Raises:
      UserError: nothing to do, missing inputs, options that contradict each other, an output that
        is also an input, two inputs with one output, or an output that exists and may not be
        overwritten.
    """
    if skip_existing and overwrite:
        raise UserError("--skip-existing and --overwrite: expected one of them, found both")
    if format is not None and format not in FORMATS:
        raise UserError(f"--format: expected one of {', '.join(FORMATS)}, found '{format}'")
    if suffix is not None and set(suffix) & {"/", "\\", "\0"}:
        raise UserError(f"--suffix: expected part of a file name, found '{suffix}'")
    if output == "":
        raise UserError("--output: expected a file or folder, found an empty name")
    if not inputs:
        raise UserError("INPUT: expected a file, folder or pattern, found none")

    found = _find(inputs, output)
    whole_folder = any(os.path.isdir(text) for text in inputs)
    if output is None:
        if whole_folder or len(found) > 1:
            raise UserError(f"--output: a folder is needed for {_what(found, whole_folder)}")
        jobs = [(found[0], _beside(found[0].source, format, suffix, scale))]
    elif _is_folder(output):
        if os.path.lexists(Path(output)) and not os.path.isdir(output):
            raise UserError(f"{output}: expected an output folder, found a file")
        jobs = [(f, _in_folder(f, Path(output), format, suffix, scale)) for f in found]
    elif whole_folder or len(found) > 1:
        raise UserError(
            f"{output}: expected a folder for {_what(found, whole_folder)}, found a file name"
            f" (a new folder of this name is written {output}/)"
        )
    else:
        jobs = [(found[0], _named(Path(output), format, suffix))]
    return _checked(jobs, skip_existing, overwrite, confidence)


def pictures(text: str) -> list[tuple[Path, Path]]:
    """Returns the images of a file, folder or pattern: (path, path below that folder), sorted.

    Confidence maps beside the images that they belong to are left out.

    Raises:
      UserError: nothing there.
    """
    found = _find([text], None)
    targets = {confidence_path(path) for path, _ in found} if len(found) > 1 else set()
    return [(path, name) for path, name in found if path not in targets]


def confidence_path(target: Path) -> Path:
    """Returns the path of an output's confidence map: `NAME_confidence.png` beside it."""
    return target.with_name(f"{target.stem}_confidence.png")


def _what(found: Sequence[_Found], whole_folder: bool) -> str:
    return "an input folder" if whole_folder else f"{len(found)} inputs"


def _find(inputs: Sequence[str], output: str | None) -> list[_Found]:
    """Returns all source files in a stable order, each once."""
    # Outputs of an earlier run in a folder below the input are not inputs of the next.
    own = os.path.realpath(output) if output is not None and _is_folder(output) else None
    found: dict[str, _Found] = {}
    for text in inputs:
        path = Path(text)
        if text and path.is_dir():
            below = _walk(path, own)
            some = [_Found(file, file.relative_to(path)) for file in below]
            missing = f"{text}: no pictures in this folder"
        elif text and os.path.lexists(path):  # before patterns: a[1].png may be a file's name
            some = [_Found(path, Path(path.name))]
            missing = ""
        elif glob.has_magic(text):
            base = _fixed_part(text)
            matches = (Path(match) for match in sorted(glob.glob(text, recursive=True)))
            files = (m for m in matches if m.is_file() and not _is_below(m, own, base))
            some = [_Found(m, m.relative_to(base)) for m in files if _is_picture(m)]
            missing = f"{text}: no pictures match this pattern"
        else:
            raise UserError(f"{text or 'INPUT'}: no such file or folder")
        if not some:
            raise UserError(missing)
        # By real path: links and ./ lead to the same file.
        for one in some:
            found.setdefault(os.path.realpath(one.source), one)
    return list(found.values())


def _walk(folder: Path, own: str | None) -> Iterator[Path]:
    # os.walk passes over unreadable folders unless it is told otherwise, in no fixed order.
    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for base, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(base, name)) != own
        )
        for name in sorted(names):
            path = Path(base, name)
            if not name.startswith(".") and _is_picture(path) and path.is_file():
                yield path


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def _is_below(path: Path, folder: str | None, base: Path) -> bool:
    """Returns whether `path` lies in `folder`, unless that is where the search itself began."""
    if folder is None or folder == os.path.realpath(base):
        return False
    return folder in map(str, Path(os.path.realpath(path)).parents)


def _fixed_part(pattern: str) -> Path:
    """Returns the folders of a pattern before the first part with a wildcard."""
    folders = Path(pattern).parts[:-1]
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), folders))


def _is_folder(output: str) -> bool:
    if os.path.isdir(output) or output.endswith(("/", os.sep)):
        return True
    return Path(output).suffix.lower() not in PICTURE_SUFFIXES and not os.path.lexists(output)


def _beside(
    source: Path, format: str | None, suffix: str | None, scale: Callable[[], float]
) -> Path:
    if suffix is None:
        suffix = f"_x{scale():g}"
    return source.with_name(f"{source.stem}{suffix}.{format or 'png'}")


def _in_folder(
    found: _Found, folder: Path, format: str | None, suffix: str | None, scale: Callable[[], float]
) -> Path:
    target = folder / found.name
    # In the input's own folder only a name like `a_x4` tells an output from its input.
    beside = os.path.realpath(target.parent) == os.path.realpath(found.source.parent)
    return _beside(target, format, suffix if beside else suffix or "", scale)


def _named(output: Path, format: str | None, suffix: str | None) -> Path:
    own = _FORMAT_OF.get(output.suffix.lower())
    if own is None:
        known = ", ".join(_FORMAT_OF)
        raise UserError(f"{output}: expected an output suffix of {known}, found '{output.suffix}'")
    if format not in (None, own):
        raise UserError(f"--format {format}: contradicts the output name {output}")
    if suffix is not None:
        raise UserError(f"--suffix {suffix}: cannot be used with the output name {output}")
    return output


def _checked(
    pairs: Sequence[tuple[_Found, Path]], skip_existing: bool, overwrite: bool, confidence: bool
) -> list[Job]:
    # Real paths: an output may be a link to an input, or lie in a linked folder.
    sources = {os.path.realpath(found.source): found.source for found, _ in pairs}
    taken: dict[str, Path] = {}
    jobs = []
    for found, target in pairs:
        for path in (target, confidence_path(target)) if confidence else (target,):
            real = os.path.realpath(path)
            if real in sources:
                raise UserError(f"{path}: output of {found.source}, but also an input")
            if real in taken:
                raise UserError(f"{path}: output of both {taken[real]} and {found.source}")
            taken[real] = found.source
            if path.is_dir():
                raise UserError(f"{path}: expected an output file, found a folder")
            if os.path.lexists(path) and not (skip_existing or overwrite):
                raise UserError(f"{path}: exists already; use --overwrite or --skip-existing")
        jobs.append(Job(found.source, target, skip_existing and os.path.lexists(target)))
    return jobs
