"""Types and ranges of the fields of configurations: declared by annotation, checked in one place.

A configuration comes from a bundle, which anyone may have made, or from a run's config. Every
field's type and range is that of its annotation, so that nothing is built of a size that was never
meant. The ranges are wide: they keep a mistake from taking all time or memory, and are no advice.
"""

from __future__ import annotations

import dataclasses
import reprlib
import typing
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Range:
    """Inclusive range of a number; None: no upper end."""

    low: float
    high: float | None = None

    def check(self, name: str, value: float) -> None:
        """Raises ValueError for a value out of range."""
        # Written so that NaN, which fails every comparison, is refused too.
        if not (self.low <= value and (self.high is None or value <= self.high)):
            expected = f"at least {self.low:g}"
            if self.high is not None:
                expected = f"{self.low:g} to {self.high:g}"
            raise ValueError(f"{name}: expected {expected}, found {short(value)}")


Width = Annotated[int, Range(1, 16384)]
"""Channels, codes and other widths of arrays."""
Count = Annotated[int, Range(0, 1024)]
"""Layers, groups and the like."""
Scale = Annotated[int, Range(1, 16)]
"""Output side over input side."""
Side = Annotated[int, Range(1, 1024)]
"""Side of a window or token grid."""
MAX_STEPS = 1024
Steps = Annotated[int, Range(1, MAX_STEPS)]
"""Decoding steps."""
Factor = Annotated[float, Range(0, 1e6)]
"""A factor, variance or initial scale that is not negative."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def short(value: Any) -> str:
    """Returns the `repr` of a value from a file, long and deep ones cut in the middle."""
    return _REPR.repr(value)


def from_mapping(cls: Any, values: Any, where: str) -> Any:
    """Builds a configuration dataclass, nested ones included, from JSON or an ml_collections dict.

    Lists become tuples, whole numbers floats where the field is one. What is left out is the
    field's default.

    Raises:
        ValueError: no mapping, an unknown field, or a value of another type or out of range, by
            the path of the field.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected a mapping, found {short(values)}")
    hints = kinds(cls)
    for name in values:
        if name not in hints:
            known = ", ".join(hints)
            raise ValueError(f"{where}: unknown field {short(name)}, expected one of {known}")
    return cls(**{name: fit(f"{where}.{name}", v, hints[name]) for name, v in values.items()})


def kinds(cls: Any) -> dict[str, Any]:
    """Returns the resolved annotations of a dataclass's fields, in order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def fit(name: str, value: Any, kind: Any) -> Any:
    """Returns ``value`` as an annotated type: a list as a tuple, a whole number as a float.

    Raises:
        ValueError: it is of another type or out of range.
    """
    if dataclasses.is_dataclass(kind):
        return from_mapping(kind, value, name)
    if kind is Any:
        return value
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        value = fit(name, value, parts[0])
        for bound in parts[1:]:
            bound.check(name, value)
        return value
    if isinstance(value, np.generic):
        value = value.item()
    # JSON has no tuples, and the dataclasses must be hashable.
    if tuple in (kind, origin) and isinstance(value, list):
        value = tuple(value)
    elif kind is float and type(value) is int and abs(value) <= 2**53:
        value = float(value)
    # Not isinstance: a bool is an int, but no number of steps.
    if type(value) is not (origin or kind):
        raise ValueError(f"{name}: expected {(origin or kind).__name__}, found {short(value)}")
    if origin is tuple:
        expected = parts[:1] * len(value) if parts[-1] is ... else parts
        if len(expected) != len(value):
            raise ValueError(f"{name}: expected {len(expected)} values, found {short(value)}")
        pairs = zip(value, expected, strict=True)
        return tuple(fit(f"{name}[{i}]", part, kind) for i, (part, kind) in enumerate(pairs))
    if origin is dict:
        return {key: fit(f"{name}.{short(key)}", part, parts[1]) for key, part in value.items()}
    return value


def least_arrays(config: Any) -> int:
    """Returns the least number of arrays of the networks that a configuration describes.

    The sum of the properties ``arrays`` of the dataclasses within; known before anything is built,
    which takes a second for twenty layers.
    """
    total = 0
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if dataclasses.is_dataclass(part):
            total += getattr(part, "arrays", 0)
    return total
