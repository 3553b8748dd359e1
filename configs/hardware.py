"""Machines that a published schedule can be moved to: mesh, compute dtype, data workers, batch.

The published global batch stays if the devices divide it. Otherwise it becomes the next multiple
of the devices, and by the same factor the learning rate grows (the linear scaling rule), the steps,
the warm-up and every other count of steps shrink, and the EMA decay is raised to that power: the
run sees as many examples, and the EMA averages over as many. The linear rule is meant for small
factors; ``nano`` on a pod is a test of the pod, not a recipe.
"""

from __future__ import annotations

import dataclasses
import math

import ml_collections


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A machine as JAX sees it.

    Attributes:
        data: size of the data-parallel mesh axis.
        fsdp: size of the axis over which parameters and optimizer state are sharded as well.
        peak: dense bfloat16 TFLOP/s of one device.
        hosts: number of hosts, each one process with ``devices / hosts`` devices.
        workers: data workers of a process; each makes some 37 examples a second (data/README.md).
    """

    data: int
    fsdp: int
    peak: float
    hosts: int
    workers: int

    @property
    def devices(self) -> int:
        """Number of JAX devices."""
        return self.data * self.fsdp


HARDWARE = {
    # Workers: enough for every stage of base at 40 % of the peak, at 37 examples/s each.
    # Plain data parallelism everywhere: the state is below 2 GB, see docs/scaling.md.
    "v5e-8": Hardware(data=8, fsdp=1, peak=197, hosts=1, workers=24),
    # Cloud TPU counts v5p in TensorCores: v5p-128 is 64 chips, which jax shows as 64 devices, on 16
    # hosts of 4.
    "v5p-128": Hardware(data=64, fsdp=1, peak=459, hosts=16, workers=24),
    "h100x8": Hardware(data=8, fsdp=1, peak=989, hosts=1, workers=96),
    "h100x1": Hardware(data=1, fsdp=1, peak=989, hosts=1, workers=14),
}


def find(name: str) -> Hardware:
    """Returns the machine called ``name``.

    Raises:
        ValueError: unknown name.
    """
    if name not in HARDWARE:
        raise ValueError(f"hardware: expected one of {', '.join(HARDWARE)}, found {name!r}")
    return HARDWARE[name]


def apply(config: ml_collections.ConfigDict, name: str) -> None:
    """Moves a config and all its stages to a machine, in place; "" changes nothing.

    Raises:
        ValueError: unknown name.
    """
    if not name:
        return
    machine = find(name)
    config.dtype = "bfloat16"
    config.mesh.update(data=machine.data, fsdp=machine.fsdp, tensor=1)
    config.data.workers = machine.workers
    start = config.losses.get("adversarial_start", 0)
    for stage in config.stages.values():
        optimizer = stage.optimizer
        batch = math.ceil(stage.batch / machine.devices) * machine.devices
        factor = batch / stage.batch
        stage.batch = batch
        stage.steps = fewer(stage.steps, factor)
        stage.ema **= factor
        optimizer.warmup = fewer(optimizer.warmup, factor)
        optimizer.learning_rate *= factor
        optimizer.final_learning_rate *= factor
        if start and factor != 1:
            stage.losses = ml_collections.ConfigDict({"adversarial_start": fewer(start, factor)})


def fewer(steps: int, factor: float) -> int:
    """Returns the steps that see as many examples at ``factor`` times the batch; 0 stays 0."""
    return max(1, round(steps / factor)) if steps else 0


def microbatches(batch: int, devices: int, fits: float) -> int:
    """Returns the fewest equal microbatches that give each device at most ``fits`` examples.

    Args:
        batch: global batch, a multiple of ``devices``.
    """
    share = batch // devices
    wanted = min(share, math.ceil(share / fits))
    return next(n for n in range(max(1, wanted), share + 1) if share % n == 0)
