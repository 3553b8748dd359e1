"""ArrayRecord shards of encoded images, with a manifest.

A folder of shards holds `shard-00000.array_record`, …, `manifest.json` and `examples.jsonl`. A
record is an encoded image (PNG, JPEG or WebP) behind its id:

    bytes 0–3  length n of the id, little endian;  n bytes  the id in UTF-8;  the rest  the image

`manifest.json` says how many examples and bytes each shard has, from which settings they were made
and under which licences they stand; `examples.jsonl` has one line an example (`data.prepare`).
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from data import images
from data.images import UnreadableImage

MANIFEST, EXAMPLES, VERSION = "manifest.json", "examples.jsonl", 1

# Every record is reached alone, and encoded images do not compress further.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def pack(name: str, data: bytes) -> bytes:
    """One record of an id and an encoded image."""
    encoded = name.encode()
    return struct.pack("<I", len(encoded)) + encoded + data


def unpack(record: bytes) -> tuple[str, bytes]:
    """(id, encoded image) of one record.

    Raises:
      ValueError: not such a record.
    """
    if len(record) < 4:
        raise ValueError("record is cut short")
    (length,) = struct.unpack_from("<I", record)
    if len(record) <= 4 + length:
        raise ValueError("record is cut short")
    return record[4 : 4 + length].decode(), record[4 + length :]


def write_shard(path: Path, examples: Iterable[tuple[str, bytes]]) -> int:
    """Writes (id, encoded image) pairs to one shard; returns its size in bytes.

    The file gets its name when it is whole.
    """
    from array_record.python import array_record_module

    partial = path.with_name(path.name + ".partial")
    writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
    try:
        for name, data in examples:
            writer.write(pack(name, data))
    finally:
        writer.close()
    partial.replace(path)
    return path.stat().st_size


def is_shards(folder: epath.PathLike) -> bool:
    """Whether a folder looks like one of shards, whole or not."""
    folder = epath.Path(folder)
    return (folder / MANIFEST).exists() or any(folder.glob("*.array_record"))


def read_manifest(folder: epath.PathLike) -> dict[str, Any]:
    """The manifest of a folder of shards.

    Raises:
      ValueError: missing, of another version or not a manifest.
    """
    path = epath.Path(folder) / MANIFEST
    if not path.exists():
        raise ValueError(f"{path}: missing; the folder's shards were not finished by data.prepare")
    try:
        manifest = json.loads(path.read_text())
        version, shards = manifest["version"], manifest["shards"]
        complete = all({"file", "examples", "bytes"} <= shard.keys() for shard in shards)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a manifest of shards ({error})") from error
    if version != VERSION or not complete or not shards:
        raise ValueError(f"{path}: expected a manifest of version {VERSION} that lists shards")
    return manifest


class RecordFolder:
    """A folder of shards by `data.prepare`; `id` is what the record says.

    Shards at gs:// and the like are copied to a temporary folder first, because the ArrayRecord
    reader opens local files only.

    Raises:
      ValueError: no manifest, or a shard that is missing or not as long as the manifest says.
    """

    def __init__(self, folder: epath.PathLike):
        self.folder = epath.Path(folder)
        manifest = read_manifest(self.folder)
        self._length = sum(shard["examples"] for shard in manifest["shards"])
        paths = []
        for shard in manifest["shards"]:
            path = self.folder / shard["file"]
            found = path.stat().length if path.exists() else None
            if found != shard["bytes"]:
                what = "is missing" if found is None else f"has {found:,} bytes"
                raise ValueError(f"shard {path}: {what}, the manifest says {shard['bytes']:,}")
            paths.append(path)
        local = [path for path in paths if not _is_remote(path)]
        if len(local) < len(paths):
            self._copies = tempfile.TemporaryDirectory(prefix="shards-")
            for i, path in enumerate(paths):
                paths[i] = path.copy(epath.Path(self._copies.name) / path.name)
        self._paths = [str(path) for path in paths]
        self._reader: Any = None
        readable = len(self._open())
        if readable != self._length:
            raise ValueError(
                f"shards {str(self.folder)!r}: hold {readable} examples, the manifest says "
                f"{self._length}"
            )

    def _open(self) -> Any:
        if self._reader is None:
            from array_record.python import array_record_data_source

            try:
                self._reader = array_record_data_source.ArrayRecordDataSource(self._paths)
            except RuntimeError as error:
                raise ValueError(f"shards {str(self.folder)!r}: {error}") from error
        return self._reader

    def __getstate__(self) -> dict[str, Any]:  # an open file does not travel to a worker
        hidden = ("_reader", "_copies")
        return {**{k: v for k, v in vars(self).items() if k not in hidden}, "_reader": None}

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"RecordFolder({str(self.folder)!r}, {len(self)} images)"

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, data = self.encoded(index)
        return {"image": images.decode(data, f"{self.folder}: {name}"), "id": name}

    def encoded(self, index: int) -> tuple[str, bytes]:
        """(id, encoded image) of one example.

        Raises:
          UnreadableImage: the record is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} examples")
        index = int(index) % len(self)
        try:
            (record,) = self._open().__getitems__([index])
            return unpack(record)
        except (RuntimeError, ValueError) as error:
            raise UnreadableImage(f"{self.folder}: record {index}: {error}") from error


def _is_remote(path: epath.Path) -> bool:
    return "://" in str(path)


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of uint8 [H, W, 3] RGB."""
    import cv2

    ok, code = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not ok:
        raise ValueError("cannot encode the crop as PNG")
    return code.tobytes()
