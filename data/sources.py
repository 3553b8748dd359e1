"""Random-access image sources: a folder of photographs, and a folder of LR/HR pairs.

Images are uint8 [H, W, 3], RGB. EXIF orientation is applied, greyscale becomes three equal
channels, alpha is dropped and 16-bit images are reduced to 8 bits.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

# What LR/HR sets append to the name of a scene: `Canon_001_LR4`, `DSC_1045_x1`, `0801x4`, `a_HR`.
# `x4` needs a separator or a digit before it, so that a file called `box4` keeps its name.
_PAIR_SUFFIX = re.compile(r"(?:[_-](?:lr|hr|gt)\d*|[_-]x\d+|(?<=\d)x\d+)$", re.IGNORECASE)

_log = logging.getLogger(__name__)


def list_images(root: str | os.PathLike[str]) -> list[str]:
    """Relative POSIX paths of all images below `root`, sorted; hidden files are left out.

    Raises:
      ValueError: `root` is not a folder, or holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"image folder {str(root)!r}: not found or not a folder")
    names = [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, files in os.walk(root)
        for name in files
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not names:
        raise ValueError(
            f"image folder {str(root)!r}: no image found (looked for {' '.join(sorted(SUFFIXES))})"
        )
    return sorted(names)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Decodes one file to uint8 [H, W, 3] RGB.

    Raises:
      ValueError: the file cannot be read or decoded; the message names it.
    """
    try:
        bgr = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise ValueError(f"cannot read image {os.fspath(path)!r}: {error}") from error
    if bgr is None:
        raise ValueError(f"cannot read image {os.fspath(path)!r}: not a decodable image")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


class ImageFolder:
    """All images below a folder, in sorted order; `source[i]` → dict(image, id).

    `image` is uint8 [H, W, 3] RGB, `id` the relative path of the file it came from. An image that
    cannot be read is logged once by name and replaced by the next readable one in sorted order
    (the last is followed by the first), whichever thread asks; `unreadable` counts those seen.

    Args:
      root: searched recursively; symbolic links to folders are not followed.
      cache: keep decoded images in memory (3·H·W bytes each) after the first read. They are shared:
        do not write into them.

    Raises:
      ValueError: the folder is missing or holds no image; on access, if no image can be read.
    """

    def __init__(self, root: str | os.PathLike[str], *, cache: bool = False):
        self.root = Path(root)
        self._names = list_images(root)
        self._cache: dict[int, np.ndarray] | None = {} if cache else None
        self._bad: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.root)!r}, {len(self)} images)"

    @property
    def unreadable(self) -> int:
        """Number of different images that could not be read so far."""
        return len(self._bad)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        for step in range(len(self)):
            i = (int(index) + step) % len(self)
            image = self._read(i)
            if image is not None:
                return {"image": image, "id": self._names[i]}
        raise ValueError(f"image folder {str(self.root)!r}: none of {len(self)} images is readable")

    def _read(self, i: int) -> np.ndarray | None:
        if i in self._bad:
            return None
        if self._cache is not None and i in self._cache:
            return self._cache[i]
        try:
            image = read_image(self.root / self._names[i])
        except ValueError as error:
            with self._lock:
                first = i not in self._bad
                self._bad.add(i)
            if first:
                _log.warning("%s; the next image takes its place", error)
            return None
        if self._cache is not None:
            image.flags.writeable = False
            self._cache[i] = image
        return image


def scene_name(path: str) -> str:
    """Relative path without suffix and without LR/HR/scale marks: `a/P1_x4.png` → `a/P1`."""
    stem = os.path.splitext(path)[0]
    while (shorter := _PAIR_SUFFIX.sub("", stem)) != stem and os.path.basename(shorter):
        stem = shorter
    return stem


class PairedFolder:
    """Aligned pairs `root/lr/*`, `root/hr/*`; `source[i]` → dict(lr, hr, id), or dict(hr, id).

    Files are paired by equal names (up to the file suffix), else by equal `scene_name`. Without a
    folder `root/lr` there are only HR images and `has_lr` is False. `id` is the scene name.

    Raises:
      ValueError: missing or empty folder, an HR image without an LR partner (or with several), a
        file that cannot be read. All name the file.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)
        self._hr = list_images(self.root / "hr")
        self._ids = _unique_ids(self._hr)
        self.has_lr = (self.root / "lr").is_dir()
        self._lr: list[str] = self._partners(list_images(self.root / "lr")) if self.has_lr else []

    def __len__(self) -> int:
        return len(self._hr)

    def __repr__(self) -> str:
        kind = "pairs" if self.has_lr else "HR images"
        return f"PairedFolder({str(self.root)!r}, {len(self)} {kind})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = {"hr": read_image(self.root / "hr" / self._hr[index]), "id": self._ids[index]}
        if self.has_lr:
            pair["lr"] = read_image(self.root / "lr" / self._lr[index])
        return pair

    def _partners(self, lr_names: list[str]) -> list[str]:
        same = {os.path.splitext(name)[0]: name for name in lr_names}
        scenes: dict[str, list[str]] = {}
        for name in lr_names:
            scenes.setdefault(scene_name(name), []).append(name)
        partners = []
        for name in self._hr:
            exact = same.get(os.path.splitext(name)[0])
            found = [exact] if exact else scenes.get(scene_name(name), [])
            if len(found) != 1:
                several = f"several LR partners ({', '.join(found)})"
                what = several if found else "no LR partner"
                raise ValueError(f"paired folder {str(self.root)!r}: hr/{name} has {what} in lr/")
            partners.append(found[0])
        twice = {name for name in partners if partners.count(name) > 1}
        if twice:
            raise ValueError(
                f"paired folder {str(self.root)!r}: lr/{min(twice)} fits several HR images"
            )
        return partners


def _unique_ids(names: list[str]) -> list[str]:
    """Scene names, or the plain stems where scene names would not tell the images apart."""
    ids = [scene_name(name) for name in names]
    return ids if len(set(ids)) == len(ids) else [os.path.splitext(name)[0] for name in names]
