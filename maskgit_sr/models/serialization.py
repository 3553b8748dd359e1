"""Flax's msgpack files, which hold nested dicts of arrays; nothing in them is executed."""

from __future__ import annotations

from typing import Any

from flax import serialization


def restore_msgpack(data: bytes) -> Any:
    """Returns the tree in a file of `flax.serialization.to_bytes`, arrays as NumPy's.

    Raises:
        ValueError: the bytes are no such file, or it is cut short.
    """
    try:
        return serialization.msgpack_restore(data)
    # Any: decoders of damaged bytes raise what they stumble over, such as TypeError or SyntaxError.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(reason) from error
