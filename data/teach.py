"""Photographs → shards of degraded crops with a teacher's output, for the stage `distil`.

    python -m data.teach --input PHOTOS --output SHARDS --preset web --count 4000 \
        --teacher ncnn:FOLDER/realesrgan-x4plus

An example is an LR crop by a preset, the teacher's restoration of it, the strength that the teacher
stands for, and the HR crop with --keep-hr. Several teachers give the mean of their outputs. What an
example shows is a function of the seed and its number. What is finished when the command is killed
is kept: the same command again goes on from there, to the same bytes. It ends at --count examples
or, before, with the shard that reaches --max-gb.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data import commands, records, teachers
from data.examples import ExampleSpec
from data.prepare import licences
from data.quality import detail
from data.readers import Reader, Skipped
from data.shards import InspectedImage, Shards
from data.sources import ImageFolder, PairedFolder, Source, open_source
from maskgit_sr.errors import UserError

_HR = ("hr",)


@dataclass(frozen=True)
class Settings:
    """Settings that determine the bytes of the shards."""

    teacher: tuple[str, ...]
    strength: float
    preset: str
    seed: int
    scale: int
    crop: int
    margin: int
    zoom: tuple[float, float]
    contrast: float
    keep_hr: bool
    count: int
    max_gb: float
    shard: int


@dataclass
class TaughtImage(InspectedImage):
    """A crop with its teacher's output, which is what is measured: one row and one example."""

    record: bytes = field(default=b"", repr=False)

    def row(self) -> dict[str, Any]:
        return {name: value for name, value in super().row().items() if name != "record"}

    def examples(self) -> list[tuple[dict[str, Any], bytes]]:
        photograph = self.name.rpartition("#")[0]
        return [({"id": self.name, "source": photograph, "licence": self.licence}, self.record)]


def teach(source: Source, settings: Settings, output: Path, threads: int) -> dict[str, Any]:
    """Writes the shards, or goes on with them; returns the manifest.

    Raises:
      UserError: an output folder of other settings, no usable photograph, or a teacher that
        cannot be run or answers with another size. Without a finished shard no folder stays.
    """
    hr = settings.keep_hr or settings.teacher == _HR
    spec = ExampleSpec(
        crop=settings.crop,
        margin=settings.margin,
        scale=settings.scale,
        preset=settings.preset,
        zoom=settings.zoom,
        contrast=settings.contrast,
        arrays=("lr", "hr") if hr else ("lr",),
    )
    stated = _licences(source)
    # As JSON gives them, which has no tuples, since they are compared with those of a begun folder.
    whole = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
    shards = Shards(output, whole, [{"source": repr(source)}], records.TAUGHT)
    if shards.manifest is not None:
        return shards.manifest
    try:
        _fill(shards, settings, spec, source, stated, threads)
    except UserError:
        # Else the folder would refuse the command once it is corrected, as one of other settings.
        if not shards.examples:
            shards.discard()
        raise
    return shards.finish()


def _fill(
    shards: Shards,
    settings: Settings,
    spec: ExampleSpec,
    source: Source,
    stated: dict[str, str],
    threads: int,
) -> None:
    """Adds shards until there are enough; tells on stderr which photographs cannot be used."""
    restore = None
    if settings.teacher != _HR:
        opened = [teachers.open_teacher(text, threads) for text in settings.teacher]
        restore = teachers.mean(opened, settings.scale)
    skipped = Skipped()
    reader = Reader(source, skipped)
    size = sum(shard["bytes"] for shard in shards.shards)
    starts = range(len(shards.examples), settings.count, settings.shard)
    done = len(shards.shards)
    for start in commands.progress(starts, done + len(starts), "shards", done):
        if settings.max_gb and size >= settings.max_gb * 2**30:
            break
        numbers = range(start, min(start + settings.shard, settings.count))
        made = [_example(spec, reader, number, settings.seed) for number in numbers]
        for reason in skipped.fresh():
            print(f"data.teach: skipped {reason}", file=sys.stderr)
        restored = restore([example["lr"] for example in made]) if restore else None
        restored = restored or [example["hr"] for example in made]
        shards.add(
            [
                _taught(number, example, output, settings.keep_hr, stated)
                for number, example, output in zip(numbers, made, restored, strict=True)
            ]
        )
        size += shards.shards[-1]["bytes"]


