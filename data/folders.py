"""Images below a folder, links followed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from etils import epath

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.images.files import PICTURE_SUFFIXES

_log = logging.getLogger(__name__)


def list_images(root: epath.PathLike) -> list[str]:
    """Returns relative POSIX paths of all images below `root`, sorted; hidden files are left out.

    Folders that are links are followed.

    Raises:
      UserError: `root` is not a folder, or holds no image, or a folder cannot be read.
    """
    root = epath.Path(root)
    if not root.is_dir():
        raise UserError(f"image folder {str(root)!r}: not found or not a folder")
    # Hidden files may be images that are still being written (`paths.whole`).
    names = [
        str((folder / name).relative_to(root).as_posix())
        for folder, files in _walk(root)
        for name in files
        if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".")
    ]
    if not names:
        raise UserError(
            f"image folder {str(root)!r}: no image found "
            f"(looked for {' '.join(sorted(PICTURE_SUFFIXES))})"
        )
    return sorted(names)  # draws go by index, and the order on disk is not the same everywhere


def _walk(root: epath.Path) -> Iterator[tuple[epath.Path, list[str]]]:
    """Yields every folder below `root`, and itself, with the names of its files.

    A link to a folder around it would lead round for ever, and is passed over.
    """
    if paths.is_remote(root):
        yield from ((folder, files) for folder, _, files in root.walk())
        return

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def identity(path: str) -> tuple[int, int]:
        found = os.stat(path)
        return found.st_dev, found.st_ino

    around = {str(root): {identity(str(root))}}  # by folder: itself and those that it lies in
    for base, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        above, inner = around.pop(base), {}
        for name in folders:
            path = os.path.join(base, name)
            known = identity(path)
            if known not in above:
                inner[name] = path
                around[path] = above | {known}
        folders[:] = list(inner)
        for name in files:
            path = os.path.join(base, name)
            if not PurePosixPath(name).suffix and os.path.islink(path) and not os.path.exists(path):
                _log.warning("%s: passed over, a link to nothing (a mount that is away?)", path)
        yield epath.Path(base), files
