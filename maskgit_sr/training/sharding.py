"""Device mesh, and the table that maps parameter paths to partition specs."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from maskgit_sr.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))  # fsdp shards parameters, and is data parallel all the same

RULES: tuple[tuple[str, P], ...] = (
    # Columns over tensor here, rows below: nothing is exchanged between the two products.
    (r"/(query|key|value|key_value|up)/kernel$", P("fsdp", "tensor")),
    (r"/(out|down)/kernel$", P("tensor", "fsdp")),
    (r"/(encoder_in|decoder_in|logits)/kernel$", P(None, "fsdp")),
    (r"/kernel$", P(None, None, None, "fsdp")),
    (r"", P()),
)
"""The first match wins; paths are "group/…/name". An axis that does not divide a dimension leaves
it replicated."""


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Returns a mesh of all devices; one axis may be −1: all devices that are left.

    Raises:
        UserError: the product of the axes is not the number of devices.
    """
    shape = [data, fsdp, tensor]
    devices = jax.device_count()
    if -1 in shape:
        rest = int(np.prod([s for s in shape if s != -1]))
        shape[shape.index(-1)] = devices // rest if rest > 0 else 0
    if int(np.prod(shape)) != devices:
        raise UserError(
            f"mesh: {dict(zip(AXES, shape, strict=True))} does not cover {devices} devices"
        )
    # Auto, since jax.make_mesh defaults to explicit axes; the rules here leave the rest to XLA.
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """Returns a NamedSharding for every leaf (array or shape) of ``tree``."""

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = "/".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)
        # search, not match: Adam's moments have the parameter's path behind their own.
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        # A dense kernel has fewer axes than a convolution's; output features come last in both.
        if len(spec) > leaf.ndim:
            spec = P(*spec[len(spec) - leaf.ndim :]) if leaf.ndim else P()
        fits = [
            axis if axis is not None and leaf.shape[i] % mesh.shape[axis] == 0 else None
            for i, axis in enumerate(spec)
        ]
        return NamedSharding(mesh, P(*fits))

    return jax.tree_util.tree_map_with_path(place, tree)


def gathered(tree: Any, mesh: Mesh) -> Any:
    """Returns :func:`shardings` without the fsdp axis, all-gathered as a step uses parameters."""

    def drop(placed: NamedSharding) -> NamedSharding:
        return NamedSharding(mesh, P(*(None if axis == "fsdp" else axis for axis in placed.spec)))

    return jax.tree.map(drop, shardings(tree, mesh))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns global arrays, sharded over data and fsdp, of this host's part of a batch."""
    sharding = NamedSharding(mesh, BATCH)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
