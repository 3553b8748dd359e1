"""Random-access image sources with one interface.

`len(source)`, and `source[i]` → dict(image uint8 [H, W, 3] RGB, id str), or dict(hr, lr, id) where
LR images come with the photographs, or a taught example (`data.records`). An image that cannot be
read raises `UserError`, which `data.readers` passes over.

`open_source` finds the kind from a text: a folder of images, a folder of shards, a list file, pairs
or a TFDS dataset; local paths or any that etils.epath knows (gs://, s3://).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from etils import epath

from data import records
from data.folders import list_images
from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.images import pairing
from maskgit_sr.images.bounds import file_bytes
from maskgit_sr.images.decode import RGB8_PIXELS, header_size, rgb8
from maskgit_sr.images.samples import cast, color_of

_LR_FOLDER, _HR_FOLDER = re.compile(r"(^|_)(lr|lq)$", re.I), re.compile(r"(^|_)(hr|gt)$", re.I)
_LR_FILE, _HR_FILE = re.compile(r"_lr\d*$", re.I), re.compile(r"_(hr|gt)$", re.I)


class Source(Protocol):
    """Random access to examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def read_image(path: epath.PathLike) -> np.ndarray:
    """Decodes one file to uint8 [H, W, 3] RGB.

    Raises:
      UserError: the file cannot be read or decoded; the message names it.
    """
    if not paths.is_remote(path):
        return rgb8(file_bytes(Path(path), RGB8_PIXELS), os.fspath(path))
    try:
        return rgb8(epath.Path(path).read_bytes(), os.fspath(path))
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: {error.strerror or error}") from error


class ImageFiles:
    """Image files by name; `id` is the name.

    Args:
      root: folder that the names are relative to.
      names: POSIX paths.
    """

    def __init__(self, root: epath.PathLike, names: Sequence[str]):
        self.root = epath.Path(root)
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, {len(self)} images)"

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self.names[index]
        return {"image": read_image(self.root / name), "id": name}


class ImageFolder(ImageFiles):
    """All images below a folder, in sorted order.

    Raises:
      UserError: the folder is missing or holds no image.
    """

    def __init__(self, root: epath.PathLike):
        super().__init__(root, list_images(root))


class ImageList(ImageFiles):
    """The images that a text file names, in its order: one a line, relative to the file or whole.

    Empty lines and those that start with # are passed over, as is what follows a tab.

    Raises:
      UserError: the file is missing, or names nothing.
    """

    def __init__(self, path: epath.PathLike):
        path = epath.Path(path)
        if not path.is_file():
            raise UserError(f"list of images {str(path)!r}: not found")
        lines = (line.partition("\t")[0].strip() for line in path.read_text().splitlines())
        names = [line for line in lines if line and not line.startswith("#")]
        if not names:
            raise UserError(f"list of images {str(path)!r}: names no image")
        super().__init__(path.parent, names)


def check_scale(
    large: tuple[int, ...], lr: tuple[int, ...], scale: int, where: str, what: str = "HR"
) -> None:
    """Compares the sizes of a pair, each (height, width, …).

    Args:
      what: the larger image is, for the message.

    Raises:
      UserError: it is not exactly `scale` times LR; the message begins with `where`.
    """
    if large[:2] != (lr[0] * scale, lr[1] * scale):
        sizes = [f"{shape[0]}x{shape[1]}" for shape in (large, lr)]
        raise UserError(f"{where}: {what} {sizes[0]} is not {scale} times LR {sizes[1]}")


