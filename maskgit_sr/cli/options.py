"""Options that several commands have: their types, help and checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from maskgit_sr.cli.messages import DEVICES, DTYPES, parse_options
from maskgit_sr.errors import UserError

Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of a bundle, see 'models', or its path.")
]
Steps = Annotated[int | None, typer.Option(help="Decoding steps. (default: the model's)")]
Seed = Annotated[int, typer.Option(help="Same seed, same output.")]
Temperature = Annotated[
    float | None, typer.Option(help="Randomness of the tokens, 0 for none. (default: the method's)")
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


def method_options(texts: Sequence[str] | None, **shortcuts: Any) -> dict[str, Any]:
    """Returns the method's options of ``--option``, and those that have a flag of their own.

    Args:
        texts: NAME=VALUE each.
        **shortcuts: values of those flags by the option's name; None where a flag was not given.

    Raises:
        UserError: as `parse_options`; an option given both ways; or ``confidence``, which the
            commands set by themselves.
    """
    options = parse_options(texts or ())
    if "confidence" in options:
        raise UserError("--option: expected an option of the decoding, found confidence")
    for name, value in shortcuts.items():
        if value is None:
            continue
        if name in options:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"--option: expected {name} once, found {flag} too")
        options[name] = value
    return options


def check_numbers(
    steps: int | None, seed: int, temperature: float | None, batch: int | None
) -> None:
    """Raises UserError for a number that no method accepts."""
    if steps is not None and steps < 1:
        raise UserError(f"--steps: expected at least 1, found {steps}")
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed: expected 0 to 4294967295, found {seed}")
    if temperature is not None and not 0 <= temperature < math.inf:
        raise UserError(f"--temperature: expected a number from 0 up, found {temperature:g}")
    if batch is not None and batch < 1:
        raise UserError(f"--batch: expected at least 1, found {batch}")
