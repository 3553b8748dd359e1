"""Drill: the training steps of base compile, all four stages, each for another mesh of eight.

    python -m tests.drills.aot [--stages critic] [--jobs 2]

The configs are those that `configs/realsrt.py` gives, with their own batches, but for the mesh of
most of them. Exit code 1 if an array is allocated, if a device's arguments are not as many bytes
as the table of shardings says, if the axis fsdp does not split the state, if the state is not
donated whole or comes back anywhere else than it was, if the devices repeat work that they should
share, or if docs/scaling.md and the config have other hours than what the steps cost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import scaling, steps
from configs import hardware as machines
from configs import realsrt
from maskgit_sr import assets
from maskgit_sr.arrays import Execution, parse_dtype
from maskgit_sr.training import sharding
from tests.perceptual import perceptual_nets

Mesh = tuple[int, int, int]
"""Sizes of the axes data, fsdp, tensor."""
CASES = (  # stage, hardware, mesh
    ("tokenizer", "v5e-8", (8, 1, 1)),  # in parts, one after the other
    ("tokenizer", "h100x8", (4, 2, 1)),
    ("generator", "h100x8", (1, 8, 1)),
    ("critic", "h100x8", (2, 2, 2)),
    ("control", "h100x8", (2, 4, 1)),
)


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
    whole, fsdp = steps.leaves_bytes(made.state), shape[1]
    # Biases, norms and counters stay whole; the tensor axis splits some of the rest once more.
    if not whole / (fsdp * shape[2]) <= state <= (1.2 if fsdp > 1 else 1) * whole / fsdp:
        faults.append(f"a state of {whole} bytes, of which a device has {state}")
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


def begin(folder: str) -> None:
    """Makes a process one of eight devices."""
    os.environ[assets.ENV] = folder
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)


def check(case: tuple[str, str, Mesh]) -> Report:
    """The report of one stage's step."""
    stage, hardware, mesh = case
    return compiled(realsrt.get_config(f"hardware={hardware}"), stage, mesh)


def hours() -> list[str]:
    """Faults of the hours that the page and the config have, and of the config's GFLOP."""
    faults = []
    page = Path(__file__).resolve().parents[2] / "docs/scaling.md"
    lines = f"{page.read_text()}\n{realsrt.__doc__}".replace("|", " ").splitlines()
    for name in machines.HARDWARE:
        numbers = " ".join(f"{hours:.1f}" for hours in scaling.hours(name))
        rows = [" ".join(line.split()) for line in lines if line.split()[:1] == [name]]
        # on the page also what gradients take
        if len(rows) != 3 or sum(numbers in row for row in rows) != 2:
            faults.append(f"{name}: expected hours {numbers} on the page and in the config: {rows}")
    for stage, gflop in realsrt.GFLOP.items():
        cost = scaling.step(stage).cost[0] / 1e9
        if abs(cost - gflop) > 1e-3 * gflop:
            faults.append(f"GFLOP of {stage}: {gflop} in the config, {cost:.1f} counted")
    return faults


def main() -> int:
    """Runs the drill."""
    parser = argparse.ArgumentParser(description=__doc__)
    stages = list(dict.fromkeys(stage for stage, _, _ in CASES))
    parser.add_argument("--stages", nargs="+", default=stages, choices=stages)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    cases = [case for case in CASES if case[0] in options.stages]
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        perceptual_nets.write(Path(folder))
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, spawn, begin, (folder,)) as pool:
            wrong = pool.submit(hours)
            for (stage, _, mesh), report in zip(cases, pool.map(check, cases), strict=True):
                name = f"{stage} on {'x'.join(map(str, mesh))}"
                print(f"{name}: {report.text}", flush=True)
                for fault in report.faults:
                    print(f"{name}: {fault}", file=sys.stderr)
                faults += len(report.faults)
            for fault in wrong.result():
                print(fault, file=sys.stderr)
                faults += 1
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
