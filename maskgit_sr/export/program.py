"""The program of every exported artifact: the restoration of any number of windows.

Each window side of the method is lowered separately, for several platforms at once; the parameters
are arguments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.models.functional import flatten, unflatten
from maskgit_sr.ops.noise import Windows

_FORMAT_VERSION = 3


@dataclasses.dataclass(frozen=True)
class Program:
    """The content of an artifact.

    Attributes:
        exported: by window side, ascending: (parameters by name, lr float32 [b, side, side, 3] in
            [0, 1]) → outputs by name: `image` [b, scale·side, scale·side, 3], not clipped, and
            `confidence` [b, h, w] and `tokens` [b, h, w] if the method has them. A stochastic
            program takes two more arguments: a seed, uint32 scalar, and int32 [b, 3], where each
            window lies in its own image: index, row and column (`Mosaic.places`). Empty where an
            artifact needs no such program.
        params: float32 arrays by name.
        info: the content of `maskgit_sr.json`.
        upscaler: the model that was lowered.
        options: the method's own, as they were given.
        stochastic: whether the result depends on the seed.
    """

    exported: dict[int, jax_export.Exported]
    params: dict[str, np.ndarray]
    info: dict[str, Any]
    upscaler: Upscaler
    options: Mapping[str, Any]
    stochastic: bool


def lower(
    upscaler: Upscaler, platforms: tuple[str, ...], options: Mapping[str, Any] | None = None
) -> Program:
    """Lowers the restoration of windows for all `platforms`; nothing is lowered for none.

    Raises:
        UserError: an option that the method lacks, or one out of range.
    """
    given = dict(options or {})
    chosen = upscaler.options(**given)
    method = upscaler.method
    params = {name: np.asarray(leaf, np.float32) for name, leaf in flatten(upscaler.params).items()}

    def restore(flat: dict[str, jax.Array], lr: jax.Array, *drawn: jax.Array) -> Any:
        # as in the upscaler, so that the same seed gives the same image; where nothing is sampled,
        # neither becomes part of the program
        seed, places = drawn or (0, jnp.zeros((lr.shape[0], 3), jnp.int32))
        keys = jnp.broadcast_to(jax.random.key(seed), lr.shape[:1])
        windows = Windows.of(keys, places)
        restored = method.restore_windows(unflatten(flat), lr, windows, chosen)
        return {name: part for name, part in restored._asdict().items() if part is not None}

    # symbolic, so that one program serves any number of windows
    (batch,) = jax_export.symbolic_shape("b")
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    places = jax.ShapeDtypeStruct((batch, 3), jnp.int32)
    arguments = (seed, places) if chosen.stochastic else ()
    exported = {
        side: jax_export.export(jax.jit(restore), platforms=platforms)(
            {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in params.items()},
            jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32),
            *arguments,
        )
        for side in (method.tile.sides if platforms else ())
    }
    info = _describe(upscaler, params, platforms) | {
        "options": dataclasses.asdict(chosen),
        "stochastic": chosen.stochastic,
        "outputs": outputs(next(iter(exported.values()))) if exported else ["image"],
    }
    return Program(exported, params, info, upscaler, given, chosen.stochastic)


def outputs(exported: jax_export.Exported) -> list[str]:
    """Returns the names of a program's outputs, sorted, as JAX orders those of a mapping."""
    return sorted(jax.tree.unflatten(exported.out_tree, exported.out_avals))


def _describe(
    upscaler: Upscaler, params: dict[str, np.ndarray], platforms: tuple[str, ...]
) -> dict[str, Any]:
    metadata, method = upscaler.metadata, upscaler.method
    weights = hashlib.sha256()
    # sorted, so that the digest does not depend on how the tree was built
    for name in sorted(params):
        weights.update(name.encode())
        weights.update(params[name].tobytes())
    config = json.dumps(metadata.config, sort_keys=True).encode()
    return {
        "format_version": _FORMAT_VERSION,
        "method": metadata.method,
        "scale": method.scale,
        "tile": {**dataclasses.asdict(method.tile), "sides": list(method.tile.sides)},
        "dtype": str(jnp.dtype(method.execution.dtype)),
        "licence": metadata.licence,
        "config_sha256": hashlib.sha256(config).hexdigest(),
        "weights_sha256": weights.hexdigest(),
        "platforms": list(platforms),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
    }