class PairedFolder:
    """Aligned LR/HR pairs below a folder; `source[i]` → dict(hr, lr, id), or dict(hr, id).

    Three layouts are found: folders `lr` and `hr` (any case, also `test_LR`, `train_HR`, `gt`), as
    DRealSR has them; files `…_LR4.png` and `…_HR.png` side by side at any depth, as RealSR has
    them; and a folder `hr` alone, when `has_lr` is False. Files are paired as by
    `maskgit_sr.images.pairing`. `id` is the name of the scene, `ids` are those of all pairs;
    `names` are the paths of the HR images.

    Raises:
      UserError: missing or empty folder, an HR image without an LR partner (or with several). All
        name the file.
    """

    def __init__(self, root: epath.PathLike):
        self.root = epath.Path(root)
        if not self.root.is_dir():
            raise UserError(f"paired folder {str(self.root)!r}: not found or not a folder")
        folders = sorted(entry.name for entry in self.root.iterdir() if entry.is_dir())
        hr_folder, lr_folder = (self._folder(folders, kind) for kind in (_HR_FOLDER, _LR_FOLDER))
        if hr_folder:
            hr = list_images(self.root / hr_folder)
            lr = list_images(self.root / lr_folder) if lr_folder else []
        else:
            names, lr_folder = list_images(self.root), ""
            hr = [name for name in names if _HR_FILE.search(_stem(name))]
            lr = [name for name in names if _LR_FILE.search(_stem(name))]
            if not hr:
                raise UserError(
                    f"paired folder {str(self.root)!r}: expected folders lr and hr, or files "
                    f"named …_LR4 and …_HR"
                )
        self.has_lr = bool(lr)
        # Scene names, or the plain stems where scene names do not tell the images apart.
        self.ids = [_scene(name) for name in hr]
        if len(set(self.ids)) < len(hr):
            self.ids = [_stem(name) for name in hr]
        partners = self._partners(hr, lr, hr_folder or ".", lr_folder or ".") if lr else []
        self.names = [str(PurePosixPath(hr_folder, name)) for name in hr]
        self._lr = [str(PurePosixPath(lr_folder, name)) for name in partners]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        kind = "pairs" if self.has_lr else "HR images"
        return f"PairedFolder({str(self.root)!r}, {len(self)} {kind})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = {"hr": read_image(self.root / self.names[index]), "id": self.ids[index]}
        if self.has_lr:
            pair["lr"] = read_image(self.root / self._lr[index])
        return pair

    def bad_sizes(self, scale: int) -> dict[int, str]:
        """Reads the headers of all pairs; unreadable ones are left to whoever reads them.

        Returns:
          {index: reason, beginning with the pair's name} of those whose HR image is not exactly
          `scale` times its LR.
        """
        found = {}
        for index, (hr, lr) in enumerate(zip(self.names, self._lr, strict=True)):
            try:
                large, small = (self._size(path) for path in (hr, lr))
            except (UserError, OSError):
                continue
            try:
                check_scale(large, small, scale, self.where(index))
            except UserError as error:
                found[index] = str(error)
        return found

    def check_sizes(self, scale: int) -> None:
        """Checks the sizes of all pairs by `bad_sizes`.

        Raises:
          UserError: some do not fit; names the first and says how many there are.
        """
        if bad := list(self.bad_sizes(scale).values()):
            more = f" (and {len(bad) - 1} more pairs)" if len(bad) > 1 else ""
            raise UserError(f"{bad[0]}{more}")

    def where(self, index: int) -> str:
        """Returns the folder and the name of a pair, as messages begin with it."""
        return str(self.root / self.ids[index])

    def _size(self, path: str) -> tuple[int, int]:
        with (self.root / path).open("rb") as file:
            return header_size(file)

    def _folder(self, folders: Iterable[str], kind: re.Pattern[str]) -> str:
        found = [name for name in folders if kind.search(name)]
        if len(found) > 1:
            raise UserError(
                f"paired folder {str(self.root)!r}: several candidates: {', '.join(found)}"
            )
        return found[0] if found else ""

    def _partners(self, hr: list[str], lr: list[str], hr_name: str, lr_name: str) -> list[str]:
        """Returns the LR partner of each HR image."""
        found = pairing.partners(hr, lr)
        for name in hr:
            if name not in found:
                scene = _scene(name).lower()
                alike = [
                    f"{folder}/{other}"
                    for folder, others in ((hr_name, hr), (lr_name, lr))
                    for other in others
                    if _scene(other).lower() == scene
                ]
                raise UserError(
                    f"paired folder {str(self.root)!r}: {hr_name}/{name} has no single LR partner "
                    f"in {lr_name}/; of one name are {', '.join(alike)}"
                )
        return [found[name] for name in hr]


