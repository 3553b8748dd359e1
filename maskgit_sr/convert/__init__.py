"""Conversion of other frameworks' published checkpoints to bundles."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_sr import assets, bundles
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError
from maskgit_sr.methods.base import Method
from maskgit_sr.models.functional import count


def read_torch(source: Path) -> dict[Any, Any]:
    """Returns the table in a PyTorch file, or the state of a TorchScript archive.

    Nothing in the file is executed.

    Raises:
        UserError: PyTorch is not installed, or the file is absent, unreadable or holds no table.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            'convert: reading a PyTorch file needs PyTorch: pip install "maskgit_sr[convert]"'
        ) from error
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    content: Any
    try:
        # map_location: what was saved on a GPU must be readable without one
        if _is_script(source):
            content = torch.jit.load(str(source), map_location="cpu").state_dict()
        else:
            # weights_only: a pickle could run any code otherwise
            content = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{source}: not a readable PyTorch file: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{source}: expected a table of arrays, found {type(content).__name__}")
    return content


def float_arrays(tensors: Mapping[Any, Any], source: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch file as float32 arrays by name.

    Raises:
        UserError: there is something else among them; the first few are named.
    """
    if other := [str(name) for name, value in tensors.items() if not hasattr(value, "float")]:
        named = ", ".join(other[:3])
        raise UserError(f"{source}: expected tensors only, found other values: {named}")
    return {str(name): tensor.float().numpy() for name, tensor in tensors.items()}


def check_target(target: Path, overwrite: bool) -> None:
    """Raises UserError if ``target`` exists and may not be replaced."""
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists already; choose another name or allow overwriting")


def origin(source: Path) -> dict[str, Any]:
    """Returns the name and digest of a file, for the metadata of what is made of it."""
    return {"file": source.name, "sha256": assets.digest(source)}


def write_bundle(
    target: Path, method: Method, params: Params, *, licence: str, training: dict[str, Any]
) -> dict[str, Any]:
    """Writes the bundle of converted parameters, float32.

    Returns:
        ``{"parameters": total, "groups": {group: parameters}}``.

    Raises:
        UserError: the target cannot be written.
    """
    metadata = bundles.Metadata(
        method.name, method.describe(), method.scale, licence=licence, training=training
    )
    bundles.write(target, params, metadata, exact=method.exact)
    groups = {group: count({group: params[group]}) for group in method.groups}
    return {"parameters": sum(groups.values()), "groups": groups}


def _is_script(source: Path) -> bool:
    # torch.save makes zip files, too; constants.pkl is only in TorchScript's
    if not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
