"""From a compiled case to a prediction: devices, step time, memory, efficiency and cost.

A step takes as long as its products or its memory traffic, whichever is longer, and what of the
communication nothing hides. None of this is a measurement: `benchmarks.scaling_report` prints it
next to what was compiled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from benchmarks.scaling_hlo import wire_bytes


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator, by its maker's data sheet.

    Attributes:
        peak: dense bfloat16 FLOP/s.
        memory, bandwidth: bytes and bytes a second of its HBM.
        link: bytes a second that it can send to its neighbours, all links, one direction.
        price: dollars an hour, an assumption.
        slower: how many times longer a product takes in other precisions than bfloat16.
        source: where the figures are from.
    """

    name: str
    peak: float
    memory: float
    bandwidth: float
    link: float
    price: float
    slower: Mapping[str, float]
    source: str


_TPU = {"f32": 1.0, "f32_highest": 6.0}  # passes of bfloat16 products that XLA makes of one
DEVICES = {
    device.name: device
    for device in (
        Device(
            "h100", 989e12, 80e9, 3.35e12, 900e9 / 2, 3.0,
            {"f32": 989 / 494.5, "f32_highest": 989 / 67},  # TF32, FP32 outside tensor cores
            "NVIDIA H100 SXM data sheet, dense; NVLink 900 GB/s counts both directions",
        ),
        Device(
            "v5e", 197e12, 16e9, 819e9, 1600e9 / 8, 1.2, _TPU,
            "Google Cloud TPU v5e system page; ICI 1600 Gbit/s a chip",
        ),
        Device(
            "v5p", 459e12, 95e9, 2765e9, 4800e9 / 8, 4.2, _TPU,
            "Google Cloud TPU v5p system page; ICI 4800 Gbit/s a chip",
        ),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What no program says: reached share of the peak, hidden share of communication, prices."""

    mfu: float = 0.4
    overlap: float = 0.5
    prices: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def price(self, device: Device) -> float:
        return self.prices.get(device.name, device.price)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of one step and their parts."""

    compute: float
    memory: float
    communication: float
    exposed: float

    @property
    def step(self) -> float:
        return max(self.compute, self.memory) + self.exposed

    @property
    def bound(self) -> str:
        """What a step mostly waits for."""
        if self.exposed > max(self.compute, self.memory):
            return "links"
        return "products" if self.compute >= self.memory else "memory"


def key(case: Mapping[str, Any]) -> str:
    """The name of a case in a file of records."""
    return json.dumps(case, sort_keys=True)


def devices_of(case: Mapping[str, Any]) -> int:
    """How many devices the mesh of a case has."""
    return case.get("data", 1) * case.get("fsdp", 1) * case.get("tensor", 1)


def examples(case: Mapping[str, Any]) -> float:
    """Examples of the batch on each device; devices along ``tensor`` share theirs."""
    return case["batch"] / (case.get("data", 1) * case.get("fsdp", 1))


def predict(
    cost: Mapping[str, Any], update: float, device: Device, assumed: Assumptions
) -> Prediction:
    """Step time of a partitioned program; ``update``: bytes that the optimizer moves besides."""
    work = sum(flops * device.slower.get(kind, 1.0) for kind, flops in cost["flops"].items())
    compute = work / (device.peak * assumed.mfu)
    memory = (cost["bytes"] + update) / device.bandwidth
    communication = sum(cost["wire"].values()) / device.link
    # nothing is hidden that lasts longer than what it hides behind
    hidden = min(assumed.overlap * communication, max(compute, memory))
    return Prediction(compute, memory, communication, communication - hidden)


def resident_bytes(record: Mapping[str, Any]) -> float:
    """Bytes a device holds whatever the batch: state, frozen groups and gradients."""
    return record["state_bytes"] + record["frozen_bytes"] + record["gradient_bytes"]


def needed_bytes(
    case: Mapping[str, Any], record: Mapping[str, Any], activations: Mapping[str, float]
) -> float:
    """Bytes a device needs at the top of the step; phases come one after the other."""
    return resident_bytes(record) + examples(case) * max(activations.values())


def largest_batch(
    record: Mapping[str, Any], activations: Mapping[str, float], device: Device
) -> int:
    """Examples a device has room for, nine tenths of its memory being the step's."""
    free = 0.9 * device.memory - resident_bytes(record)
    return max(0, int(free / max(activations.values())))


def data_parallel_wire(gradients: float, n: int) -> float:
    """Bytes a device sends to sum ``gradients`` bytes over ``n`` devices, a ring's all-reduce."""
    return wire_bytes("all-reduce", int(gradients), n)


def split_wire(gradients: float, frozen: float, data: int, fsdp: int) -> float:
    """The same with parameters split over ``fsdp`` of the devices.

    Parameters are gathered in both passes, gradients reduced and scattered, and what is left of
    them summed over ``data``. Frozen groups are gathered once. All in the gradients' dtypes.
    """
    gathered = 2 * wire_bytes("all-gather", int(gradients), fsdp)
    frozen_gathered = wire_bytes("all-gather", int(frozen), fsdp)
    scattered = wire_bytes("reduce-scatter", int(gradients / fsdp), fsdp)
    return gathered + frozen_gathered + scattered + data_parallel_wire(gradients / fsdp, data)


def formula_wire(case: Mapping[str, Any], single: Mapping[str, Any]) -> float:
    """Bytes a device sends by formula, ``single`` being the record of one device."""
    gradients, fsdp = single["gradient_wire_bytes"], case.get("fsdp", 1)
    if fsdp == 1:
        return data_parallel_wire(gradients, devices_of(case))
    frozen = single["frozen_wire_bytes"]
    return split_wire(gradients, frozen, case.get("data", 1), fsdp)


def analytic(
    case: Mapping[str, Any], single: Mapping[str, Any], batch: int
) -> dict[str, Any] | None:
    """A record for a case that was not compiled, from that of one device and ``batch`` examples.

    Work is split evenly over the batch and communication is the formula's. None for tensor
    meshes, whose partition no formula of this file describes.
    """
    if case.get("tensor", 1) > 1:
        return None
    share = case["batch"] / batch / devices_of(case)
    kind = "all-gather, reduce-scatter" if case.get("fsdp", 1) > 1 else "all-reduce"
    cost = {
        "flops": {kind: share * flops for kind, flops in single["cost"]["flops"].items()},
        "bytes": share * single["cost"]["bytes"],
        "wire": {kind: formula_wire(case, single)},
        "collectives": 0,
        "unknown_loops": 0,
    }
    kept = ("parameters", "gradient_wire_bytes")
    record: dict[str, Any] = {name: single[name] for name in kept} | {"cost": cost}
    for name in ("state_bytes", "frozen_bytes", "gradient_bytes", "update_bytes"):
        record[name] = single[name] / case.get("fsdp", 1)
    return record | {"analytic": True}


def hours(case: Mapping[str, Any], steps: int, batch: int, step: float) -> float:
    """Of a whole stage: as many examples as ``steps`` of ``batch``, at the batch of the case."""
    return steps * batch / case["batch"] * step / 3600


def efficiency(case: Mapping[str, Any], step: float, alone: float) -> float:
    """Examples a second and device over ``alone``, those of one device that had memory enough."""
    return case["batch"] / step / devices_of(case) / alone
