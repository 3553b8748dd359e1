"""Finding and loading bundles: those that ship with the package, and the user's own files."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import jax

from maskgit_sr import bundles, paths
from maskgit_sr.arrays import Execution, parse_dtype
from maskgit_sr.errors import UserError
from maskgit_sr.inference import DEFAULT_MODEL, compilation, hub, library
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.methods import registry
from maskgit_sr.models.functional import flatten

_FOLDER = Path(__file__).parent.parent / "weights"
_LARGEST = 1e6
"""Largest weight of either sign; trained ones stay below 100. Products of larger ones overflow
within a few layers, or give tokens chosen among logits that are not finite."""


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """A bundle that has a name: its path, and the contents of its metadata and card."""

    name: str
    path: Path
    method: str
    scale: int
    provides: tuple[str, ...]
    parameters: int
    size_bytes: int
    licence: str
    scores: dict[str, float]
    card: str


def list_models() -> list[ModelInfo]:
    """Returns the bundles that ship with the package, then those of the user's library, by name.

    Raises:
        UserError: one of them is damaged.
    """
    found = []
    for path in (*shipped().values(), *library.kept().values()):
        head = bundles.read_head(path)  # a large model's arrays would take seconds
        metadata = head.metadata
        found.append(
            ModelInfo(
                path.stem,
                path,
                metadata.method,
                metadata.scale,
                tuple(sorted(getattr(registry.METHODS.get(metadata.method), "provides", ()))),
                sum(math.prod(entry.shape) for entry in head.entries.values()),
                path.stat().st_size,
                metadata.licence,
                metadata.scores,
                _card(path, metadata),
            )
        )
    return found


def _card(path: Path, metadata: bundles.Metadata) -> str:
    """Returns the text beside a bundle, or what its metadata says of its origin."""
    card = path.with_suffix(".md")
    if card.exists():
        return card.read_text(encoding="utf-8")
    facts = {"method": metadata.method, "scale": metadata.scale, "licence": metadata.licence}
    lines = (f"- {name}: {value}" for name, value in (facts | metadata.training).items())
    return "\n".join((f"# {path.stem}", "", *lines)) + "\n"


def shipped() -> dict[str, Path]:
    """Returns the paths of the bundles that come with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.safetensors"))}


def resolve(name: paths.PathLike) -> paths.PathLike:
    """Returns the path of a bundle from a path, or from a name that ships or is kept (`library`).

    A path in a bucket is returned unchecked, one at ``hf://`` is downloaded (`hub.download`).

    Raises:
        UserError: neither a model's name nor a file; the message lists the names. As
            `hub.download`.
    """
    text = os.fspath(name)
    named = library.kept() | shipped()
    if text in named:
        return named[text]
    if text.startswith(hub.PREFIX):
        return hub.download(text)
    if paths.is_remote(text):
        return text
    path = Path(text)
    if os.path.isfile(text):  # Path.is_file raises for names that are too long
        return path
    if path.suffix or os.sep in text:
        raise UserError(f"model: no such bundle: {text}")
    if text in library.PUBLISHED:
        raise UserError(f"model: {text} is not here yet: 'maskgit-sr models get {text}'")
    raise UserError(f"model: expected a path or one of {', '.join(named)}, found {text!r}")


def read_metadata(model: paths.PathLike) -> bundles.Metadata:
    """Returns the metadata of a model's bundle, without reading its arrays.

    Raises:
        UserError: as `resolve` and `bundles.read_metadata` do.
    """
    return bundles.read_metadata(resolve(model))


def pick_device(name: str | None) -> jax.Device:
    """Returns the first ``cpu``, ``gpu`` or ``tpu`` device, or JAX's own choice for None.

    Raises:
        UserError: unknown name, or JAX sees no such device.
    """
    if name is None:
        return jax.devices()[0]
    if name not in ("cpu", "gpu", "tpu"):
        raise UserError(f"device: expected cpu, gpu or tpu, found {name!r}")
    try:
        return jax.devices(name)[0]
    except RuntimeError:
        raise UserError(f"device: no {name} here; JAX sees {jax.devices()[0].platform}") from None


def load(
    model: paths.PathLike = DEFAULT_MODEL,
    *,
    batch: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Upscaler:
    """Loads a bundle, and turns on JAX's persistent compilation cache (`compilation.keep`).

    Examples:
        >>> import numpy as np
        >>> upscaler = load(device="cpu")
        >>> upscaler
        Upscaler(structure ×4, 1,215,408 parameters, cpu:0, batch 1)
        >>> upscaler(np.zeros((30, 40, 3), np.uint8))
        Result(160×120, ndarray)

    Args:
        model: name of a model (`list_models`), or a path, also in a bucket or at ``hf://OWNER/NAME``.
        batch: windows a device call; by default 1 on CPU, where more gains nothing, else 32.
        device: ``cpu``, ``gpu`` or ``tpu``; by default whatever JAX prefers.
        dtype: compute dtype, ``float32`` or ``bfloat16``; by default bfloat16 on accelerators,
            float32 on CPU.

    Raises:
        UserError: unknown model or device, a damaged bundle, or one that does not fit its method.
    """
    path = resolve(model)
    place = pick_device(device)
    # Before anything compiles, so that all programs are cached.
    compilation.keep()
    head = bundles.read_head(path)
    metadata = head.metadata
    try:
        execution = Execution(parse_dtype(dtype, place.platform))
        method = registry.build(
            metadata.method, metadata.config, execution, arrays=len(head.entries)
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if metadata.scale != method.scale:
        raise UserError(f"{path}: scale: expected {method.scale}, found {metadata.scale}")
    # Only now the arrays: what the method expects of them is known from the metadata.
    params, metadata = bundles.read(path, method.shapes())
    _check_weights(params, path)
    size = (1 if place.platform == "cpu" else 32) if batch is None else batch
    return Upscaler(method, params, metadata, batch=size, device=place)


def _check_weights(params: Any, path: paths.PathLike) -> None:
    for name, leaf in flatten(params).items():
        # Both are NaN where any weight is, and NaN fails every comparison.
        low, high = float(leaf.min()), float(leaf.max())
        if not (low >= -_LARGEST and high <= _LARGEST):
            raise UserError(
                f"{path}: {name}: expected finite values of at most {_LARGEST:g}, "
                f"found {low:g} to {high:g}"
            )
