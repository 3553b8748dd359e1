"""A config's training step, made as `launch.train` makes it but of shapes, and compiled."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import steps
from configs import realsrt
from maskgit_sr.arrays import Execution, parse_dtype
from maskgit_sr.training import sharding

Mesh = tuple[int, int, int]
"""Sizes of the axes data, fsdp, tensor."""


class Report(NamedTuple):
    """What a compiled step says of itself.

    Attributes:
        faults: what is not as the table of sharding rules says it should be.
        unread: arguments that the step does not read, by path.
        state: bytes of a device's part of the training state.
        text: the measures, for a person.
    """

    faults: list[str]
    unread: list[str]
    state: int
    text: str


def compiled(config: Any, stage: str, shape: Mesh) -> Report:
    """Returns the report of a stage's step, with its own batch, for a mesh; nothing is allocated.

    Traced as on an accelerator, partitioned for the mesh, and compiled for CPUs.
    """
    before = {id(array) for array in jax.live_arrays()}
    mesh = sharding.make_mesh(*shape)
    made = steps.abstract(config, stage, Execution(parse_dtype(config.dtype or None), config.remat))
    settings = made.settings
    batch = made.batch(settings.batch)
    layout = sharding.shardings(made.state, mesh)
    split = NamedSharding(mesh, sharding.BATCH)
    places = (layout, sharding.shardings(made.frozen, mesh), dict.fromkeys(batch, split))

    start = time.process_time()
    given = tuple(map(_placed, (made.state, made.frozen, batch), places))
    with steps.accelerator():
        lowered = made.jitted(settings.accumulate, layout).lower(*given)
    middle = time.process_time()
    program = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    end = time.process_time()

    leaves = _by_path((made.state, made.frozen, batch))
    read = [place is not None for place in _by_path(program.input_shardings[0]).values()]
    unread = [path for path, known in zip(leaves, read, strict=True) if not known]
    faults = [f"{path} is not read" for path in unread if path.startswith("0/")]

    _, metrics = program.out_info
    wanted = jax.tree.leaves((layout, dict.fromkeys(metrics, NamedSharding(mesh, P()))))
    outputs = zip(jax.tree.leaves(program.out_info), wanted, strict=True)
    for (path, place), (leaf, right) in zip(
        _by_path(program.output_shardings).items(), outputs, strict=True
    ):
        if not place.is_equivalent_to(right, leaf.ndim):
            faults.append(f"{path} does not lie where the layout puts it")
    if allocated := len({id(array) for array in jax.live_arrays()} - before):
        faults.append(f"{allocated} arrays were allocated")

    memory, cost = program.memory_analysis(), program.cost_analysis()
    parts = zip(read, leaves.values(), jax.tree.leaves(places), strict=True)
    predicted = sum(steps.leaves_bytes(x, place) for known, x, place in parts if known)
    arguments, donated = memory.argument_size_in_bytes, memory.alias_size_in_bytes
    if arguments != predicted:
        faults.append(f"arguments of {arguments} bytes, predicted {predicted}")
    state = steps.leaves_bytes(made.state, layout)
    if donated != state:
        faults.append(f"a state of {state} bytes, of which {donated} are donated")
    # FLOPs of all devices over those of the batch; XLA counts a loop's turns as one. The devices of
    # a tensor axis may do the same, those of the others may not
    gflop = realsrt.GFLOP[stage] * settings.batch / settings.accumulate
    share = cost["flops"] * mesh.size / (gflop * 1e9)
    if not 0.7 < share < 1.05 * shape[2]:
        faults.append(f"{share:.2f} times the FLOPs of the batch")
    if not cost["bytes accessed"] > arguments:
        faults.append(f"{cost['bytes accessed']} bytes read and written")
    text = (
        f"arguments {arguments:,} bytes a device, predicted {predicted:,}; "
        f"state {state:,}, donated {donated:,}; {share:.2f} of the batch's FLOPs; "
        f"processor time {middle - start:.0f} s lowering, {end - middle:.0f} s compiling"
    )
    return Report(faults, unread, state, text)


def _placed(tree: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        places,
    )


def _by_path(tree: Any) -> dict[str, Any]:
    """Leaves by path; None is one of them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
