"""What every exported artifact holds: the restoration of a batch of tiles of any number.

It is lowered for several platforms at once; the parameters are its arguments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.models.functional import flatten, unflatten

_FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Program:
    """What an artifact is made of.

    Attributes:
        exported: (parameters by name, lr float32 [b, size, size, 3] in [0, 1]) → image
            [b, scale·size, scale·size, 3], not clipped, confidence [b, h, w], tokens [b, h, w].
        params: float32 arrays by name.
        info: what the artifact says of itself.
        upscaler: the original.
        steps: decoding steps; None: the model's own.
    """

    exported: jax_export.Exported
    params: dict[str, np.ndarray]
    info: dict[str, Any]
    upscaler: Upscaler
    steps: int | None


def lower(upscaler: Upscaler, platforms: tuple[str, ...], *, steps: int | None) -> Program:
    """The restoration of tiles, for all those platforms.

    Raises:
        UserError: steps out of range.
    """
    options = upscaler.options(steps=steps)
    method = upscaler.method
    params = {name: np.asarray(leaf, np.float32) for name, leaf in flatten(upscaler.params).items()}

    def restore(flat: dict[str, jax.Array], lr: jax.Array) -> tuple[jax.Array, ...]:
        # Nothing is drawn at temperature 0, so that the keys are no part of the program.
        keys = jnp.broadcast_to(jax.random.key(0), lr.shape[:1])
        restored = method.restore(unflatten(flat), lr, keys, options)
        assert restored.confidence is not None
        return restored.image, restored.confidence, restored.tokens

    (batch,) = jax_export.symbolic_shape("b")
    size = method.tile.size
    exported = jax_export.export(jax.jit(restore), platforms=platforms)(
        {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in params.items()},
        jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32),
    )
    return Program(
        exported, params, _describe(upscaler, exported, params, options), upscaler, steps
    )


def _describe(
    upscaler: Upscaler, exported: Any, params: dict[str, np.ndarray], options: Any
) -> dict[str, Any]:
    metadata, method = upscaler.metadata, upscaler.method
    weights = hashlib.sha256()
    for name in sorted(params):
        weights.update(name.encode())
        weights.update(params[name].tobytes())
    config = json.dumps(metadata.config, sort_keys=True).encode()
    return {
        "format_version": _FORMAT_VERSION,
        "method": metadata.method,
        "scale": method.scale,
        "tile": dataclasses.asdict(method.tile),
        "steps": options.policy.steps,
        "temperature": options.policy.temperature,
        "color_fix": options.color_fix,
        "dtype": str(jnp.dtype(method.execution.dtype)),
        "licence": metadata.licence,
        "config_sha256": hashlib.sha256(config).hexdigest(),
        "weights_sha256": weights.hexdigest(),
        "platforms": list(exported.platforms),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
    }
