"""Plans the jobs of a command line: which input file becomes which output file.

Everything that can be known to go wrong before the first picture is decoded is found here, so that
a batch does not stop half way.

Where an output goes:
  * no `output`: beside the input, for a single file only;
  * `output` is a folder if it exists as one, ends with a slash, or has no suffix as a file has;
  * otherwise it is the name of the output, for a single input file (a pattern may match one).

What it is called in a folder: the name of the input, with the sub-folders below the input folder or
below the fixed part of a pattern, + `suffix` + the suffix of `format`. Without `suffix`, names stay
as they are, but beside its input an output is called `NAME_x4` (after the scale). Images of one
folder that differ in their suffixes alone, a.jpg and a.png, keep them: a.jpg.png and a.png.png.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskgit_sr.errors import UserError
from maskgit_sr.images import inputs as listing
from maskgit_sr.images.inputs import PICTURE_SUFFIXES, UNREAD_SUFFIXES, Found, PassedOver

FORMATS = ("png", "jpg", "webp", "avif", "tif")
# A file's, unlike those of out.v2, 2024.06.01 and scans.restored, which are new folders.
_SUFFIX = re.compile(r"(?!\.v\d+$)\.[a-z][a-z0-9]{0,4}", re.IGNORECASE)
_FORMAT_OF = {f".{f}": f for f in FORMATS} | {".jpeg": "jpg", ".tiff": "tif"}


@dataclass(frozen=True)
class Job:
    """One image to restore; `skipped` where its outputs exist and existing ones are skipped."""

    source: Path
    target: Path
    skipped: bool = False


def outputs(target: Path, samples: int = 0) -> tuple[Path, ...]:
    """Returns the images that are written for an output: itself, or its samples and their map."""
    if not samples:
        return (target,)
    return (*(sample_path(target, n + 1) for n in range(samples)), deviation_path(target))


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
    samples: int = 0,
    passed: PassedOver | None = None,
) -> list[Job]:
    """Pairs every input with its output; see the top of this file for the rules.

    Args:
      inputs: files, folders (searched with their sub-folders, without hidden files) and patterns
        of `*`, `?`, `[...]` and `**`; see `inputs.find`.
      output: file or folder.
      scale: returns the scale, for the name of an output beside its input. It is called only where
        there is such an output, since a model's own scale takes long to find out.
      format: one of `FORMATS`; by default that of an output file name, and png in a folder.
      suffix: goes between the name and its suffix, in a folder or beside the input.
      skip_existing: mark jobs whose output exists as skipped.
      overwrite: allow existing outputs.
      confidence: `confidence_path` of every output will be written, too.
      samples: that will be written of every output in its place (`outputs`); 0: the output itself.
      passed: gets what is left out.

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

    # Outputs of an earlier run in a folder below the input are not inputs of the next.
    own = os.path.realpath(output) if output is not None and _is_folder(output) else None
    found = listing.find(inputs, own, passed)
    whole_folder = any(os.path.isdir(text) for text in inputs)
    if output is None:
        if whole_folder or len(found) > 1:
            raise UserError(f"--output: a folder is needed for {_what(found, whole_folder)}")
        jobs = [(found[0], _beside(found[0].source, format, suffix, scale))]
    elif _is_folder(output):
        if os.path.lexists(Path(output)) and not os.path.isdir(output):
            raise UserError(f"{output}: expected an output folder, found a file")
        one_case = any(f.case_twin for f in found) and folds(Path(output))
        jobs = [(f, _in_folder(f, Path(output), format, suffix, scale, one_case)) for f in found]
    elif whole_folder or len(found) > 1:
        raise UserError(
            f"{output}: expected a folder for {_what(found, whole_folder)}, found a file name"
            f" (a new folder of this name is written {output}/)"
        )
    else:
        jobs = [(found[0], _named(Path(output), format, suffix))]
    return _checked(jobs, skip_existing, overwrite, confidence, samples)


def pictures(text: str, passed: PassedOver | None = None) -> list[Found]:
    """Returns the images of a file, folder or pattern, sorted; see `inputs.find`.

    Maps of confidence and deviation beside the images that they belong to are left out.

    Raises:
      UserError: nothing there.
    """
    found = listing.find([text], None, passed)
    targets = {confidence_path(f.source) for f in found} if len(found) > 1 else set()
    firsts = [f.source for f in found if f.source.stem.endswith("_1")]
    targets |= {deviation_path(path.with_stem(path.stem[:-2])) for path in firsts}
    return [f for f in found if f.source not in targets]


