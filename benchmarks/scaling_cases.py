"""One case of the scaling plan: a stage's step at one mesh and batch, compiled ahead of time.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.scaling_cases \
        '{"stage": "generator", "data": 8, "batch": 64}'

Nothing is allocated: state and batch are shapes with shardings. The step is traced as on an
accelerator (bfloat16, the plain convolution and the fused attention call, which the networks choose
by backend), partitioned by XLA for the mesh and compiled for the CPU. Prints one line of JSON.
`benchmarks.scaling` starts one such process a case, because the number of devices is fixed when JAX
starts.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from benchmarks import flops
from benchmarks.scaling_hlo import Cost, Program
from configs import realsrt
from maskgit_sr.arrays import Execution, Params
from maskgit_sr.losses import perceptual
from maskgit_sr.methods import registry
from maskgit_sr.methods.base import Method, Stage
from maskgit_sr.training import optimizers, sharding, state

DTYPE = jnp.bfloat16
PASS = "spmd-partitioning"


@dataclasses.dataclass(frozen=True)
class Case:
    """A stage at one mesh and global batch.

    Attributes:
        remat: layers are computed again in the backward pass.
        gather: parameters are made whole before they are used, as the trainer does on fsdp meshes.
    """

    stage: str
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    batch: int = 1
    size: str = "base"
    remat: bool = False
    gather: bool = False

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor

    @property
    def name(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step is made of, all of it abstract."""

    method: Method
    stage: Stage
    chosen: state.Optimizers
    ema: float
    accumulate: int
    state: state.TrainState
    frozen: Params
    side: int

    def batch(self, many: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch of ``many``."""
        low = self.side // self.method.scale
        return {
            "hr": jax.ShapeDtypeStruct((many, self.side, self.side, 3), jnp.float32),
            "lr": jax.ShapeDtypeStruct((many, low, low, 3), jnp.float32),
        }


def accelerator() -> Any:
    """Traces what an accelerator would run, where a network asks for the backend."""
    return mock.patch.object(jax, "default_backend", lambda: "tpu")


def plan(method: Method, stage_name: str, config: Any) -> Plan:
    """The step of ``stage_name`` under ``config``, which has ``stage`` and ``perceptual``."""
    stage = method.stages[stage_name]
    chosen = {g: optimizers.build(config.stage.optimizer, config.stage.steps) for g in stage.trains}
    shapes = method.shapes()
    frozen = {group: shapes[group] for group in stage.needs if group != "perceptual"}
    if "perceptual" in stage.needs:
        frozen["perceptual"] = jax.eval_shape(lambda: perceptual.build(config.perceptual))

    def begin(frozen: Params) -> state.TrainState:
        groups = tuple(dict.fromkeys((*stage.trains, *stage.fresh_stats)))
        params, stats = method.init(jax.random.key(0), groups)
        return state.create(stage, stage.start(frozen | params), stats, chosen, 0)

    abstract = jax.eval_shape(begin, frozen)
    ema, accumulate = config.stage.ema, config.stage.accumulate
    return Plan(method, stage, chosen, ema, accumulate, abstract, frozen, config.stage.crop)


def published(case: Case) -> Plan:
    """The plan of a published size."""
    config = realsrt.get_config(f"{case.size},stage={case.stage}")
    method = registry.build(config.method, config.model.to_dict(), Execution(DTYPE, case.remat))
    return plan(method, case.stage, config)


def step_flops(made: Plan, many: int = 2) -> float:
    """FLOPs of an example in all phases of one step, from a batch of ``many``; nothing is computed.

    Batch statistics need more than one.
    """
    step = state.make_step(made.stage, made.chosen, made.ema)
    with accelerator():
        traced = jax.make_jaxpr(step)(made.state, made.frozen, made.batch(many))
    return flops.count(traced.jaxpr) / many


def lower(made: Plan, mesh: jax.sharding.Mesh, many: int, gather: bool = False) -> Any:
    """The jitted step of a batch of ``many``, lowered with the trainer's shardings.

    Told of them with ``gather``, the step makes parameters whole where they are used, as in
    training; else XLA is left to choose.
    """

    def placed(tree: Any, places: Any) -> Any:
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            tree,
            places,
        )

    layout = sharding.shardings(made.state, mesh)
    begun = placed(made.state, layout)
    frozen = placed(made.frozen, sharding.shardings(made.frozen, mesh))
    split = NamedSharding(mesh, sharding.BATCH)
    batch = made.batch(many)
    step = state.make_step(
        made.stage, made.chosen, made.ema, made.accumulate, layout if gather else None
    )
    with accelerator():
        return step.lower(begun, frozen, placed(batch, dict.fromkeys(batch, split)))


def compiled(lowered: Any, devices: int) -> tuple[Cost, Any]:
    """(cost of the partitioned program, the executable for CPUs)."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "xla_dump_to": folder,
            "xla_dump_hlo_pass_re": PASS,
            "xla_backend_optimization_level": 0,  # machine code is not what is looked at
        }
        executable = lowered.compile(compiler_options=options)
        # one device has nothing to partition: the program as it was lowered
        wanted = f"*after_{PASS}*.txt" if devices > 1 else "*before_optimizations.txt"
        (found,) = Path(folder).glob(f"*jit_step{wanted}")
        text = found.read_text()
    return Program(text, devices).cost(), executable


