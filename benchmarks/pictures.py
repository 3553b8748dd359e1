"""Sheets of restored pictures beside bicubic enlargement and the peers, and the samples' making.

    pip install scikit-image scikit-learn matplotlib          # whose photographs are used
    python -m benchmarks.pictures make --output samples
    python -m benchmarks.pictures sheet --input samples --peers PEERS --x4plus FOLDER \
        --output docs/images/comparison.jpg [--names web phone camera old]

`make` cuts and degrades freely licensed photographs of those packages into twelve small pictures as
people have them; samples/README.md names the licences. `sheet` restores them with a model of ours
and the networks of `benchmarks.peers`, a row a picture.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks import common
from benchmarks.peers import NCNN, SCALE, X4PLUS, System, bicubic, ours, peer
from data import operations
from data.chain import Blur, GaussianNoise, Jpeg, Step
from data.kernels import Kernel
from data.lens import gaussian, unsharp
from maskgit_sr import DEFAULT_MODEL, images
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.images.samples import unit

HEIGHT, WIDTH = 128, 160
"""Size of a made picture in pixels."""
CELL = 64, 80
"""Size in LR pixels of the part of a picture that a sheet shows."""
SKIMAGE, SKLEARN, MATPLOTLIB = (
    "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data",
)  # fmt: skip


class Recipe(NamedTuple):
    """How a picture is made.

    Attributes:
        source: package and path of the photograph within it.
        top, left: corner of the cut, in pixels of the photograph.
        reduction: side of the cut over that of the picture.
        steps: damage at the size of the picture, the last of which is the file's own JPEG.
        grey: as a black-and-white photograph.
    """

    source: str
    top: int
    left: int
    reduction: int
    steps: tuple[Step, ...]
    grey: bool = False


_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)
_SHARP: Blur = unsharp(0.8, 1.2)
_SOFT: Blur = gaussian(0.7)
_SCAN: Blur = Blur(Kernel("gaussian", 5, 0.8, 0.6))
RECIPES = {
    "web": Recipe(f"{SKLEARN}/china.jpg", 60, 150, 2, (Jpeg(85), _SHARP, Jpeg(55))),
    "phone": Recipe(
        f"{SKIMAGE}/coffee.png", 60, 170, 2, (GaussianNoise(7, False, 1), _SHARP, Jpeg(70))
    ),
    "camera": Recipe(f"{SKLEARN}/flower.jpg", 140, 250, 1, (Jpeg(92),)),
    "old": Recipe(
        f"{MATPLOTLIB}/grace_hopper.jpg", 20, 110, 2,
        (_SOFT, GaussianNoise(9, True, 2), Jpeg(75)), True,
    ),
    "web_portrait": Recipe(f"{SKIMAGE}/astronaut.png", 0, 110, 2, (Jpeg(45),)),
    "web_rocket": Recipe(f"{SKIMAGE}/rocket.jpg", 130, 250, 1, (Jpeg(60), Jpeg(75))),
    "web_pagoda": Recipe(f"{SKLEARN}/china.jpg", 100, 60, 1, (_SHARP, Jpeg(50))),
    "phone_cat": Recipe(
        f"{SKIMAGE}/chelsea.png", 40, 70, 2, (GaussianNoise(5, False, 3), _SHARP, Jpeg(60))
    ),
    "phone_dark": Recipe(
        f"{SKIMAGE}/astronaut.png", 250, 180, 2, (GaussianNoise(12, False, 4), Jpeg(80))
    ),
    "scan_page": Recipe(f"{SKIMAGE}/page.png", 30, 60, 1, (_SCAN, Jpeg(70)), True),
    "scan_coins": Recipe(
        f"{SKIMAGE}/coins.png", 30, 60, 1, (_SCAN, GaussianNoise(4, True, 5), Jpeg(70)), True
    ),
    "scan_photo": Recipe(
        f"{SKIMAGE}/camera.png", 60, 140, 2, (_SOFT, GaussianNoise(7, True, 6), Jpeg(60)), True
    ),
}  # fmt: skip


def make(recipe: Recipe) -> bytes:
    """Returns the picture as a JPEG file.

    Raises:
        UserError: the package is not installed, or has no such photograph.
    """
    package, _, inner = recipe.source.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"{recipe.source}: package {package} is not installed")
    whole = images.read(Path(found.origin).parent / inner).color
    side = HEIGHT * recipe.reduction, WIDTH * recipe.reduction
    cut = whole[recipe.top : recipe.top + side[0], recipe.left : recipe.left + side[1]]
    if cut.shape[:2] != side:
        raise UserError(f"{recipe.source}: too small for the cut at {recipe.top}, {recipe.left}")
    picture = unit(images.resize(cut, HEIGHT, WIDTH))
    if recipe.grey:
        picture = np.repeat(picture @ _LUMA, 3, axis=2)
    *damage, last = recipe.steps
    for step in damage:
        picture = step(picture)
    assert isinstance(last, Jpeg)
    made = images.from_array(operations.to_bytes(picture))
    return images.to_bytes(made, "JPEG", quality=last.quality)[0]


def sheet(
    pictures: dict[str, np.ndarray], systems: dict[str, System], cell: tuple[int, int] = CELL
) -> Image.Image:
    """Returns the middles of all pictures restored by all systems, a row a picture."""
    high, wide = (n * SCALE for n in cell)
    head = 22
    page = Image.new("RGB", (wide * len(systems), head + high * len(pictures)), "white")
    drawing = ImageDraw.Draw(page)
    for column, (system, run) in enumerate(systems.items()):
        drawing.text((column * wide + 6, 4), system, "black", ImageFont.load_default(13))
        for row, lr in enumerate(pictures.values()):
            top, left = ((n - part) // 2 * SCALE for n, part in zip(lr.shape, cell, strict=False))
            part = run(lr)[top : top + high, left : left + wide]
            page.paste(Image.fromarray(part), (column * wide, head + row * high))
    return page


def _read(folder: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: images.read(folder / f"{name}.jpg").color for name in names}


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("action", choices=("make", "sheet"))
    parser.add_argument("--input", type=Path, help="folder that `make` wrote")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--names", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--peers", type=Path, help="folder of ncnn files")
    parser.add_argument("--x4plus", type=Path, help="folder of realesrgan-x4plus as ncnn files")
    parser.add_argument("--threads", type=common.positive, default=2, help="of ncnn")
    options = parser.parse_args()
    with one_line("benchmarks.pictures"):
        if options.action == "make":
            options.output.mkdir(parents=True, exist_ok=True)
            for name in options.names:
                (options.output / f"{name}.jpg").write_bytes(make(RECIPES[name]))
            return 0
        if options.input is None:
            raise UserError("--input: expected the folder that `make` wrote")
        wdn = "realesr-general-wdn-x4v3"
        systems: dict[str, System] = {
            "bicubic": bicubic,
            Path(options.model).stem: ours(options.model),
        }
        if options.peers is not None:
            systems[wdn] = peer(options.peers, NCNN[wdn], options.threads)
        if options.x4plus is not None:
            systems[X4PLUS] = peer(options.x4plus, X4PLUS, options.threads)
        page = sheet(_read(options.input, options.names), systems)
        page.save(options.output, quality=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
