"""Messages between the server and its codec processes: a tree in JSON, then arrays and bytes.

Nothing is unpickled: a hostile file may have taken over the process that sends a message, and must
not run code in the one that reads it.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

HEAD = struct.Struct("<I")
"""Length of the JSON, with which a message begins."""
_ROOM = "maskgit_sr.images."  # whose dataclasses and named tuples may be in a message


def pack(value: Any) -> list[memoryview]:
    """Returns the pieces of the message of a value, which share the memory of its arrays.

    Args:
        value: None, numbers, strings, bytes, arrays, and tuples, lists, dictionaries, dataclasses
            and named tuples of those.
    """
    parts: list[memoryview] = []
    tree = _tree(value, parts)
    text = json.dumps([tree, [len(part) for part in parts]]).encode()
    return [memoryview(HEAD.pack(len(text)) + text), *parts]


def layout(text: bytes) -> tuple[Any, list[int]]:
    """Returns the tree of a message and the lengths of the parts behind it.

    Raises:
        ValueError: not the JSON of a message.
    """
    tree, lengths = json.loads(text)
    return tree, [int(length) for length in lengths]


def build(tree: Any, parts: Sequence[np.ndarray]) -> Any:
    """Returns the value of a message; its arrays share the memory of `parts`, uint8 [length] each.

    Raises:
        ValueError: a class of another room, or an array of another length than its shape has.
    """
    if isinstance(tree, list):
        return [build(one, parts) for one in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "dict":
        return {name: build(one, parts) for name, one in content.items()}
    if kind == "tuple":
        return tuple(build(one, parts) for one in content)
    if kind == "bytes":
        return parts[content].tobytes()
    if kind == "array":
        index, dtype, shape = content
        return parts[index].view(np.dtype(dtype)).reshape(shape)
    module, _, name = kind.rpartition(".")
    found: Any = getattr(sys.modules.get(module), name, None)
    if not module.startswith(_ROOM) or not _record(found):
        raise ValueError(f"{kind}: not a class of {_ROOM}")
    return found(**{name: build(one, parts) for name, one in content.items()})


def send(to: socket.socket, value: Any) -> None:
    """Sends a message through a blocking socket."""
    for piece in pack(value):
        to.sendall(piece)


def receive(source: socket.socket) -> Any:
    """Returns the next value that a blocking socket receives.

    Raises:
        EOFError: the other side has closed it.
    """

    def exactly(length: int) -> np.ndarray:
        part = np.empty(length, np.uint8)
        done = 0
        while done < length:
            count = source.recv_into(part.data[done:])
            if not count:
                raise EOFError
            done += count
        return part

    (length,) = HEAD.unpack(exactly(HEAD.size).data)
    tree, lengths = layout(exactly(length).tobytes())
    return build(tree, [exactly(length) for length in lengths])


def _record(kind: Any) -> bool:
    named = isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    return named or (isinstance(kind, type) and dataclasses.is_dataclass(kind))


def _tree(value: Any, parts: list[memoryview]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_tree(one, parts) for one in value]
    if isinstance(value, dict):
        return {"dict": {str(name): _tree(one, parts) for name, one in value.items()}}
    if isinstance(value, bytes):
        parts.append(memoryview(value))
        return {"bytes": len(parts) - 1}
    if isinstance(value, np.ndarray):
        flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        parts.append(flat.data)
        return {"array": [len(parts) - 1, value.dtype.str, value.shape]}
    kind = type(value)
    if _record(kind):
        names = getattr(kind, "_fields", None) or [f.name for f in dataclasses.fields(value)]
        fields = {name: _tree(getattr(value, name), parts) for name in names}
        return {f"{kind.__module__}.{kind.__qualname__}": fields}
    if isinstance(value, tuple):
        return {"tuple": [_tree(one, parts) for one in value]}
    raise TypeError(f"{kind.__name__} cannot be sent")
