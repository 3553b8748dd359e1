"""Images below a folder, links followed."""

from __future__ import annotations

import logging
import os
from pathlib import PurePosixPath

from etils import epath

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.images import inputs

_log = logging.getLogger(__name__)


def list_images(root: epath.PathLike) -> list[str]:
    """Returns relative POSIX paths of all images below `root`, sorted; hidden files are left out.

    Folders that are links are followed, each real folder and file once. What is passed over is
    logged.

    Raises:
      UserError: `root` is not a folder, or holds no image.
    """
    root = epath.Path(root)
    if not root.is_dir():
        raise UserError(f"image folder {str(root)!r}: not found or not a folder")
    if paths.is_remote(root):
        # Hidden files may be images that are still being written (`paths.whole`).
        names = [
            str((folder / name).relative_to(root).as_posix())
            for folder, _, files in root.walk()
            for name in files
            if inputs.is_picture(PurePosixPath(name)) and not name.startswith(".")
        ]
    else:
        passed = inputs.PassedOver()
        try:
            names = [one.name.as_posix() for one in inputs.find([os.fspath(root)], None, passed)]
        finally:
            for line in passed.lines():
                _log.warning("%s", line)
    if not names:
        raise UserError(
            f"image folder {str(root)!r}: no image found "
            f"(looked for {' '.join(sorted(inputs.PICTURE_SUFFIXES))})"
        )
    return sorted(names)  # draws go by index, and the order on disk is not the same everywhere