def leaves_bytes(tree: Any, places: Any = None) -> int:
    """Bytes of a tree of shapes, on one device if shardings are given."""
    leaves = jax.tree.leaves(tree)
    spots = jax.tree.leaves(places) if places is not None else [None] * len(leaves)
    return sum(
        math.prod(spot.shard_shape(leaf.shape) if spot else leaf.shape) * leaf.dtype.itemsize
        for leaf, spot in zip(leaves, spots, strict=True)
    )


def gradient_bytes(params: Any) -> int:
    """Of data-parallel gradients: kernels in the dtype they multiply in, the rest in float32.

    The partitioner sums a gradient where it arises, before the cast to the parameter's float32.
    """
    wide = jnp.dtype(DTYPE).itemsize
    return sum(
        leaf.size * (wide if leaf.ndim > 1 else leaf.dtype.itemsize)
        for leaf in jax.tree.leaves(params)
    )


def activation_bytes(made: Plan) -> dict[str, float]:
    """Bytes an example that each phase keeps from its forward to its backward pass.

    What JAX's own differentiation keeps, before XLA leaves out what it can recompute in a fusion.
    The slope between two batch sizes, which takes parameters out.
    """
    found: dict[str, list[int]] = {}
    sizes = (2, 4)
    for many in sizes:
        batch: Mapping[str, Any] = made.batch(many)
        for phase in made.stage.phases:

            def keep(params: Any, batch: Any, stats: Any, frozen: Any, phase: Any = phase) -> Any:
                def loss(trained: Any) -> Any:
                    everything = {**frozen, **params, phase.group: trained}
                    key = jax.random.key(0)
                    return phase.loss(everything, stats, batch, key, jnp.int32(0))

                _, pull, result = jax.vjp(loss, params[phase.group], has_aux=True)
                return pull, result.carry

            with accelerator():
                pull, carry = jax.eval_shape(
                    keep, made.state.params, batch, made.state.stats, made.frozen
                )
            found.setdefault(phase.group, []).append(leaves_bytes(pull))
            batch = {**batch, **carry}
    return {group: (b - a) / (sizes[1] - sizes[0]) for group, (a, b) in found.items()}


def measure(case: Case) -> dict[str, Any]:
    """Everything that the plan needs to know about a case."""
    made = published(case)
    mesh = sharding.make_mesh(case.data, case.fsdp, case.tensor)
    places = [sharding.shardings(tree, mesh) for tree in (made.state, made.frozen)]
    grads = leaves_bytes(made.state.params, sharding.shardings(made.state.params, mesh))
    start = time.monotonic()
    lowered = lower(made, mesh, case.batch, case.gather)
    cost, executable = compiled(lowered, case.devices)
    seconds = time.monotonic() - start
    memory, analysis = executable.memory_analysis(), executable.cost_analysis()
    inputs = jax.tree.leaves(places[0])
    outputs = jax.tree.leaves(executable.output_shardings[0])
    moved = sum(
        not a.is_equivalent_to(b, leaf.ndim)
        for a, b, leaf in zip(inputs, outputs, jax.tree.leaves(made.state), strict=True)
    )
    return {
        "cost": dataclasses.asdict(cost),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(made.state.params)),
        "gradient_wire_bytes": gradient_bytes(made.state.params),
        "frozen_wire_bytes": gradient_bytes(made.frozen),
        "state_bytes": leaves_bytes(made.state, places[0]),
        "frozen_bytes": leaves_bytes(made.frozen, places[1]),
        "gradient_bytes": grads,
        "update_bytes": 2 * leaves_bytes(made.state, places[0]) + grads,
        # of the program, not of the mesh: asked once
        "activation_bytes": activation_bytes(made) if case.devices == 1 else {},
        "cpu_argument_bytes": memory.argument_size_in_bytes,
        "cpu_temp_bytes": memory.temp_size_in_bytes,
        "cpu_flops": analysis["flops"],
        "cpu_bytes": analysis["bytes accessed"],
        "outputs_moved": moved,
        "compile_seconds": seconds,
    }


def main() -> None:
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
