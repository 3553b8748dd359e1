"""Bundles: one ``.safetensors`` file of a model's arrays and JSON metadata; nothing is executed.

Arrays are named ``group/path/to/parameter``. Metadata key ``maskgit_sr`` holds one JSON object:
format version, method, configuration, scale, licence, training facts, measured scores and the
SHA-256 of the arrays; key ``maskgit_sr.sha256`` that of the JSON text, which older files lack.
Bundles of format 1, which knew RealSRT only, are still read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import ml_dtypes
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from maskgit_sr import paths
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError
from maskgit_sr.models.fields import Range, fit, kinds, short
from maskgit_sr.models.functional import flatten, unflatten

FORMAT_VERSION = 2
_KEY, _SEAL = "maskgit_sr", "maskgit_sr.sha256"
_LONGEST, _DEEPEST = 4 * 2**20, 32
"""Longest header in bytes, which is that of 30,000 arrays, and deepest nesting of its JSON."""
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
    scale: Annotated[int, Range(1)]
    licence: str = "unstated"
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    version: int = FORMAT_VERSION
    digest: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a field of another type or out of range."""
        for name, kind in kinds(type(self)).items():
            fit(name, getattr(self, name), kind)


class Entry(NamedTuple):
    """An array as the header describes it: dtype, shape, and where its bytes are in the body."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Head(NamedTuple):
    """What a bundle's header says; its arrays were not read.

    Attributes:
        metadata: checked.
        entries: arrays by name.
        raw: the header's bytes, its length before them.
        sealed: False if the metadata's text has not the digest that the file states.
    """

    metadata: Metadata
    entries: dict[str, Entry]
    raw: bytes
    sealed: bool


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
        UserError: the folder cannot be written, or a number of the metadata is not finite.
    """
    arrays = {}
    for name, leaf in flatten(params).items():
        keep = name.split("/")[0] in exact
        arrays[name] = np.ascontiguousarray(np.asarray(leaf, np.float32 if keep else dtype))
    # The digest is of the arrays as rounded to the file's dtype: `read` checks bytes, not values.
    stored = {name: (_NAMES[a.dtype], a.shape, a.tobytes()) for name, a in arrays.items()}
    metadata = dataclasses.replace(metadata, version=FORMAT_VERSION, digest=_digest(stored))
    try:
        text = json.dumps(dataclasses.asdict(metadata), sort_keys=True, allow_nan=False)
    except ValueError as error:  # which no reader would take
        raise UserError(f"{path}: metadata: expected finite numbers ({error})") from error
    blob = save(arrays, {_KEY: text, _SEAL: _sha256(text)})
    # Written anew, because safetensors has no order of the two keys.
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.dumps(json.loads(blob[8 : 8 + size]), sort_keys=True, separators=(",", ":"))
    # Arrays begin at a multiple of eight bytes.
    raw = header.encode().ljust(-(-len(header) // 8) * 8)
    paths.write(path, struct.pack("<Q", len(raw)) + raw + blob[8 + size :])


def read_metadata(path: paths.PathLike) -> Metadata:
    """Returns the metadata; raises as `read_head` does."""
    return read_head(path).metadata


def read_head(path: paths.PathLike) -> Head:
    """Returns what the header says, and reads no more.

    Raises:
        UserError: missing file, not a bundle, another format version, or a field of the metadata
            that is missing, unknown, of another type or out of range.
    """
    try:
        with paths.local(path) as local:
            raw = _raw_header(local)
            # Checks that shapes, dtypes and offsets fit each other and the size of the file.
            with safe_open(local, "numpy"):
                pass
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such bundle") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable bundle, it may be cut short: {error}") from error
    try:
        header = _loads(raw[8:].decode())
        texts = header.pop("__metadata__", {})
        if _KEY not in texts:
            raise UserError(f"{path}: expected a maskgit_sr bundle, found another safetensors file")
        values = _loads(texts[_KEY])
        if "version" not in values:
            raise ValueError("no field version")
        version = values["version"]
        # A newer format may have other fields, which would be called damaged below.
        if type(version) is not int or version not in (1, FORMAT_VERSION):
            raise UserError(
                f"{path}: expected bundle format 1 or {FORMAT_VERSION}, found {version}"
            )
        metadata = _metadata(_from_format_1(values) if version == 1 else values)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: the bundle's metadata is damaged: {error}") from error
    entries = {
        name: Entry(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
        for name, entry in header.items()
    }
    # Format 1 had no digests.
    sealed = version == 1 or texts.get(_SEAL) in (None, _sha256(texts[_KEY]))
    return Head(metadata, entries, raw, sealed)


def read(path: paths.PathLike, shapes: Params | None = None) -> tuple[Params, Metadata]:
    """Returns the arrays as float32 params, and the metadata.

    Args:
        path: on this machine or in a bucket.
        shapes: of the method (`Method.shapes`); every name and shape must agree with them.

    Raises:
        UserError: as :func:`read_head`, or entries missing, unknown, mis-shaped or of another
            dtype than float32 and bfloat16, naming the first few; or arrays or metadata that do
            not have the digest that the file states.
    """
    metadata, entries, raw, sealed = read_head(path)
    for name, entry in entries.items():
        if entry.dtype not in _DTYPES:
            raise UserError(f"{path}: {name}: expected F32 or BF16, found {entry.dtype}")
    # Before the arrays are read: a file may have any size.
    if shapes is not None:
        check(entries, shapes, str(path))
    try:
        blob = epath.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the bundle: {error}") from error
    if not blob.startswith(raw):
        raise UserError(f"{path}: was changed while it was read")
    # A view: slices of bytes are copies.
    body = memoryview(blob)[len(raw) :]
    data = {name: body[entry.begin : entry.end] for name, entry in entries.items()}
    # The bytes as they are stored; safetensors' NumPy reader returns arrays only.
    stored = {name: (entry.dtype, entry.shape, data[name]) for name, entry in entries.items()}
    if metadata.digest and metadata.digest != _digest(stored):
        raise UserError(f"{path}: damaged: the digest of its arrays is not the one it states")
    if not sealed:
        raise UserError(f"{path}: damaged: the digest of its metadata is not the one it states")
    try:
        arrays = {
            name: np.frombuffer(data[name], _DTYPES[dtype]).reshape(shape).astype(np.float32)
            for name, (dtype, shape, _) in stored.items()
        }
        tree = unflatten(arrays)
        whole = flatten(tree).keys() == arrays.keys()
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path}: its arrays cannot be read: {error}") from error
    if not whole:
        raise UserError(f"{path}: names of its arrays contain each other")
    return tree, metadata


def _raw_header(path: Path) -> bytes:
    """Returns the bytes of the header and, before them, of its length.

    Raises:
        OSError, ValueError: there is none.
    """
    if path.exists() and not path.is_file():  # reading a pipe or a device may never end
        raise ValueError("expected a file, found a folder or a special file")
    with path.open("rb") as file:
        length = file.read(8)
        size = int.from_bytes(length, "little")
        if len(length) < 8 or size > _LONGEST:
            raise ValueError(f"expected a header of at most {_LONGEST:,} bytes, found {size:,}")
        return length + file.read(size)


def _loads(text: str) -> dict[str, Any]:
    """Returns a JSON object.

    Raises:
        ValueError: no object, a field that stands there twice, a number that is not finite, or
            nesting of more than `_DEEPEST`.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"a field twice: {short(max(names, key=names.count))}")
        return found

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"expected finite numbers, found {short(text)}")
        return value

    try:
        found = json.loads(text, object_pairs_hook=once, parse_float=number, parse_constant=number)
    except RecursionError:
        raise ValueError(f"nested more than {_DEEPEST} deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {short(found)}")
    level: list[Any] = [found]
    for _ in range(_DEEPEST):
        parts = [part.values() if isinstance(part, dict) else part for part in level]
        level = [value for part in parts for value in part if isinstance(value, dict | list)]
    if level:
        raise ValueError(f"nested more than {_DEEPEST} deep")
    return found


def _metadata(values: dict[str, Any]) -> Metadata:
    """Returns the metadata; raises ValueError for fields unknown, missing or out of range."""
    known = {field.name: field for field in dataclasses.fields(Metadata)}
    for name in values:
        if name not in known:
            raise ValueError(f"unknown field {short(name)}, expected one of {', '.join(known)}")
    for name in ("method", "config", "scale"):
        if name not in values:
            raise ValueError(f"no field {name}")
    return Metadata(**values)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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

    Raises:
        ValueError: a field of another type.
    """

    def clean(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        # Rematerialisation is a setting of execution since (`arrays.Execution`).
        return {name: clean(value) for name, value in tree.items() if name != "remat"}

    config = clean(values.get("config"))
    if not isinstance(config, dict):
        raise ValueError(f"config: expected dict, found {short(config)}")
    for training in ("losses", "discriminator"):
        config.pop(training, None)
    tile = config.get("tile")
    if tile is not None:
        try:
            size, stride, variance = (tile[name] for name in ("size", "stride", "variance"))
            config["tile"] = {"sides": [size], "overlap": size - stride, "variance": variance}
        except (KeyError, TypeError):
            raise ValueError(
                f"config.tile: expected size, stride and variance, found {short(tile)}"
            ) from None
    control = config.get("control", {})
    if not isinstance(control, dict):
        raise ValueError(f"config.control: expected dict, found {short(control)}")
    # A switch of another controlling module: if it is on, the bundle is refused for its field.
    if not control.get("multiscale"):
        config.pop("control", None)
    return {**values, "config": config}


def check(arrays: Mapping[str, Any], shapes: Params, where: str) -> None:
    """Checks names and shapes of flat arrays, or what else has a shape, against the expected ones.

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
