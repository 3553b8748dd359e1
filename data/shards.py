"""Output folder of `data.prepare` and `data.teach`: shards finished one by one, rows of images."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data import records
from maskgit_sr import paths
from maskgit_sr.errors import UserError

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Crop:
    """An encoded crop of an image; places and sizes in HR pixels."""

    top: int
    left: int
    height: int
    width: int
    hr: bytes
    lr: bytes = b""


@dataclass
class InspectedImage:
    """An input image after its checks, with the crops that are kept of it."""

    name: str
    height: int = 0
    width: int = 0
    contrast: float = 0.0
    sharpness: float = 0.0
    digest: str = ""
    code: tuple[int, ...] = ()
    problem: str = ""  # why it is left out
    duplicate_of: str = ""
    licence: str = ""
    crops: list[Crop] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Returns the columns that are stored of the image: all but its crops."""
        return {name: value for name, value in vars(self).items() if name != "crops"}

    def examples(self) -> list[tuple[dict[str, Any], bytes]]:
        """Returns (line of examples.jsonl, packed record) of each crop."""
        found = []
        for crop in self.crops:
            whole = (crop.height, crop.width) == (self.height, self.width)
            name = self.name if whole else f"{self.name}@{crop.top},{crop.left}"
            place = {k: getattr(crop, k) for k in ("top", "left", "height", "width")}
            row = {"id": name, "source": self.name, **place, "licence": self.licence}
            found.append((row, records.pack(name, crop.hr, crop.lr)))
        return found


class Shards:
    """Output folder: finished shards, each with the rows of the images up to its end.

    Args:
      settings: all that determines the bytes; the folder must have been begun with equal ones.
      inputs: descriptions of the input folders, which must be equal, too.
      version: of the manifest, by what the records hold.

    Raises:
      UserError: the folder was begun differently, or by something else.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        inputs: list[dict[str, Any]],
        version: int = records.PREPARED,
    ):
        self.folder, self._settings, self._inputs = folder, settings, inputs
        self._version = version
        self.manifest: dict[str, Any] | None = None
        wanted = {"settings": settings, "inputs": inputs}
        path = folder / _SETTINGS
        folder.mkdir(parents=True, exist_ok=True)
        begun = json.loads(path.read_text()) if path.exists() else None
        if (folder / records.MANIFEST).exists():
            begun = self.manifest = records.read_manifest(folder)
        if begun is None:
            if any(folder.iterdir()):
                raise UserError(
                    f"{folder}: expected an empty folder, or one that this command began"
                )
            paths.write(path, json.dumps(wanted, indent=1))
        elif any(begun.get(key) != value for key, value in wanted.items()):
            raise UserError(
                f"{folder}: was begun with other settings or input; choose an empty folder"
            )
        self._parts = 0
        self.shards: list[dict[str, Any]] = []
        self.pictures: list[dict[str, Any]] = []
        self.examples: list[dict[str, Any]] = []
        if self.manifest is not None:
            self._clear()  # it may have been killed just before
            return
        for path in sorted(folder.glob("part-*.json")):
            self._keep(json.loads(path.read_text()))

    def _keep(self, part: dict[str, Any]) -> None:
        self._parts += 1
        self.shards += [part["shard"]] if part["shard"] else []
        self.pictures += part["pictures"]
        self.examples += part["examples"]

    def add(self, pictures: Sequence[InspectedImage]) -> None:
        """Writes one shard with all crops of these images, if any, and then their rows."""
        found = [example for picture in pictures for example in picture.examples()]
        packed = [record for _, record in found]
        shard = None
        if packed:
            name = f"shard-{len(self.shards):05}.array_record"
            size = records.write_shard(self.folder / name, packed)
            shard = {"file": name, "examples": len(packed), "bytes": size}
        part: dict[str, Any] = {"shard": shard, "pictures": [p.row() for p in pictures]}
        part["examples"] = [row for row, _ in found]
        # After the shard: without its rows a resumed run writes it again.
        paths.write(self.folder / f"part-{self._parts:05}.json", json.dumps(part))
        self._keep(part)

    def finish(self) -> dict[str, Any]:
        """Writes examples, report and manifest, deletes the resume files, returns the manifest."""
        lines = (json.dumps(example) for example in self.examples)
        paths.write(self.folder / records.EXAMPLES, "\n".join(lines) + "\n")
        paths.write(self.folder / "report.csv", report(self.pictures))
        manifest = {
            "version": self._version,
            "settings": self._settings,
            "inputs": self._inputs,
            "pictures": sum(not row["problem"] for row in self.pictures),
            "examples": len(self.examples),
            "left_out": self.left_out(),
            "near_duplicates": sum(
                bool(row["duplicate_of"]) and row["problem"] != "duplicate" for row in self.pictures
            ),
            "licences": Counter(example["licence"] for example in self.examples),
            "shards": self.shards,
        }
        # The last of the files, since it is the mark of a finished folder; the rows, from which a
        # killed run would write it again, go only then.
        paths.write(self.folder / records.MANIFEST, json.dumps(manifest, indent=1))
        self._clear()
        return manifest

    def left_out(self) -> dict[str, int]:
        """Returns the number of images that were left out, by reason."""
        return Counter(row["problem"].partition(":")[0] for row in self.pictures if row["problem"])

    def discard(self) -> None:
        """Deletes an output folder in which no shard was finished."""
        for path in self.folder.glob("shard-*.array_record"):
            path.unlink()  # killed before its rows
        self._clear()
        self.folder.rmdir()

    def _clear(self) -> None:
        half = self.folder.glob(".*.part*")  # of `paths.whole`, when it was killed
        # Settings last: parts without them would look like a folder of something else.
        for path in (*self.folder.glob("part-*.json"), *half, self.folder / _SETTINGS):
            path.unlink(missing_ok=True)


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a CSV of the measurements of every image, the blurred ones first."""
    columns = ("name", "height", "width", "contrast", "sharpness", "problem", "duplicate_of")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["sharpness"], row["name"])))
    return text.getvalue()
