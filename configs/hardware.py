"""Machines that a published schedule is moved to: mesh, compute dtype, data workers, global batch.

The published global batch stays where it divides the devices. Where it does not, the batch becomes
the smallest multiple of the devices above it, and by the same factor the learning rate grows (the
linear rule), the steps, the warm-up and every other count of steps shrink, and the EMA decay is
taken to that power: the run sees as many examples, and the EMA looks back over as many. The linear
rule is meant for small factors; what ``nano`` makes of a pod is a test of the pod, not a recipe.
"""

from __future__ import annotations

import dataclasses
import math

import ml_collections

UTILISATION = 0.4
"""Share of the peak that ``hours`` counts on; an estimate, not a measurement."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A machine as jax sees it.

    Attributes:
        data: data-parallel mesh axis.
        fsdp: axis over which parameters and optimizer states are split as well.
        peak: dense bfloat16 TFLOP/s of one device.
        hosts: machines, each one process of ``devices / hosts`` devices.
        workers: data workers of a process; each makes some 37 examples a second (data/README.md).
        fits: examples of ``base`` that one device takes at a time, an estimate from its memory;
            0: what the batch leaves it is little enough.
    """

    data: int
    fsdp: int
    peak: float
    hosts: int
    workers: int
    fits: int = 0

    @property
    def devices(self) -> int:
        """Number of jax devices."""
        return self.data * self.fsdp


HARDWARE = {
    # Plain data parallelism everywhere: the state is below 2 GB, see docs/scaling.md. A v5e chip's
    # 16 GB hold three examples of the generator.
    "v5e-8": Hardware(data=8, fsdp=1, peak=197, hosts=1, workers=24, fits=2),
    # Cloud TPU counts v5p in TensorCores: v5p-128 is 64 chips, which jax shows as 64 devices, on 16
    # hosts of 4.
    "v5p-128": Hardware(data=64, fsdp=1, peak=459, hosts=16, workers=24),
    "h100x8": Hardware(data=8, fsdp=1, peak=989, hosts=1, workers=96),
    "h100x1": Hardware(data=1, fsdp=1, peak=989, hosts=1, workers=14, fits=16),
}


def find(name: str) -> Hardware:
    """The machine of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in HARDWARE:
        raise ValueError(f"hardware: expected one of {', '.join(HARDWARE)}, found {name!r}")
    return HARDWARE[name]


def apply(config: ml_collections.ConfigDict, name: str) -> float:
    """Moves a stage's config to a machine, in place; "" changes nothing.

    Returns:
        The factor by which the global batch has grown, at least 1.

    Raises:
        ValueError: unknown name.
    """
    if not name:
        return 1.0
    machine = find(name)
    config.dtype = "bfloat16"
    config.mesh.update(data=machine.data, fsdp=machine.fsdp, tensor=1)
    config.data.workers = machine.workers
    stage, optimizer = config.stage, config.stage.optimizer
    batch = math.ceil(stage.batch / machine.devices) * machine.devices
    factor = batch / stage.batch
    stage.batch = batch
    stage.steps = fewer(stage.steps, factor)
    stage.ema **= factor
    optimizer.warmup = fewer(optimizer.warmup, factor)
    optimizer.learning_rate *= factor
    optimizer.final_learning_rate *= factor
    return factor


def fewer(steps: int, factor: float) -> int:
    """Steps of a batch that is ``factor`` times as large, for as many examples; 0 stays 0."""
    return max(1, round(steps / factor)) if steps else 0


def parts(name: str, batch: int, weight: float = 1.0) -> int:
    """Parts of a global batch that fit a machine's devices one after the other.

    Args:
        weight: memory of an example, in examples of a token stage.
    """
    machine = find(name)
    if not machine.fits:
        return 1
    share = batch // machine.devices
    wanted = min(share, math.ceil(share * weight / machine.fits))
    return next(n for n in range(max(1, wanted), share + 1) if share % n == 0)


def hours(name: str, gflop: float, examples: float) -> float:
    """Estimated time of a stage: ``gflop`` an example at 40 % of the devices' peak.

    Nothing but arithmetic is counted: no compilation, evaluation, checkpoint or wait for data.
    """
    machine = find(name)
    return examples * gflop / (machine.devices * machine.peak * 1e3 * UTILISATION) / 3600
