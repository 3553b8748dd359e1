"""Makes a synthetic test set: LR images of a folder of HR images, with all parameters drawn.

    python -m data.degrade --input HR --output LR --preset realesrgan --seed 0

LR images keep their sub-folders and names, as PNG; LR/degradations.json holds one record an image.
Equal seeds give equal bytes: what is drawn for an image is a function of the seed and its name. HR
images are cut at the right and bottom to a multiple of the scale; --hr-output keeps what remains.
With --records FILE the degradations are those of such a file instead of new ones.
"""

from __future__ import annotations

import contextlib
import json
import sys
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from data import commands, degradations, records
from data.chain import Degradation
from data.sources import ImageFolder
from data.validation import whole_multiple
from maskgit_sr import paths
from maskgit_sr.errors import UserError

RECORDS, VERSION = "degradations.json", 1
_SETTINGS = ("preset", "seed", "scale")


def output_names(names: list[str]) -> list[str]:
    """Returns the names with the suffix .png.

    Raises:
      UserError: two images would get the same name.
    """
    counts = Counter(str(PurePosixPath(name).with_suffix(".png")) for name in names)
    for output, count in counts.items():
        if count > 1:
            raise UserError(f"several HR images would give {output}")
    return list(counts)


def read_records(path: Path) -> tuple[dict[str, Any], dict[str, Degradation]]:
    """Returns (preset, seed and scale, record by name of the HR image) of a records file.

    Raises:
      UserError: not such a file.
    """
    try:
        content = json.loads(path.read_text())
        if content["version"] != VERSION or content["version"] is True:  # True == 1
            raise UserError(f"version {content['version']}, expected {VERSION}")
        settings = {key: content[key] for key in _SETTINGS}
        if [type(value) for value in settings.values()] != [str, int, int] or settings["scale"] < 1:
            raise UserError(f"preset, seed and scale are {list(settings.values())}")
        return settings, {name: Degradation.from_dict(r) for name, r in content["images"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a file of degradations ({error})") from error


def degrade(
    source: ImageFolder,
    output: Path,
    settings: dict[str, Any],
    given: dict[str, Degradation] | None = None,
    hr_output: Path | None = None,
) -> dict[str, str]:
    """Writes the LR images and their records; returns {name: reason} of what could not be used.

    Raises:
      UserError: no image was usable, names that clash, or an image without a record in `given`.
    """
    drawn, failed = {}, {}
    preset, seed, scale = (settings[key] for key in _SETTINGS)
    names = list(zip(source.names, output_names(source.names), strict=True))
    if given is not None and (missing := sorted(set(source.names) - given.keys())):
        raise UserError(f"no record of {missing[0]}")
    for i, (name, written) in enumerate(commands.progress(names, len(names), "images")):
        try:
            image = source[i]["image"]
        except UserError as error:
            failed[name] = str(error)
            continue
        try:
            hr = whole_multiple(image, scale)
            if given is None:
                # By name, so that other files of the folder change nothing; crc32, since hash()
                # of a text differs from process to process.
                rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
                record = degradations.draw(rng, preset, hr.shape[0], hr.shape[1], scale)
            else:
                record = given[name]
            lr = record.apply(hr)
        except ValueError as error:
            failed[name] = f"{name}: {error}"
            continue
        paths.write(output / written, records.encode(lr))
        if hr_output is not None:
            paths.write(hr_output / written, records.encode(hr))
        drawn[name] = record.to_dict()
    if not drawn:
        raise UserError(f"no usable image; {next(iter(failed.values()))}")
    # Written last, so that a killed run leaves no records beside images of other draws.
    content = {"version": VERSION, **settings, "images": drawn}
    paths.write(output / RECORDS, json.dumps(content, indent=1, ensure_ascii=False))
    return failed


def _remove(output: Path, folders: list[Path]) -> None:
    """Deletes the test set in `output`, its records first: wrong ones must not stay behind."""
    path = output / RECORDS
    names = []
    with contextlib.suppress(ValueError, FileNotFoundError):  # else nothing tells its images
        names = output_names(list(read_records(path)[1]))
    path.unlink(missing_ok=True)
    for folder in folders:
        for name in names:
            (folder / name).unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = commands.Parser("data.degrade", __doc__ or "")
    parser.add_argument("--input", required=True, help="folder of HR images")
    parser.add_argument("--output", type=Path, required=True, help="folder of the LR images")
    parser.add_argument("--hr-output", type=Path, help="folder of the HR images as they were used")
    parser.add_degradation_options()
    parser.add_argument("--records", type=Path, help="repeat the degradations of this file")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(arguments)
    source = ImageFolder(options.input)
    folders = [path for path in (options.output, options.hr_output) if path]
    # Resolved, since a link or `..` may lead to the HR images, which would be overwritten.
    if len({path.resolve() for path in (Path(options.input), *folders)}) <= len(folders):
        parser.error("--output, --hr-output: expected folders of their own")
    if options.overwrite:
        _remove(options.output, folders)
    else:
        written = [RECORDS, *output_names(source.names)]
        there = [folder / name for folder in folders for name in written]
        if found := next((path for path in there if path.exists()), None):
            parser.error(f"--output: {found} exists; --overwrite replaces a test set")
    if options.records:
        settings, given = read_records(options.records)
    else:
        settings, given = {key: getattr(options, key) for key in _SETTINGS}, None
    cv2.setNumThreads(0)
    failed = degrade(source, options.output, settings, given, options.hr_output)
    for reason in failed.values():
        print(f"data.degrade: skipped {reason}", file=sys.stderr)
    print(f"{len(source) - len(failed)} images in {options.output}, {len(failed)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    commands.run("data.degrade", main)
