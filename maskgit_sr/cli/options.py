"""Options shared by several commands: their types, help and checks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from maskgit_sr.errors import UserError

DEVICES = ("cpu", "gpu", "tpu")
DTYPES = ("float32", "bfloat16")

Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of a bundle, see 'models', or its path.")
]
Steps = Annotated[int | None, typer.Option(help="Decoding steps. (default: the model's)")]
Seed = Annotated[int, typer.Option(help="Same seed, same output.")]
Temperature = Annotated[
    float | None, typer.Option(help="Randomness of the tokens, 0 for none. (default: the method's)")
]
Strength = Annotated[
    float | None,
    typer.Option(help="How much noise and blocks are removed, 0 to 1. (default: the model's)"),
]
Consistent = Annotated[
    float | None,
    typer.Option(
        metavar="EPS",
        help="Let the result, reduced again, return the input within so many grey levels of 255.",
    ),
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="An option of the method; repeatable."),
]
Batch = Annotated[int | None, typer.Option(help="Windows per device call. (default: by device)")]
Device = Annotated[
    str | None,
    typer.Option(metavar="|".join(DEVICES), help="Where to run. (default: the best there is)"),
]
Dtype = Annotated[
    str | None, typer.Option(metavar="|".join(DTYPES), help="Precision. (default: by device)")
]


def check_number(option: str, value: float | None, least: int, most: int | None = None) -> None:
    """Raises UserError unless the value is None, or finite and from ``least`` to ``most``."""
    # Written as what is allowed, since every comparison with NaN is false.
    top = math.inf if most is None else most
    if value is not None and not (math.isfinite(value) and least <= value <= top):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        raise UserError(f"{option}: expected {expected}, found {value}")


def check_choice(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Raises UserError unless the value is None or one of ``choices``."""
    if value is not None and value not in choices:
        raise UserError(f"{option}: expected one of {', '.join(choices)}, found '{value}'")


def check_lossless(targets: Iterable[Path]) -> None:
    """Raises UserError for an output of --consistent whose format changes its samples."""
    for target in targets:
        if target.suffix.lower() not in (".png", ".tif", ".tiff"):
            raise UserError(f"--consistent: expected png or tif, which are lossless: {target}")


def check_lossy(targets: Iterable[Path]) -> None:
    """Raises UserError if no output has a format that --quality is of."""
    from maskgit_sr.images.encode import LOSSY
    from maskgit_sr.images.picture import WRITABLE

    suffixes = {target.suffix.lower() for target in targets}
    if not any(WRITABLE.get(suffix) in LOSSY for suffix in suffixes):
        found = ", ".join(sorted(suffix[1:] for suffix in suffixes))
        raise UserError(f"--quality: expected outputs of jpg, webp or avif, found {found}")


def check(
    steps: int | None,
    seed: int,
    temperature: float | None,
    batch: int | None,
    device: str | None,
    dtype: str | None,
    strength: float | None = None,
) -> None:
    """Raises UserError for a value that is wrong for every method and machine."""
    check_number("--steps", steps, 1)
    check_number("--seed", seed, 0, 2**32 - 1)  # exported artifacts take seeds as uint32
    check_number("--temperature", temperature, 0)
    check_number("--strength", strength, 0, 1)
    check_number("--batch", batch, 1)
    check_choice("--device", device, DEVICES)
    check_choice("--dtype", dtype, DTYPES)
