"""A config's training step, made as `launch.train` makes it but of shapes, and compiled."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import steps
from configs import realsrt
from maskgit_sr.arrays import Execution, parse_dtype
from maskgit_sr.training import sharding

Mesh = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a compiled step says of itself, beside what the table of sharding rules says.

    Attributes:
        mesh: data, fsdp, tensor.
        predicted: bytes of a device's part of every argument that the step reads.
        arguments: those of the compiled program.
        state: bytes of a device's part of the training state.
        donated: bytes that outputs take over from arguments.
        share: FLOPs of all devices over those that `realsrt.GFLOP` gives the batch; above 1 where
            devices repeat each other's work, below where XLA counts a loop's turns as one.
        traffic: bytes that a device reads and writes, as XLA counts them.
        unread: arguments that the step does not read, by path.
        moved: outputs that do not lie where the layout puts them, by path.
        allocated: arrays that there are now and were not before.
        seconds: processor time of lowering and of compiling.
    """

    mesh: Mesh
    predicted: int
    arguments: int
    state: int
    donated: int
    share: float
    traffic: float
    unread: list[str]
    moved: list[str]
    allocated: int
    seconds: tuple[float, float]

    def faults(self) -> list[str]:
        """What is not as it should be."""
        found = [f"{path} does not lie where the layout puts it" for path in self.moved]
        found += [f"{path} is not read" for path in self.unread if path.startswith("0/")]
        if self.allocated:
            found.append(f"{self.allocated} arrays were allocated")
        if self.arguments != self.predicted:
            found.append(f"arguments of {self.arguments} bytes, predicted {self.predicted}")
        if self.donated != self.state:
            found.append(f"a state of {self.state} bytes, of which {self.donated} are donated")
        # the devices of a tensor axis may do the same, those of the others may not
        if not 0.7 < self.share < 1.05 * self.mesh[2]:
            found.append(f"{self.share:.2f} times the FLOPs of the batch")
        if not self.traffic > self.arguments:
            found.append(f"{self.traffic} bytes read and written")
        return found


def compiled(config: Any, stage: str, shape: Mesh) -> Report:
    """The step of a stage, with its own batch, for a mesh of that shape; nothing is allocated.

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
    parts = zip(read, leaves.values(), jax.tree.leaves(places), strict=True)
    _, metrics = program.out_info
    wanted = jax.tree.leaves((layout, dict.fromkeys(metrics, NamedSharding(mesh, P()))))
    ranks = [leaf.ndim for leaf in jax.tree.leaves(program.out_info)]
    found = _by_path(program.output_shardings).items()
    memory, cost = program.memory_analysis(), program.cost_analysis()
    gflop = realsrt.GFLOP[stage] * settings.batch / settings.accumulate
    return Report(
        mesh=shape,
        predicted=sum(steps.leaves_bytes(x, p) for known, x, p in parts if known),
        arguments=memory.argument_size_in_bytes,
        state=steps.leaves_bytes(made.state, layout),
        donated=memory.alias_size_in_bytes,
        share=cost["flops"] * mesh.size / (gflop * 1e9),
        traffic=cost["bytes accessed"],
        unread=[path for path, known in zip(leaves, read, strict=True) if not known],
        moved=[
            path
            for (path, a), b, rank in zip(found, wanted, ranks, strict=True)
            if not a.is_equivalent_to(b, rank)
        ],
        allocated=len({id(array) for array in jax.live_arrays()} - before),
        seconds=(middle - start, end - middle),
    )


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