def _example(spec: ExampleSpec, reader: Reader, number: int, seed: int) -> dict[str, Any]:
    # An epoch is a permutation of the photographs, so that a short run sees each at most once.
    epoch, place = divmod(number, len(reader))
    index = np.random.default_rng([seed, 0, epoch]).permutation(len(reader))[place]
    return spec.make(reader, int(index), np.random.default_rng([seed, 1, number]))


def _taught(
    number: int,
    example: dict[str, Any],
    output: np.ndarray,
    keep_hr: bool,
    stated: dict[str, str],
) -> TaughtImage:
    name = f"{example['id']}#{number}"  # one photograph gives many examples
    hr = records.encode(example["hr"]) if keep_hr else b""
    record = records.pack_taught(name, hr, records.encode(example["lr"]), records.encode(output))
    licence = stated.get(example["id"], "unknown")
    height, width = output.shape[:2]
    contrast, sharpness = detail(output)
    return TaughtImage(name, height, width, contrast, sharpness, licence=licence, record=record)


def _licences(source: Source) -> dict[str, str]:
    """Returns the licences that a source states, by the ids of its examples."""
    if isinstance(source, records.RecordFolder):
        return source.licences()
    if isinstance(source, ImageFolder):
        return dict(zip(source.names, licences(source, ""), strict=True))
    if isinstance(source, PairedFolder):
        return dict(zip(source.ids, licences(source, ""), strict=True))
    return {}


def main(arguments: list[str] | None = None) -> int:
    parser = commands.Parser("data.teach", __doc__ or "")
    parser.add_argument("--input", required=True, help="photographs, as --config.data.root")
    parser.add_argument("--output", type=Path, required=True, help="folder of the shards")
    kinds = "ncnn:FOLDER/NAME, bundle:MODEL, command:TEXT, or hr (see data/teachers.py)"
    parser.add_argument("--teacher", nargs="+", required=True, help=kinds)
    parser.add_argument("--strength", type=float, default=1.0, help="that the teacher stands for")
    parser.add_degradation_options()
    parser.add_argument("--crop", type=int, default=256, help="side of the HR crop")
    parser.add_argument("--margin", type=int, default=64, help="see --config.data.margin")
    parser.add_argument("--zoom", type=float, nargs=2, default=(1.0, 1.0))
    parser.add_argument("--contrast", type=float, default=2.0, help="least, in levels of 255")
    parser.add_argument("--keep-hr", action="store_true", help="keep the HR crop too")
    parser.add_argument("--count", type=int, default=4000, help="examples at most")
    parser.add_argument("--max-gb", type=float, default=0.0, help="of shards at most; 0: no limit")
    parser.add_argument("--shard", type=int, default=64, help="examples a shard")
    parser.add_argument("--threads", type=int, default=2, help="of ncnn")
    options = parser.parse_args(arguments)
    if not 0 <= options.strength <= 1:
        parser.error(f"--strength: expected 0 to 1, found {options.strength:g}")
    if min(options.count, options.shard, options.threads) < 1 or not options.max_gb >= 0:
        parser.error("--count, --shard, --threads: expected at least 1; --max-gb: at least 0")
    source = open_source(options.input)
    cv2.setNumThreads(0)  # the teacher takes the cores
    names = (name for name in Settings.__dataclass_fields__ if name not in ("teacher", "zoom"))
    settings = Settings(
        teacher=tuple(options.teacher),
        zoom=tuple(options.zoom),
        **{name: getattr(options, name) for name in names},
    )
    finished = (options.output / records.MANIFEST).exists()
    manifest = teach(source, settings, options.output, options.threads)
    if finished:
        print(f"{options.output}: finished already; nothing to do")
    else:
        print(f"{manifest['examples']} examples in {len(manifest['shards'])} shards")
    return 0


if __name__ == "__main__":
    commands.run("data.teach", main)
