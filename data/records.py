"""ArrayRecord shards of encoded images, with a manifest.

A folder of shards holds `shard-00000.array_record`, …, `manifest.json` and `examples.jsonl`. A
record is an encoded image (PNG, JPEG or WebP), or a pair of them, behind its id:

    bytes 0–3 length of the id, 4–7 length of the (HR) image, little endian; then the id in UTF-8,
    the image, and the LR image where there is one

A taught record (`data.teach`, version 2 of the manifest) also has a teacher's output of the LR
image, and need not have an HR image:

    bytes 0–15 lengths of the id, the HR, the LR and the teacher's image; then these four

`manifest.json` says how many examples and bytes each shard has, from which settings they were made
and under which licences they stand; `examples.jsonl` has one line an example.
"""

from __future__ import annotations

import importlib
import itertools
import json
import shutil
import struct
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from etils import epath

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.images.decode import rgb8

MANIFEST, EXAMPLES = "manifest.json", "examples.jsonl"
PREPARED, TAUGHT = 1, 2
"""Versions of the manifest, by what its records hold."""

# Training reads single records at random, and encoded images do not compress further.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def pack(name: str, hr: bytes, lr: bytes = b"") -> bytes:
    """Returns one record of an id, an encoded image and, of a pair, the encoded LR image."""
    encoded = name.encode("utf-8", "surrogateescape")  # as file names may need
    return struct.pack("<II", len(encoded), len(hr)) + encoded + hr + lr


def unpack(record: bytes) -> tuple[str, bytes, bytes]:
    """Returns (id, encoded image, encoded LR image or b"") of one record.

    Raises:
      UserError: not such a record.
    """
    if len(record) >= 8:
        name, hr = struct.unpack_from("<II", record)
        if hr and len(record) >= 8 + name + hr:
            start = 8 + name
            text = record[8:start].decode("utf-8", "surrogateescape")
            return text, record[start : start + hr], record[start + hr :]
    raise UserError("record is cut short")


def pack_taught(name: str, hr: bytes, lr: bytes, teacher: bytes) -> bytes:
    """Returns one taught record; ``hr`` may be empty."""
    parts = (name.encode("utf-8", "surrogateescape"), hr, lr, teacher)
    return struct.pack("<IIII", *map(len, parts)) + b"".join(parts)


def unpack_taught(record: bytes) -> tuple[str, bytes, bytes, bytes]:
    """Returns (id, HR image or b"", LR image, teacher's image), encoded, of one taught record.

    Raises:
      UserError: not such a record.
    """
    lengths = struct.unpack_from("<IIII", record) if len(record) >= 16 else (0, 0, 0, 0)
    if not (lengths[2] and lengths[3]) or len(record) != 16 + sum(lengths):
        raise UserError("record is cut short")
    ends = np.cumsum((16, *lengths))
    name, hr, lr, teacher = (record[a:b] for a, b in itertools.pairwise(ends))
    return name.decode("utf-8", "surrogateescape"), hr, lr, teacher


def write_shard(path: Path, packed: Iterable[bytes]) -> int:
    """Writes records to one shard, which appears whole or not at all; returns its size in bytes."""
    array_record_module = _array_record("array_record_module")

    with paths.whole(path) as part:
        writer = array_record_module.ArrayRecordWriter(str(part), _WRITER_OPTIONS)
        try:
            for record in packed:
                writer.write(record)
        finally:
            writer.close()
    return path.stat().st_size


def _array_record(module: str) -> Any:
    try:
        return importlib.import_module(f"array_record.python.{module}")
    except ModuleNotFoundError:
        raise UserError(
            "shards need array_record: pip install 'maskgit-sr[train]'; it has no wheel for "
            "Windows, where a folder or a list of photographs does instead"
        ) from None


def is_shards(folder: epath.PathLike) -> bool:
    """Returns whether a folder holds shards, finished or not."""
    folder = epath.Path(folder)
    return (folder / MANIFEST).exists() or any(folder.glob("*.array_record"))


def read_manifest(folder: epath.PathLike) -> dict[str, Any]:
    """Returns the manifest of a folder of shards.

    Raises:
      UserError: missing, of another version or not a manifest.
    """
    path = epath.Path(folder) / MANIFEST
    if not path.exists():
        raise UserError(f"{path}: missing; the folder's shards are not finished")
    try:
        manifest = json.loads(path.read_text())
        version, shards = manifest["version"], manifest["shards"]
        complete = all({"file", "examples", "bytes"} <= shard.keys() for shard in shards)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest of shards ({error})") from error
    if version not in (PREPARED, TAUGHT) or not complete or not shards:
        raise UserError(
            f"{path}: expected a manifest of version {PREPARED} or {TAUGHT} that lists shards"
        )
    return manifest


