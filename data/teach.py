"""Photographs → shards of degraded crops with a teacher's output, for the stage `distil`.

    python -m data.teach --input PHOTOS --output SHARDS --preset web --count 4000 \
        --teacher ncnn:FOLDER/realesrgan-x4plus

An example is an LR crop by a preset, the teacher's restoration of it, the strength that the teacher
stands for, and the HR crop with --keep-hr. Several teachers give the mean of their outputs. What an
example shows is a function of the seed and its number. What is finished when the command is killed
is kept: the same command again goes on from there, to the same bytes. It ends at --count examples
or, before, at --max-gb of shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data import commands, records, teachers
from data.examples import ExampleSpec
from data.prepare import licences
from data.readers import Reader, Skipped
from data.shards import InspectedImage, Shards
from data.sources import ImageFolder, PairedFolder, Source, open_source


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
    """A crop with its teacher's output, as one row and one example of `Shards`."""

    record: bytes = field(default=b"", repr=False)

    def row(self) -> dict[str, Any]:
        return {name: value for name, value in super().row().items() if name != "record"}

    def examples(self) -> list[tuple[dict[str, Any], bytes]]:
        line = {"id": self.name, "source": self.name, "licence": self.licence}
        return [(line, self.record)]


def teach(source: Source, settings: Settings, output: Path, threads: int) -> dict[str, Any]:
    """Writes the shards, or goes on with them; returns the manifest.

    Raises:
      UserError: an output folder of other settings, no usable photograph, or a teacher that
        cannot be run or answers with another size.
    """
    spec = ExampleSpec(
        crop=settings.crop,
        margin=settings.margin,
        scale=settings.scale,
        preset=settings.preset,
        zoom=settings.zoom,
        contrast=settings.contrast,
    )
    restore = None
    if settings.teacher != ("hr",):
        opened = [teachers.open_teacher(text, threads) for text in settings.teacher]
        restore = teachers.mean(opened, settings.scale)
    reader = Reader(source, Skipped())
    stated = _licences(source)
    # As JSON gives them, which has no tuples, since they are compared with those of a begun folder.
    whole = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
    shards = Shards(output, whole, [{"source": repr(source)}], records.TAUGHT)
    if shards.manifest is not None:
        return shards.manifest
    done = len(shards.examples)
    size = sum(shard["bytes"] for shard in shards.shards)
    bar = commands.progress(_parts(done, settings), -(-settings.count // settings.shard), "shards")
    for part in bar:
        if settings.max_gb and size >= settings.max_gb * 2**30:
            break
        made = [_example(spec, reader, i, settings.seed) for i in part]
        images = [example["lr"] for example in made]
        restored = restore(images) if restore else [example["hr"] for example in made]
        shards.add(
            [
                TaughtImage(
                    f"{example['id']}#{i}",
                    licence=stated.get(example["id"], "unknown"),
                    record=_packed(example, output_, settings.keep_hr),
                )
                for i, example, output_ in zip(part, made, restored, strict=True)
            ]
        )
        size += shards.shards[-1]["bytes"]
    return shards.finish()


def _parts(done: int, settings: Settings) -> Iterator[range]:
    for start in range(done, settings.count, settings.shard):
        yield range(start, min(start + settings.shard, settings.count))


def _example(spec: ExampleSpec, reader: Reader, number: int, seed: int) -> dict[str, Any]:
    # An epoch is a permutation of the photographs, so that a short run sees each at most once.
    epoch, place = divmod(number, len(reader))
    index = np.random.default_rng([seed, 0, epoch]).permutation(len(reader))[place]
    return spec.make(reader, int(index), np.random.default_rng([seed, 1, number]))


def _packed(example: dict[str, Any], output: np.ndarray, keep_hr: bool) -> bytes:
    hr = records.encode(example["hr"]) if keep_hr else b""
    lr, teacher = (records.encode(image) for image in (example["lr"], output))
    return records.pack_taught(example["id"], hr, lr, teacher)


def _licences(source: Source) -> dict[str, str]:
    if not isinstance(source, ImageFolder | PairedFolder):
        return {}
    return dict(zip(source.names, licences(source, ""), strict=True))


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
    parser.add_argument("--max-gb", type=float, default=0.0, help="of shards at most; 0: any")
    parser.add_argument("--shard", type=int, default=64, help="examples a shard")
    parser.add_argument("--threads", type=int, default=2, help="of ncnn")
    options = parser.parse_args(arguments)
    if not 0 <= options.strength <= 1:
        parser.error(f"--strength: expected 0 to 1, found {options.strength:g}")
    if min(options.count, options.shard, options.threads) < 1 or not options.max_gb >= 0:
        parser.error("--count, --shard, --threads, --max-gb: expected more than 0")
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
