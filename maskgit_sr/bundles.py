"""Bundles: one ``.safetensors`` file of a model's arrays and JSON metadata; nothing is executed.

Arrays are named ``group/path/to/parameter``. Metadata key ``maskgit_sr`` holds one JSON object:
format version, method, configuration, scale, licence, training facts, measured scores and the
SHA-256 of the arrays. Bundles of format 1, which knew RealSRT only, are still read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Collection, Iterable
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from maskgit_sr import paths
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError
from maskgit_sr.models.functional import flatten, unflatten

FORMAT_VERSION = 2
_KEY = "maskgit_sr"
_DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16)}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
Stored = dict[str, tuple[str, tuple[int, ...], Any]]
"""Arrays by name as (dtype in the file, shape, bytes)."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Metadata of a bundle.

    Attributes:
        method: name in :mod:`maskgit_sr.methods.registry`.
        config: networks and decoding of the method as JSON; nothing of its training.
        scale: output side over input side.
        licence: of the weights.
        training: data, steps, time and hardware, free-form.
        scores: measured values by "set/metric".
        version: format version of the file.
        digest: SHA-256 of the arrays as they are stored; "" in format 1, which had none.
    """

    method: str
    config: dict[str, Any]
    scale: int
    licence: str = "unstated"
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    version: int = FORMAT_VERSION
    digest: str = ""

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError for a field of another type or out of range."""
        for field in dataclasses.fields(self):
            kind = {"dict": dict, "int": int, "str": str}[str(field.type).split("[")[0]]
            found = getattr(self, field.name)
            # bool is a subclass of int, and JSON's true is no scale.
            if not isinstance(found, kind) or isinstance(found, bool):
                raise TypeError(f"{field.name}: expected {field.type}, found {found!r}")
        if self.scale < 1:
            raise ValueError(f"scale: expected at least 1, found {self.scale}")


def write(
    path: paths.PathLike,
    params: Params,
    metadata: Metadata,
    dtype: Any = np.float32,
    exact: Collection[str] = (),
) -> None:
    """Writes a bundle; a failure leaves no partial file.

    Args:
        path: on this machine or in a bucket.
        params: groups of nested dicts of arrays.
        dtype: float32, or bfloat16 to halve the file.
        exact: groups that stay float32 whatever ``dtype`` is (`Method.exact`).

    Raises:
        UserError: the folder cannot be written.
    """
    arrays = {}
    for name, leaf in flatten(params).items():
        keep = name.split("/")[0] in exact
        arrays[name] = np.ascontiguousarray(np.asarray(leaf, np.float32 if keep else dtype))
    # The digest is of the arrays as rounded to the file's dtype: `read` checks bytes, not values.
    stored = {name: (_NAMES[a.dtype], a.shape, a.tobytes()) for name, a in arrays.items()}
    metadata = dataclasses.replace(metadata, version=FORMAT_VERSION, digest=_digest(stored))
    blob = save(arrays, {_KEY: json.dumps(dataclasses.asdict(metadata), sort_keys=True)})
    paths.write(path, blob)