def output_name(found: Found, suffix: str, format: str | None, folds: bool = False) -> str:
    """Returns the file name of an output in a folder.

    Args:
      folds: names that differ in capitals alone are one file in that folder.
    """
    name = found.name.name if found.twin else found.name.stem
    if folds and found.case_twin:  # of the name alone, so that it is the same in every run
        name += f".{zlib.crc32(os.fsencode(found.name.name)):08x}"
    return f"{name}{suffix}.{format or 'png'}"


def confidence_path(target: Path) -> Path:
    """Returns the path of an output's confidence map: `NAME_confidence.png` beside it."""
    return target.with_name(f"{target.stem}_confidence.png")


def sample_path(target: Path, number: int) -> Path:
    """Returns the path of an output's sample, counted from 1: `NAME_1` with its suffix."""
    return target.with_name(f"{target.stem}_{number}{target.suffix}")


def deviation_path(target: Path) -> Path:
    """Returns the path of the map of an output's samples: `NAME_std.png` beside them."""
    return target.with_name(f"{target.stem}_std.png")


def _what(found: Sequence[Found], whole_folder: bool) -> str:
    return "an input folder" if whole_folder else f"{len(found)} inputs"


def _is_folder(output: str) -> bool:
    if os.path.isdir(output) or output.endswith(("/", os.sep)):
        return True
    suffix = Path(output).suffix
    known = suffix.lower() in PICTURE_SUFFIXES | UNREAD_SUFFIXES
    return not (known or _SUFFIX.fullmatch(suffix) or os.path.lexists(output))


def _beside(
    source: Path, format: str | None, suffix: str | None, scale: Callable[[], float]
) -> Path:
    if suffix is None:
        suffix = f"_x{scale():g}"
    return source.with_name(f"{source.stem}{suffix}.{format or 'png'}")


def _in_folder(
    found: Found,
    folder: Path,
    format: str | None,
    suffix: str | None,
    scale: Callable[[], float],
    folds: bool,
) -> Path:
    parent = folder / found.name.parent
    # In the input's own folder only a name like `a_x4` tells an output from its input.
    if os.path.realpath(parent) == os.path.realpath(found.source.parent):
        suffix = f"_x{scale():g}" if suffix is None else suffix
        if not suffix:  # there an earlier output would be taken for a twin of its input
            found = found._replace(twin=False)
    return parent / output_name(found, suffix or "", format, folds)


def folds(folder: Path) -> bool:
    """Returns True if names that differ in capitals alone are one file in a folder."""
    while not os.path.isdir(folder):  # it may be yet to be made
        folder = folder.parent
    for path in [*folder.iterdir(), folder.resolve()]:
        other = path.with_name(path.name.swapcase())
        if other.name != path.name:
            return os.path.exists(other) and os.path.samefile(path, other)
    return False


def _named(output: Path, format: str | None, suffix: str | None) -> Path:
    own = _FORMAT_OF.get(output.suffix.lower())
    if own is None:
        known = ", ".join(_FORMAT_OF)
        raise UserError(
            f"{output}: expected an output suffix of {known}, found '{output.suffix}'"
            f" (a new folder of this name is written {output}/)"
        )
    if format not in (None, own):
        raise UserError(f"--format {format}: contradicts the output name {output}")
    if suffix is not None:
        raise UserError(f"--suffix {suffix}: cannot be used with the output name {output}")
    return output


def _checked(
    pairs: Sequence[tuple[Found, Path]],
    skip_existing: bool,
    overwrite: bool,
    confidence: bool,
    samples: int,
) -> list[Job]:
    # Real paths: an output may be a link to an input, or lie in a linked folder.
    sources = {os.path.realpath(found.source): found.source for found, _ in pairs}
    taken: dict[str, Path] = {}
    jobs = []
    for found, target in pairs:
        images = outputs(target, samples)
        restored = images[:samples] or images
        maps = [confidence_path(path) for path in restored] if confidence else []
        for path in (*images, *maps):
            real = os.path.realpath(path)
            if real in sources:
                raise UserError(f"{path}: output of {found.source}, but also an input")
            if real in taken:
                raise UserError(
                    f"{path}: output of both {taken[real]} and {found.source}; give the folder"
                    " above them, or other output folders one by one"
                )
            taken[real] = found.source
            if os.path.isdir(path):
                raise UserError(f"{path}: expected an output file, found a folder")
            if os.path.lexists(path) and not (skip_existing or overwrite):
                raise UserError(f"{path}: exists already; use --overwrite or --skip-existing")
        done = skip_existing and all(os.path.lexists(path) for path in images)
        jobs.append(Job(found.source, target, done))
    return jobs