class RecordFolder:
    """Source of the shards that `data.prepare` or `data.teach` wrote; `id` is that of the record.

    Taught examples are dict(lr, teacher uint8, strength float, id str), and hr where it was kept.

    Shards at gs:// and the like are copied to a temporary folder first, because the ArrayRecord
    reader opens local files only.

    Raises:
      UserError: no manifest, or a shard that is missing or not as long as the manifest says.
    """

    def __init__(self, folder: epath.PathLike):
        self.folder = epath.Path(folder)
        manifest = read_manifest(self.folder)
        self._strength = self._stated(manifest) if manifest["version"] == TAUGHT else None
        paths = []
        # Sizes are compared here, so that a shard cut short does not end a run in its middle.
        for shard in manifest["shards"]:
            path = self.folder / shard["file"]
            found = path.stat().length if path.exists() else None
            if found != shard["bytes"]:
                what = "is missing" if found is None else f"has {found:,} bytes"
                raise UserError(f"shard {path}: {what}, the manifest says {shard['bytes']:,}")
            paths.append(path)
        if "://" in str(self.folder):
            copies = tempfile.mkdtemp(prefix="shards-")
            weakref.finalize(self, shutil.rmtree, copies, True)
            paths = [path.copy(epath.Path(copies) / path.name) for path in paths]
        array_record_data_source = _array_record("array_record_data_source")
        try:
            self._data = array_record_data_source.ArrayRecordDataSource(list(map(str, paths)))
        except RuntimeError as error:
            raise UserError(f"shards {str(self.folder)!r}: {error}") from error
        stated = sum(shard["examples"] for shard in manifest["shards"])
        if len(self) != stated:
            raise UserError(
                f"shards {str(self.folder)!r}: hold {len(self)} examples, "
                f"the manifest says {stated}"
            )

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"RecordFolder({str(self.folder)!r}, {len(self)} images)"

    def licences(self) -> dict[str, str]:
        """Returns the licence of each example, by its id, as `examples.jsonl` states them.

        Raises:
          UserError: not such a file.
        """
        path = self.folder / EXAMPLES
        lines = path.read_text().splitlines() if path.exists() else []
        try:
            return {row["id"]: row["licence"] for row in map(json.loads, lines)}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a list of examples ({error!r})") from error

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # an IndexError beyond the end, as a sequence has
        teacher = b""
        try:
            if self._strength is None:
                name, hr, lr = unpack(self._data[index])
            else:
                name, hr, lr, teacher = unpack_taught(self._data[index])
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self.folder}/record {index}: {error}") from error
        # Not the folder alone before the colon: `data.readers` tells its notes apart by that.
        where = f"{self.folder}/{name}"
        if self._strength is not None:
            images = {"hr": hr, "lr": lr, "teacher": teacher}
            found = {kind: rgb8(image, where) for kind, image in images.items() if image}
            return {**found, "strength": np.float32(self._strength), "id": name}
        if not lr:
            return {"image": rgb8(hr, where), "id": name}
        return {"hr": rgb8(hr, where), "lr": rgb8(lr, where), "id": name}

    def _stated(self, manifest: dict[str, Any]) -> float:
        settings = manifest.get("settings")
        strength = settings.get("strength") if isinstance(settings, dict) else None
        if not isinstance(strength, int | float) or not 0 <= strength <= 1:
            raise UserError(f"{self.folder / MANIFEST}: strength must be in 0..1, got {strength!r}")
        return float(strength)


def encode(image: np.ndarray, jpeg: int = 0) -> bytes:
    """Returns PNG bytes of uint8 [H, W, 3] RGB, or JPEG of quality 1..100 with full chroma.

    Raises:
      UserError: OpenCV cannot encode it.
    """
    if jpeg:
        full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, jpeg, *full]
    else:
        suffix, options = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 4]
    ok, code = cv2.imencode(suffix, image[..., ::-1], options)
    if not ok:
        raise UserError(f"cannot encode an image of shape {image.shape}")
    return code.tobytes()
