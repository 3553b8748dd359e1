"""Folders of photographs → checked ArrayRecord shards with a manifest.

    python -m data.prepare --input PHOTOS [MORE …] --output SHARDS [--dataset div2k-train]

Every file is decoded; unreadable, small, flat, blurred and repeated images are left out and
listed with the reason in SHARDS/report.csv, as are near duplicates, which stay unless
--drop-near-duplicates. Large images are cut into overlapping crops. With --pairs the inputs hold
LR and HR images, which are cut alike. What is finished when the command is killed is kept: the same
command again goes on from there, to the same bytes.

`manifest.json` holds settings, counts and the size of each shard, `examples.jsonl` source, place,
size and licence of every example. Licences are those of --licence, or of a MANIFEST.csv (columns
file and licence) in an input folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data import commands, quality, recipes, records
from data.shards import Crop, InspectedImage, Shards
from data.sources import ImageFolder, PairedFolder, lr_hr_pairs
from maskgit_sr.errors import UserError

Folder = ImageFolder | PairedFolder


@dataclass(frozen=True)
class Settings:
    """Settings that determine the bytes of the shards."""

    crop: int
    stride: int
    least: int
    contrast: float
    sharpness: float
    near: int
    drop_near: bool
    jpeg: int
    shard_bytes: int


def cut(height: int, width: int, crop: int, stride: int) -> list[tuple[int, int, int, int]]:
    """Returns (top, left, height, width) of overlapping crops that cover an image.

    Steps are `stride`, the last crop ends at the border; a side up to `crop` is kept whole, as all
    are for a crop of 0.
    """

    def starts(side: int) -> list[int]:
        if not crop or side <= crop:
            return [0]
        return [*range(0, side - crop, stride), side - crop]

    tall, wide = (min(side, crop) if crop else side for side in (height, width))
    return [(top, left, tall, wide) for top in starts(height) for left in starts(width)]


def inspect(folder: Folder, index: int, settings: Settings, label: str) -> InspectedImage:
    """Decodes, checks and cuts one image or pair; duplicates are found later, in order.

    `label` stands for the folder in the image's name.
    """
    picture = InspectedImage(f"{label}/{folder.names[index]}")
    try:
        example = folder[index]
    except UserError as error:
        # Without the path, which the message begins with and the report has in its own column.
        picture.problem = f"unreadable: {str(error).rpartition(': ')[2]}"
        return picture
    hr = example["hr"] if "hr" in example else example["image"]
    lr = example.get("lr", hr)
    height, width = picture.height, picture.width = hr.shape[:2]
    picture.contrast, picture.sharpness = (round(v, 3) for v in quality.detail(hr))
    scale = height // lr.shape[0]
    if (lr.shape[0] * scale, lr.shape[1] * scale) != (height, width):
        picture.problem = f"mismatched: HR {height}x{width}, LR {lr.shape[0]}x{lr.shape[1]}"
        return picture
    if min(height, width) < settings.least:
        picture.problem = f"small: {height}x{width}"
        return picture
    picture.digest = quality.pixel_digest(hr)
    picture.code = tuple(map(int, quality.difference_hash(hr)))
    # Cut on the LR grid, so that both crops of a pair show the same.
    crop = max(1, settings.crop // scale) if settings.crop else 0
    stride = max(1, settings.stride // scale)
    for place in cut(lr.shape[0], lr.shape[1], crop, stride):
        top, left, tall, wide = (n * scale for n in place)
        part = hr[top : top + tall, left : left + wide]
        contrast, sharpness = quality.detail(part)
        if contrast < settings.contrast or sharpness < settings.sharpness:
            problem = "flat" if contrast < settings.contrast else "blurred"
            continue
        parts = [part]
        if lr is not hr:
            row, column, rows, columns = place
            parts.append(lr[row : row + rows, column : column + columns])
        try:
            encoded = [records.encode(part, settings.jpeg) for part in parts]
        except ValueError as error:  # a side beyond what the format can hold
            problem = f"unencodable: {error}"
            continue
        picture.crops.append(Crop(top, left, tall, wide, *encoded))
    if not picture.crops:
        picture.problem = problem
    return picture


class Duplicates:
    """Marks exact and near duplicates of earlier images; must be given the images in order."""

    def __init__(self, settings: Settings):
        self._settings, self._seen = settings, dict[str, str]()
        self._near = quality.NearDuplicates(settings.near)

    def mark(self, picture: InspectedImage) -> None:
        """Sets `problem` and `duplicate_of` of a duplicate; remembers any other image."""
        if not picture.digest:
            return
        if earlier := self._seen.get(picture.digest):
            picture.problem, picture.duplicate_of = "duplicate", earlier
            return
        self._seen[picture.digest] = picture.name
        if picture.problem:  # what is left out must not push out its better copies
            return
        code = np.array(picture.code, np.uint64)
        if near := self._near.nearest(code):
            picture.duplicate_of = f"{near[0]} ({near[1]} of 256 bits)"
            if self._settings.drop_near:
                picture.problem = "near duplicate"
                return
        self._near.add(picture.name, code)


def licences(folder: Folder, given: str) -> list[str]:
    """Returns each image's licence: `given`, else the folder's MANIFEST.csv's, else "unknown".

    Raises:
      UserError: a MANIFEST.csv without the two columns.
    """
    path = folder.root / "MANIFEST.csv"
    if given or not path.exists():
        return [given or "unknown"] * len(folder)
    text = path.read_bytes().decode("utf-8-sig")  # as spreadsheets save it
    rows = list(csv.DictReader(io.StringIO(text)))
    if rows and not {"file", "licence"} <= rows[0].keys():
        raise UserError(f"{path}: expected columns file and licence")
    stated = {row["file"]: row["licence"] for row in rows}
    return [stated.get(name) or "unknown" for name in folder.names]


def labels(folders: Sequence[Folder]) -> list[str]:
    """Returns the label of each folder in names: its own name, numbered where that repeats."""
    names = [folder.root.resolve().name for folder in folders]
    return [
        name if names.count(name) == 1 else f"{name}-{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def prepare(
    folders: Sequence[Folder], output: Path, settings: Settings, licence: str, workers: int
) -> dict[str, Any]:
    """Writes the shards, or goes on with them; returns the manifest.

    Raises:
      UserError: an output folder of other settings, or no usable picture at all.
    """
    named = list(zip(folders, labels(folders), strict=True))
    tasks = [(folder, i, label) for folder, label in named for i in range(len(folder))]
    inputs = [
        {
            "folder": str(folder.root),
            "label": label,
            "pictures": len(folder),
            "names": hashlib.sha256(repr(folder.names).encode()).hexdigest(),
        }
        for folder, label in named
    ]
    stated = [name for folder in folders for name in licences(folder, licence)]
    shards, duplicates = Shards(output, asdict(settings), inputs), Duplicates(settings)
    if shards.manifest is not None:
        return shards.manifest
    # Images of finished shards count as seen, so that a resumed run makes the same bytes.
    for row in shards.pictures:
        duplicates.mark(InspectedImage(**row))
    done = len(shards.pictures)

    held: list[InspectedImage] = []
    size = 0
    results = _in_order(tasks[done:], settings, workers)
    bar = commands.progress(results, len(tasks), "pictures", done)
    for picture, stands_under in zip(bar, stated[done:], strict=True):
        picture.licence = stands_under
        duplicates.mark(picture)
        if picture.problem:
            picture.crops.clear()  # duplicates are found only after threads have cut them
        held.append(picture)
        size += sum(len(crop.hr) + len(crop.lr) for crop in picture.crops)
        # A shard ends with a whole image, so that a resumed run starts with the next one.
        if size >= settings.shard_bytes:
            shards.add(held)
            held, size = [], 0
    if held:
        shards.add(held)
    if not shards.examples:
        reasons = _counts(shards.left_out())
        shards.discard()
        raise UserError(f"no usable picture among {len(tasks)}: {reasons}")
    return shards.finish()


def _in_order(
    tasks: Sequence[tuple[Folder, int, str]], settings: Settings, workers: int
) -> Iterator[InspectedImage]:
    """Yields inspected images in order; threads (codecs release the GIL) work a few files ahead."""
    waiting: deque[Future[InspectedImage]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for folder, index, label in tasks:
            waiting.append(pool.submit(inspect, folder, index, settings, label))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def main(arguments: list[str] | None = None) -> int:
    parser = commands.Parser("data.prepare", __doc__ or "")
    parser.add_argument("--input", nargs="+", required=True, help="folders of photographs")
    parser.add_argument("--output", type=Path, required=True, help="folder of the shards")
    names = sorted(recipes.RECIPES)
    parser.add_argument("--dataset", choices=names, help="whose image count is checked")
    parser.add_argument("--pairs", action="store_true", help="the inputs hold LR and HR images")
    parser.add_argument("--crop", type=int, default=512, help="side of crops, 0: whole pictures")
    parser.add_argument("--stride", type=int, default=448, help="between crops")
    parser.add_argument("--least", type=int, default=128, help="least side of a picture")
    parser.add_argument("--contrast", type=float, default=2.0, help="least, in levels of 255")
    parser.add_argument("--sharpness", type=float, default=2.0, help="least, in levels of 255")
    parser.add_argument("--near", type=int, default=12, help="bits of 256 for a near duplicate")
    parser.add_argument("--drop-near-duplicates", dest="drop_near", action="store_true")
    parser.add_argument("--jpeg", type=int, default=0, help="quality; 0: PNG, without loss")
    parser.add_argument("--shard-mb", type=float, default=256.0)
    parser.add_argument("--licence", default="", help="of all pictures")
    parser.add_argument("--workers", type=int, default=4, help="threads")
    options = parser.parse_args(arguments)
    if options.crop < 0 or (options.crop and not 0 < options.stride <= options.crop):
        parser.error("--crop, --stride: expected a crop of at least 0 and a stride up to it")
    if not 0 <= options.jpeg <= 100 or options.workers < 1:
        parser.error("--jpeg: expected 0..100; --workers: expected more than 0")
    if not 0 < options.shard_mb < math.inf:
        parser.error(f"--shard-mb: expected a number above 0, found {options.shard_mb}")
    folders: list[Folder] = [
        lr_hr_pairs(folder) if options.pairs else ImageFolder(folder) for folder in options.input
    ]
    if options.dataset:
        recipes.check(options.dataset, [folder.names for folder in folders])
    cv2.setNumThreads(0)  # the threads of `--workers` take an image each
    options.shard_bytes = int(options.shard_mb * 2**20)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    finished = (options.output / records.MANIFEST).exists()
    manifest = prepare(folders, options.output, settings, options.licence, options.workers)
    if finished:
        print(f"{options.output}: finished already; nothing to do")
        return 0
    print(
        f"{manifest['pictures']} pictures, {manifest['examples']} examples in "
        f"{len(manifest['shards'])} shards; left out: {_counts(manifest['left_out'])}; near "
        f"duplicates: {manifest['near_duplicates']} (see {options.output / 'report.csv'})"
    )
    return 0


if __name__ == "__main__":
    commands.run("data.prepare", main)
