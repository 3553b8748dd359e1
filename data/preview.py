"""Draws a contact sheet of degradations.

    python -m data.preview --input PHOTOS --output sheet.png --preset realesrgan --seed 0

Each row shows an HR crop, its LR image enlarged without smoothing, and the drawn parameters.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data import commands, degradations
from data.examples import random_crop
from data.readers import Reader, Skipped
from data.sources import open_source
from maskgit_sr import paths

_TEXT_WIDTH, _GAP, _FONT_SIZE = 330, 8, 13


def row(hr: np.ndarray, lr: np.ndarray, text: str) -> Image.Image:
    """Returns HR, LR enlarged to its size by repeated pixels, and the text wrapped beside them."""
    side = hr.shape[0]
    large = cv2.resize(lr, (side, side), interpolation=cv2.INTER_NEAREST)
    font = ImageFont.load_default(_FONT_SIZE)
    lines = _wrapped(text, font)
    height = max(side, len(lines) * (_FONT_SIZE + 4))
    picture = Image.new("RGB", (2 * side + 2 * _GAP + _TEXT_WIDTH, height), "white")
    picture.paste(Image.fromarray(hr), (0, 0))
    picture.paste(Image.fromarray(large), (side + _GAP, 0))
    drawing = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        drawing.text((2 * (side + _GAP), i * (_FONT_SIZE + 4)), line, "black", font)
    return picture


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Returns one line a step; longer ones are broken at words."""
    lines = []
    for step in text.split(" | "):
        line = ""
        for word in step.split():
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > _TEXT_WIDTH:
                lines.append(line)
                longer = f"   {word}"
            while font.getlength(longer) > _TEXT_WIDTH:  # a word, such as a path, is longer
                fits = len(longer) - 1
                while font.getlength(longer[:fits]) > _TEXT_WIDTH:
                    fits -= 1
                lines.append(longer[:fits])
                longer = longer[fits:]
            line = longer
        lines.append(line)
    return lines


def sheet(reader: Reader, preset: str, seed: int, count: int, crop: int, scale: int) -> Image.Image:
    """Returns a sheet of `count` rows, each of a random image of the source."""
    rows = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])  # by row: a longer sheet begins with the same ones
        example = reader[int(rng.integers(len(reader)))]
        hr = np.ascontiguousarray(random_crop(example["hr"], crop, rng))
        record = degradations.draw(rng, preset, crop, crop, scale)
        rows.append(row(hr, record.apply(hr), f"{example['id']} | {record}"))
    gap = np.full((_GAP, rows[0].width, 3), 255, np.uint8)
    parts = [part for picture in rows for part in (gap, np.asarray(picture))]
    return Image.fromarray(np.concatenate(parts[1:]))


def main(arguments: list[str] | None = None) -> int:
    parser = commands.Parser("data.preview", __doc__ or "")
    parser.add_argument("--input", required=True, help="photographs; see data.sources.open_source")
    parser.add_argument("--output", type=Path, required=True, help="PNG file")
    parser.add_degradation_options()
    parser.add_argument("--count", type=int, default=8, help="rows")
    parser.add_argument("--crop", type=int, default=256, help="HR pixels")
    options = parser.parse_args(arguments)
    if options.output.suffix.lower() != ".png":
        parser.error(f"--output: expected a .png file, found {options.output}")
    if options.count < 1 or options.crop < options.scale or options.crop % options.scale:
        parser.error("--count, --crop: expected a count above 0 and a crop divisible by the scale")
    reader = Reader(open_source(options.input), Skipped())
    picture = sheet(
        reader, options.preset, options.seed, options.count, options.crop, options.scale
    )
    data = io.BytesIO()  # encoded first: `paths.write` leaves a whole file or none
    picture.save(data, "PNG")
    paths.write(options.output, data.getvalue())
    for note in reader.skipped.notes().values():
        print(f"skipped {note}")
    print(f"{options.count} rows in {options.output}")
    return 0


if __name__ == "__main__":
    commands.run("data.preview", main)
