"""What a device can do at most, and how near a program comes to it.

A peak is that of dense bfloat16 products by the maker's data sheet, whatever dtype a program
computes in, so that shares of it compare across dtypes; float32 products have at most half of it on
a GPU (TF32, which JAX takes there unless told otherwise). Beside it a large matrix product is
measured in the same run and dtype, which is what the device gives where a data sheet is far away,
and all that there is on a CPU.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maskgit_sr.training import watch

BANDWIDTH = {
    "H200": 4.8e12,
    "H100": 3.35e12,
    "A100-SXM4-40GB": 1.555e12,
    "A100-PCIE-40GB": 1.555e12,
    "A100": 2.0e12,
    "V100": 0.9e12,
    "TPU v6": 1.64e12,
    "TPU v5p": 2.765e12,
    "TPU v5 lite": 0.819e12,
    "TPU v5e": 0.819e12,
    "TPU v5": 2.765e12,
    "TPU v4": 1.2e12,
}
"""Bytes a second of a device's memory, by a part of its ``device_kind``, of which the first that
fits counts; from the makers' data sheets."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a device can do at most.

    Attributes:
        kind: JAX's ``device_kind``.
        platform: ``cpu``, ``gpu`` or ``tpu``.
        peak: FLOP/s of dense bfloat16 products, or None where it is not known.
        bandwidth: bytes a second of its memory, or None.
        matmul: FLOP/s of a large matrix product measured here, by dtype.
    """

    kind: str
    platform: str
    peak: float | None
    bandwidth: float | None
    matmul: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def shares(self, flops: float, seconds: float, dtype: str) -> dict[str, float]:
        """TFLOP/s and, where they are known, its shares of the peak and of the matrix product."""
        rate = flops / seconds
        found = {"tflops": rate / 1e12}
        if self.peak is not None:
            found["mfu"] = rate / self.peak
        if dtype in self.matmul:
            found["of_matmul"] = rate / self.matmul[dtype]
        return found

    def floor(self, flops: float, moved: float, dtype: str) -> float | None:
        """Seconds below which no program comes: max(FLOPs / peak, bytes / bandwidth).

        Where no peak is known the measured matrix product stands for it; without a bandwidth the
        FLOPs decide alone. None: neither is known.
        """
        peak = self.peak or self.matmul.get(dtype)
        found = [flops / peak] if peak else []
        found += [moved / self.bandwidth] if self.bandwidth else []
        return max(found, default=None)

    def describe(self) -> str:
        """One line for the head of a table."""
        parts = [self.kind]
        if self.peak is not None:
            parts.append(f"peak {self.peak / 1e12:.0f} TFLOP/s in bfloat16")
        if self.bandwidth is not None:
            parts.append(f"{self.bandwidth / 1e12:.2f} TB/s")
        parts += [
            f"matrix product {rate / 1e12:.3g} TFLOP/s in {dtype}"
            for dtype, rate in self.matmul.items()
        ]
        return ", ".join(parts)


def limits(dtypes: Sequence[str], repeats: int = 5, side: int | None = None) -> Limits:
    """Of the first device, with a product of matrices [side, side] measured in each dtype."""
    device = jax.devices()[0]
    peak = watch.of_kind(watch.PEAK_TFLOPS, device.device_kind)
    bandwidth = watch.of_kind(BANDWIDTH, device.device_kind)
    side = side or (2048 if device.platform == "cpu" else 8192)
    rates = {dtype: _matmul(side, dtype, repeats) for dtype in dict.fromkeys(dtypes)}
    peak = None if peak is None else peak * 1e12
    return Limits(device.device_kind, device.platform, peak, bandwidth, rates)


def _matmul(side: int, dtype: str, repeats: int) -> float:
    left, right = jax.random.normal(jax.random.key(0), (2, side, side), jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / seconds(lambda: product(left, right), repeats)


def seconds(call: Callable[[], Any], repeats: int, least: float = 0.02) -> float:
    """Median seconds of a call whose results stay on the device, after one that compiles.

    A call shorter than ``least`` seconds is started as often as fills them and waited for once, so
    that what the host takes to start one is not measured where the device is busy meanwhile.
    """
    jax.block_until_ready(call())

    def measured(many: int) -> float:
        began = time.perf_counter()
        for _ in range(many):
            last = call()
        jax.block_until_ready(last)
        return (time.perf_counter() - began) / many

    once = measured(1)
    many = max(1, math.ceil(least / once))
    taken = [once] if many == 1 else []
    while len(taken) < repeats:
        taken.append(measured(many))
    return statistics.median(taken)


def moved_bytes(compiled: jax.stages.Compiled) -> float:
    """Bytes accessed by XLA's own analysis, after fusion; bodies of loops count once."""
    return float((compiled.cost_analysis() or {}).get("bytes accessed", 0.0))
