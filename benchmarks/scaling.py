"""Cost of training RealSRT base on the machines of configs/hardware.py, for docs/scaling.md.

    MASKGIT_SR_ASSETS=DIR python -m benchmarks.scaling

prints the tables of that page. Nothing is measured or allocated: FLOPs, bytes and memory are
counted in the traced steps (`benchmarks.steps`), the rest is arithmetic on data sheets. It needs
the files of the perceptual nets, from which their shapes are read, and no accelerator.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp

from benchmarks import roofline, steps
from benchmarks.common import parser, table
from benchmarks.steps import leaves_bytes
from configs import hardware, realsrt
from maskgit_sr.arrays import Execution
from maskgit_sr.models.functional import count
from maskgit_sr.training import watch

UTILISATION = 0.4
"""Assumed share of the peak that products reach; an estimate, not a measurement."""

DEVICES = {  # by the first part of a machine's name: kind, bytes of memory, bytes/s sent
    "h100": ("H100", 80e9, 450e9),  # NVLink's 900 GB/s counts both directions
    "v5e": ("TPU v5e", 16e9, 200e9),  # ICI, all links of a chip
    "v5p": ("TPU v5p", 95e9, 600e9),
}


def rates(machine: str) -> tuple[float, float, float]:
    """Returns (peak FLOP/s, bytes/s of memory, bytes/s sent) of a device of a machine."""
    kind, _, link = next(found for name, found in DEVICES.items() if machine.startswith(name))
    peak, bandwidth = (watch.of_kind(t, kind) for t in (watch.PEAK_TFLOPS, roofline.BANDWIDTH))
    assert peak is not None and bandwidth is not None
    return 1e12 * peak, bandwidth, link


@functools.cache
def step(stage: str, remat: bool = False, size: str = "base") -> steps.Step:
    """Returns the shapes of a published stage's step, computing in bfloat16."""
    return steps.abstract(realsrt.get_config(size), stage, Execution(jnp.bfloat16, remat))


def seconds(machine: str, stage: str, fused: bool = False) -> float:
    """Returns the predicted seconds of a step of base, without communication.

    They are those of the products at ``UTILISATION`` of the peak or of the traffic at the memory's
    bandwidth, whichever takes longer.

    Args:
        fused: True to count products alone, as if memory were never waited for.
    """
    made, (peak, bandwidth, _) = step(stage), rates(machine)
    batch = realsrt.get_config(f"base,hardware={machine}").stages[stage].batch
    flops, moved = batch / hardware.find(machine).devices * made.cost
    # Read and written whole at every step, and the gradients read, whatever the batch.
    optimizer = 2 * leaves_bytes(made.state) + leaves_bytes(made.state.params)
    memory = 0.0 if fused else (moved + optimizer) / bandwidth
    return max(flops / (UTILISATION * peak), memory)


def hours(machine: str, fused: bool = False) -> list[float]:
    """Returns the predicted hours of each stage of base, then of all, at the config's batches."""
    stages = realsrt.get_config(f"base,hardware={machine}").stages
    found = [stages[s].steps * seconds(machine, s, fused) / 3600 for s in realsrt.STAGES]
    return [*found, sum(found)]


def fits(stage: str, memory: float, remat: bool) -> int:
    """Returns how many examples of base fit into ``memory`` bytes, a tenth of it left free."""
    made = step(stage, remat)
    trees = (made.state, made.frozen, made.state.params)  # the last: gradients
    return max(0, int((0.9 * memory - sum(map(leaves_bytes, trees))) / made.kept_bytes))


def report() -> str:
    """Returns all tables as Markdown."""
    published = realsrt.get_config("base").stages
    sheets, stages, room, time, wire = [], [], [], [], []
    for name, (kind, memory, link) in DEVICES.items():
        peak, bandwidth, _ = rates(name)
        numbers: Sequence[float] = (peak / 1e12, memory / 1e9, bandwidth / 1e9, link / 1e9)
        sheets.append((kind, *(f"{x:,.0f}" for x in numbers)))
    for name in realsrt.STAGES:
        made, whole = step(name), step(name, remat=True)
        schedule = f"{published[name].steps:,} × {published[name].batch}"
        trained, (flops, moved) = count(made.state.params), made.cost
        megabytes = [leaves_bytes(tree) / 1e6 for tree in (made.state, made.frozen)]
        numbers = (trained / 1e6, flops / 1e9, moved / 1e9, *megabytes)
        stages.append((name, schedule, *(f"{x:,.3g}" if x < 100 else f"{x:,.0f}" for x in numbers)))
        kept = (f"{x.kept_bytes / 1e6:,.0f}" for x in (made, whole))
        cells = (f"{fits(name, d[1], False)}, {fits(name, d[1], True)}" for d in DEVICES.values())
        room.append((name, *kept, *cells))
    for machine in hardware.HARDWARE:
        spent, n = hours(machine), hardware.find(machine).devices
        numbers = (*spent, spent[-1] * n, hours(machine, fused=True)[-1])
        time.append((machine, n, *(f"{x:.1f}" for x in numbers)))
        sent = 2 * (n - 1) / n * leaves_bytes(step("generator").state.params)  # a ring's all-reduce
        both = (sent / rates(machine)[2], seconds(machine, "generator"))
        wire.append((machine, f"{sent / 1e6:.0f}", *(f"{1e3 * x:.1f}" for x in both)))
    holds = "|".join(f"{kind} holds, with remat" for kind, _, _ in DEVICES.values())
    parts = {
        "Devices": table("device|bf16 TFLOP/s|memory GB|GB/s|links GB/s, one way", sheets),
        "Stages": table("stage|steps × batch|trained M|GFLOP|GB moved|state MB|frozen MB", stages),
        "Memory": table(f"stage|kept MB an example|with remat|{holds}", room),
        "Hours": table(
            f"hardware|devices|{'|'.join(realsrt.STAGES)}|all|device hours|products alone", time
        ),
        "Communication": table("hardware|MB sent a step|ms|step ms", wire),
    }
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts.items())


if __name__ == "__main__":
    parser(__doc__).parse_args()
    print(report())
