"""Parsing of a method's options from the text of a command line or a query string."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from maskgit_sr.errors import UserError

if TYPE_CHECKING:
    from maskgit_sr.inference.upscaler import Upscaler
    from maskgit_sr.methods.base import RestoreOptions

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}  # bool("false") is True
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def table(options: RestoreOptions) -> dict[str, Any]:
    """Returns the options by name, without ``confidence``, a choice of what is returned."""
    found = dataclasses.asdict(options)
    del found["confidence"]
    return found


def split(words: Sequence[str] | None, **shortcuts: Any) -> dict[str, Any]:
    """Returns the options of a command line by name, for `parse`.

    Args:
        words: values of --option, ``NAME=VALUE`` each.
        **shortcuts: values of options that have a flag of their own; None if not given.

    Raises:
        UserError: a word without a name or an equals sign, or an option given twice.
    """
    found = {name: value for name, value in shortcuts.items() if value is not None}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--option: expected NAME=VALUE, found {word!r}")
        if name in found:
            raise UserError(f"--option: expected {name} once, found it twice")
        found[name] = value
    return found


def parse(given: Mapping[str, Any], upscaler: Upscaler) -> dict[str, Any]:
    """Returns the values of ``given``, text by name, converted to the options' types.

    `Upscaler.options` checks the ranges.

    Raises:
        UserError: a name that the method lacks, naming those it has, or text of another type.
    """
    defaults = upscaler.options()
    known, hints = table(defaults), get_type_hints(type(defaults))
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise UserError(
                f"{name}: {upscaler.method.name} has no such option; "
                f"expected one of {', '.join(known)}"
            )
        kind = (get_args(hints[name]) or [hints[name]])[0]  # `float | None` → float
        text = str(value)
        try:
            found[name] = _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise UserError(f"{name}: expected {_EXPECTED[kind]}, found {text[:80]!r}") from None
    return found


def check_consistent(value: float | None, scale: float | None = None) -> None:
    """Raises UserError for a --consistent or a --scale beside it that no image can have.

    What the bits of an image allow is for `consistency.check`, which knows them.
    """
    if value is None:
        return
    if not 0 < value <= 255:  # false for NaN too
        raise UserError(f"--consistent: expected more than 0 and at most 255, found {value:g}")
    if scale is not None and scale < 1:
        raise UserError(f"--consistent: expected a --scale of at least 1, found {scale:g}")
