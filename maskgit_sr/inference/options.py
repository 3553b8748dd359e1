"""A method's own options from text, as a command line or a query string gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from maskgit_sr.errors import UserError
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods.base import RestoreOptions

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def table(options: RestoreOptions) -> dict[str, Any]:
    """Returns the options by name, without ``confidence``: what is returned is no choice of how."""
    return {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name != "confidence"
    }


def parse(given: Mapping[str, Any], upscaler: Upscaler) -> dict[str, Any]:
    """Returns the values of ``given``, text by name, with the types that the options have.

    `Upscaler.options` checks the ranges.

    Raises:
        UserError: a name that the method lacks, naming those it has, or text of another type.
    """
    defaults = upscaler.options()
    known, hints = table(defaults), get_type_hints(type(defaults))
    found: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise UserError(
                f"{name}: {upscaler.method.name} has no such option; "
                f"expected one of {', '.join(known)}"
            )
        kind = (get_args(hints[name]) or [hints[name]])[0]  # of `float | None` the float
        try:
            found[name] = _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (AttributeError, KeyError, TypeError, ValueError):  # not even text where repeated
            raise UserError(
                f"{name}: expected {_EXPECTED[kind]}, found {str(text)[:80]!r}"
            ) from None
    return found


def split(words: Sequence[str]) -> dict[str, str]:
    """Returns ``NAME=VALUE`` words as a dict.

    Raises:
        UserError: a word without a name or an equals sign.
    """
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise UserError(f"--option: expected NAME=VALUE, found {word!r}")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def chosen(upscaler: Upscaler, words: Sequence[str], **shortcuts: Any) -> dict[str, Any]:
    """Returns the options of a command line for `Upscaler.options`.

    Args:
        words: ``NAME=VALUE``, as --option takes them; they win over the shortcuts.
        **shortcuts: options that the command has under their own names; None where not given.

    Raises:
        UserError: as `split` and `parse` do.
    """
    given = {name: value for name, value in shortcuts.items() if value is not None}
    return given | parse(split(words), upscaler)
