"""The user's own library of models: published weights, converted once and kept in the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskgit_sr import assets
from maskgit_sr.errors import UserError


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights that their authors offer on a page of theirs, for a person to download.

    Attributes:
        page: address of the authors' page.
        file: name of the file there.
        licence: as the authors state it.
    """

    page: str
    file: str
    licence: str


PUBLISHED = {
    "realsrt-base": Published(
        "https://github.com/USTC-JialunPeng/RealSRT", "net_g_80000.pth", "MIT"
    )
}


def folder() -> Path:
    """Returns the folder of the kept models, which need not exist."""
    return assets.cache_dir() / "models"


def kept() -> dict[str, Path]:
    """Returns the paths of the models that are kept, by name."""
    return {path.stem: path for path in sorted(folder().glob("*.safetensors"))}


def published(name: str) -> Published:
    """Returns where the weights of a model are published.

    Raises:
        UserError: an unknown name.
    """
    if name not in PUBLISHED:
        raise UserError(f"models: expected one of {', '.join(PUBLISHED)}, found '{name}'")
    return PUBLISHED[name]


def keep(
    name: str, source: Path, convert: Callable[..., Any], *, overwrite: bool = False
) -> tuple[Path, Any]:
    """Converts a downloaded file and keeps the bundle, from then on found by its name.

    Args:
        source: the published file.
        convert: (source, target, overwrite=…) writes the bundle, whole or not at all, with the
            digest of the source in its metadata, and returns a summary.

    Returns:
        The bundle's path and the summary.

    Raises:
        UserError: an unknown name, no such file, a model kept already, or what `convert` raises.
    """
    known, target = published(name), folder() / f"{name}.safetensors"
    if not source.is_file():
        raise UserError(f"{source}: no such file; {known.file} is at {known.page}")
    if target.exists() and not overwrite:
        raise UserError(f"models: {name} is kept already, {target}; use --overwrite")
    return target, convert(source, target, overwrite=overwrite)
