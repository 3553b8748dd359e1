"""Contents of the usual data sets, to check a download by; see data/README.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from maskgit_sr.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Images that a data set is made of.

    Attributes:
      count: how many images.
      pattern: regular expression of their paths within the folder; others are not counted.
    """

    count: int
    pattern: str = r".*"


RECIPES: dict[str, Recipe] = {
    "div2k-train": Recipe(800, r"(.*/)?0(?!000)([0-7]\d\d|800)\.png"),
    "div2k-valid": Recipe(100, r"(.*/)?0(8(?!00)\d\d|900)\.png"),
    "flickr2k": Recipe(2650, r"(.*/)?00\d{4}\.png"),
    "ost": Recipe(10324),
    "realsr-test-x4": Recipe(100, r"(.*/)?(Canon|Nikon)_\d+_HR\.png"),
    "drealsr-train-x4": Recipe(31970, r"(.*/)?train_HR/.*"),
    "drealsr-test-x4": Recipe(93, r"(.*/)?test_HR/.*"),
    "dped-iphone": Recipe(5727, r"(.*/)?\d+\.jpg"),
}


def check(name: str, folders: Sequence[Sequence[str]]) -> None:
    """Compares the number of images in the input folders with the data set's.

    Args:
      name: of a recipe.
      folders: paths of the images of each folder, relative to it.

    Raises:
      UserError: another number.
    """
    recipe = RECIPES[name]
    found = sum(bool(re.fullmatch(recipe.pattern, path)) for paths in folders for path in paths)
    others = sum(map(len, folders)) - found
    if found != recipe.count:
        raise UserError(
            f"--dataset {name}: expected {recipe.count} images, found {found}"
            + (f" and {others} that are not part of it" if others else "")
        )
    if others:
        raise UserError(f"--dataset {name}: {others} images in the input are not part of it")