def lr_hr_pairs(root: epath.PathLike) -> PairedFolder:
    """Returns a paired folder that must have LR images.

    Raises:
      UserError: it has none; see `PairedFolder` for the rest.
    """
    pairs = PairedFolder(root)
    if not pairs.has_lr:
        raise UserError(f"paired folder {str(root)!r}: holds no LR images")
    return pairs


def _scene(name: str) -> str:
    return pairing.scene(_stem(name))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


class TfdsSource:
    """A TFDS dataset that was prepared as ArrayRecord, read without tensorflow.

    `id` is NAME/SPLIT/INDEX. An example's `hr` is taken, else its `image`; for a dataset with `lr`
    as well (div2k), `lr` is left out: degradations are drawn anew.

    Args:
      name: of the builder, with its config, such as "div2k/bicubic_x4".
      split: such as "train" or "validation[:10%]".
      data_dir: where it was prepared; None: TFDS's own default.

    Raises:
      UserError: not prepared there as ArrayRecord, or without images.
    """

    def __init__(self, name: str, split: str = "train", data_dir: str | None = None):
        import tensorflow_datasets as tfds  # its import takes seconds

        self.name, self.split = name, split
        try:
            builder = tfds.builder(name, data_dir=data_dir)
            self._data = builder.as_data_source(split)
        except Exception as error:  # TFDS and its builders raise many kinds
            line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UserError(
                f"TFDS dataset {name!r}, split {split!r}: {line}; prepare it with "
                "`tfds build --file_format=array_record` or give data_dir"
            ) from error
        keys = [key for key in ("hr", "image") if key in builder.info.features]
        if not keys:
            raise UserError(f"TFDS dataset {name!r}: has neither 'hr' nor 'image'")
        self._key = keys[0]

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"TfdsSource({self.name!r}, {self.split!r}, {len(self)} images)"

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        # TFDS images may be grey, RGBA or 16-bit.
        image = cast(color_of(np.asarray(self._data[index][self._key])), np.uint8)
        return {"image": image, "id": f"{self.name}/{self.split}/{index}"}


def open_source(text: str) -> Source:
    """Returns the source that `text` names.

    "tfds:NAME[:SPLIT[:DATA_DIR]]"; a folder with a `manifest.json` of `data.prepare` or
    `data.teach`; a folder with HR/LR pairs ("pairs:FOLDER"); any other folder of images; or a text
    file that lists images.

    Raises:
      UserError: nothing there, or not usable; the message says what was expected.
    """
    kind, _, rest = text.partition(":")
    if kind == "tfds":
        name, _, more = rest.partition(":")
        split, _, folder = more.partition(":")
        return TfdsSource(name, split or "train", folder or None)
    if kind == "pairs":
        return lr_hr_pairs(rest)
    path = epath.Path(text)
    if path.is_dir():
        # Also shards without a manifest: that is an error, not a folder without images.
        return records.RecordFolder(path) if records.is_shards(path) else ImageFolder(path)
    if path.is_file():
        return ImageList(path)
    raise UserError(f"data root {text!r}: no such folder, list file or shards")


def parse_mixture(
    text: str,
    what: str = "data root",
    kinds: str = "a folder, list file, shards or tfds:NAME",
) -> list[tuple[str, float]]:
    """Returns (name, weight) of each part: "A*0.7;B" → [("A", 0.7), ("B", 1.0)].

    Args:
      what: the text is, and which `kinds` of names it may have, for the messages.

    Raises:
      UserError: no name, or a weight that is not positive and finite.
    """
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if not parts:
        raise UserError(f"{what}: expected {kinds}, found ''")
    mixture = []
    for part in parts:
        name, star, weight = part.rpartition("*")  # the last one: a path may hold others
        try:
            mixture.append((name, float(weight)) if star else (part, 1.0))
        except ValueError:
            raise UserError(f"{what} {part!r}: expected a number after *") from None
        if not 0 < mixture[-1][1] < math.inf:  # true for NaN too
            raise UserError(f"{what} {part!r}: expected a finite weight above 0")
    return mixture