def read_metadata(path: paths.PathLike) -> Metadata:
    """Returns the metadata; reads the header only.

    Raises:
        UserError: missing file, not a bundle, or another format version.
    """
    try:
        with paths.local(path) as local, safe_open(local, "numpy") as file:
            text = (file.metadata() or {}).get(_KEY)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such bundle") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable bundle, it may be cut short: {error}") from error
    if text is None:
        raise UserError(f"{path}: expected a maskgit_sr bundle, found another safetensors file")
    try:
        values = json.loads(text)
        version = values["version"]
        if version == 1:
            values = _from_format_1(values)
        # A newer format may have other fields, which `Metadata` would call damaged; its version is
        # named below.
        if version in (1, FORMAT_VERSION):
            return Metadata(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: the bundle's metadata is damaged: {error}") from error
    raise UserError(f"{path}: expected bundle format 1 or {FORMAT_VERSION}, found {version}")


def read(path: paths.PathLike, shapes: Params | None = None) -> tuple[Params, Metadata]:
    """Returns the arrays as float32 params, and the metadata.

    Args:
        path: on this machine or in a bucket.
        shapes: of the method (`Method.shapes`); every name and shape must agree with them.

    Raises:
        UserError: as :func:`read_metadata`, or entries missing, unknown, mis-shaped or of another
            dtype than float32 and bfloat16, naming the first few; or arrays that do not have the
            digest that the metadata state.
    """
    metadata = read_metadata(path)
    try:
        # Taken apart here: the digest needs each array's bytes and dtype as they are stored, and
        # safetensors' NumPy reader returns arrays only.
        blob = epath.Path(path).read_bytes()
        (size,) = struct.unpack("<Q", blob[:8])
        header = json.loads(blob[8 : 8 + size])
    except (OSError, struct.error, ValueError) as error:
        raise UserError(f"{path}: cannot read the bundle: {error}") from error
    header.pop("__metadata__", None)
    # A view: slices of bytes are copies.
    body = memoryview(blob)[8 + size :]
    arrays, stored = {}, {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise UserError(f"{path}: {name}: expected F32 or BF16, found {entry['dtype']}")
        begin, end = entry["data_offsets"]
        array = np.frombuffer(body[begin:end], _DTYPES[entry["dtype"]])
        arrays[name] = array.reshape(entry["shape"]).astype(np.float32)
        stored[name] = (entry["dtype"], tuple(entry["shape"]), body[begin:end])
    # Format 1 had no digest.
    if metadata.digest and metadata.digest != _digest(stored):
        raise UserError(f"{path}: damaged: the digest of its arrays is not the one it states")
    if shapes is not None:
        check(arrays, shapes, str(path))
    return unflatten(arrays), metadata


def _digest(stored: Stored) -> str:
    """Returns the SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    # Sorted, because safetensors orders a file's arrays by dtype first.
    for name in sorted(stored):
        dtype, shape, data = stored[name]
        found.update(f"{name} {dtype} {shape}\n".encode())
        found.update(data)
    return found.hexdigest()


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """Returns metadata of format 1 converted to format 2.

    Its configuration held the training losses and the discriminator too, and tiles had a size and a
    stride.
    """

    def clean(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        # Rematerialisation is a setting of execution since (`arrays.Execution`).
        return {name: clean(value) for name, value in tree.items() if name != "remat"}

    config = clean(values["config"])
    for training in ("losses", "discriminator"):
        config.pop(training, None)
    tile = config.get("tile")
    if tile is not None:
        size = tile["size"]
        config["tile"] = {
            "sides": [size],
            "overlap": size - tile["stride"],
            "variance": tile["variance"],
        }
    # A switch of another controlling module: if it is on, the bundle is refused for its field.
    if not config.get("control", {}).get("multiscale"):
        config.pop("control", None)
    return {**values, "config": config}


def check(arrays: dict[str, np.ndarray], shapes: Params, where: str) -> None:
    """Checks names and shapes of flat arrays against the expected ones.

    Raises:
        UserError: naming missing, unknown or mis-shaped entries.
    """
    expected = flatten(shapes)
    problems = _name("missing", expected.keys() - arrays.keys())
    problems += _name("unknown", arrays.keys() - expected.keys())
    wrong = [
        f"{name} (expected {tuple(expected[name].shape)}, found {arrays[name].shape})"
        for name in expected.keys() & arrays.keys()
        if tuple(expected[name].shape) != arrays[name].shape
    ]
    problems += _name("mis-shaped", wrong)
    if problems:
        raise UserError(f"{where}: does not fit the model: {'; '.join(problems)}")


def _name(what: str, names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    if not ordered:
        return []
    rest = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return [f"{what}: {', '.join(ordered[:3])}{rest}"]
