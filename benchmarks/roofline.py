"""Roofline of a device, and the FLOPs and bytes of a program to set beside it.

The peak is that of dense bfloat16 products in the data sheet, whatever dtype a program computes in,
so that shares of it compare across dtypes; float32 products reach at most half of it on a GPU (as
TF32, JAX's default there). A large matrix product is measured in the same run and dtype as well: it
shows what the device really reaches, and is the only limit known of a CPU.

A program's FLOPs are counted in its trace: matrix products and convolutions, loops as often as they
run. XLA's own cost analysis counts the body of a loop once, which hides most of a decoding loop.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from benchmarks.common import seconds
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
"""Bytes/s of a device's memory, from data sheets, by a substring of its ``device_kind``; the first
match counts."""


HEAD = "TFLOP/s|MFU|of matmul|GFLOP|GB|FLOP/byte|floor ms|floor / ms"
"""Columns of :meth:`Limits.cells`."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a device.

    Attributes:
        kind: JAX's ``device_kind``.
        platform: ``cpu``, ``gpu`` or ``tpu``.
        peak: FLOP/s of dense bfloat16 products, or None if unknown.
        bandwidth: bytes/s of its memory, or None if unknown.
        matmul: measured FLOP/s of a large matrix product, by dtype.
    """

    kind: str
    platform: str
    peak: float | None
    bandwidth: float | None
    matmul: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def floor(self, cost: np.ndarray, dtype: str) -> float | None:
        """Returns the least seconds of a program: max(FLOPs / peak, bytes / bandwidth).

        The measured matrix product replaces an unknown peak; without a bandwidth the FLOPs decide
        alone. None: neither is known.
        """
        rates = (self.peak or self.matmul.get(dtype), self.bandwidth)
        return max((x / rate for x, rate in zip(cost, rates, strict=True) if rate), default=None)

    def cells(self, cost: np.ndarray, taken: float, dtype: str) -> tuple[str | None, ...]:
        """Returns the cells of HEAD for a ``cost`` [FLOPs, bytes] in ``taken`` seconds."""
        (flops, moved), floor = cost, self.floor(cost, dtype)
        peaks = (self.peak, self.matmul.get(dtype))
        return (
            f"{flops / taken / 1e12:.3g}",
            *(f"{flops / taken / peak:.1%}" if peak else None for peak in peaks),
            f"{flops / 1e9:.4g}",
            f"{moved / 1e9:.3g}",
            f"{flops / moved:.0f}" if moved else None,
            None if floor is None else f"{1e3 * floor:.3g}",
            None if floor is None else f"{floor / taken:.0%}",
        )

    def describe(self) -> str:
        """Returns one line on the limits, for the head of a table."""
        parts = [self.kind]
        if self.peak is not None:
            parts.append(f"peak {self.peak / 1e12:.0f} TFLOP/s in bfloat16")
        if self.bandwidth is not None:
            parts.append(f"{self.bandwidth / 1e12:.2f} TB/s")
        rates = (f"{rate / 1e12:.3g} TFLOP/s in {dtype}" for dtype, rate in self.matmul.items())
        return ", ".join([*parts, *(f"matrix product {rate}" for rate in rates)])


def limits(dtypes: Sequence[str], repeats: int = 5, side: int | None = None) -> Limits:
    """Returns the first device's limits, with matrix products [side, side] measured by dtype."""
    device = jax.devices()[0]
    side = side or (2048 if device.platform == "cpu" else 8192)
    product = jax.jit(jnp.matmul)
    rates = {}
    for dtype in dict.fromkeys(dtypes):
        pair = jax.random.normal(jax.random.key(0), (2, side, side), jnp.dtype(dtype))
        rates[dtype] = 2 * side**3 / seconds(partial(product, *pair), repeats)
    tera = watch.of_kind(watch.PEAK_TFLOPS, device.device_kind)
    bandwidth = watch.of_kind(BANDWIDTH, device.device_kind)
    peak = None if tera is None else tera * 1e12
    return Limits(device.device_kind, device.platform, peak, bandwidth, rates)


def random_params(shapes: Any, seed: int = 0) -> Any:
    """Returns random float32 arrays of those shapes, on the device, that keep signals finite.

    Speed does not depend on their values. They are drawn on the host, since compiling the networks'
    own initialisers takes longer than running them.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> jax.Array:
        if leaf.ndim < 2:  # norm scales, and biases, which may be anything
            return jnp.asarray(rng.uniform(0.5, 1.0, leaf.shape), jnp.float32)
        # by fan-in, so that a layer keeps the size of its input
        deviation = np.float32(math.prod(leaf.shape[:-1]) ** -0.5)
        return jnp.asarray(deviation * rng.standard_normal(leaf.shape, np.float32))

    return jax.tree.map(draw, shapes)


def traced(call: Callable[..., Any], *arguments: Any) -> np.ndarray:
    """Returns the :func:`cost` of a call, traced and not run."""
    return cost(jax.make_jaxpr(call)(*arguments).jaxpr)


def cost(jaxpr: core.Jaxpr) -> np.ndarray:
    """Returns [FLOPs, bytes] of one run, with the most expensive branch of a conditional.

    A multiply-add is two FLOPs. Bytes are the operands and results of products and what reductions
    read, which is the memory traffic if everything between them is fused.
    """
    total = np.zeros(2)
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        moved = sum(map(_bytes, (*equation.invars, *equation.outvars)))
        if name == "dot_general":
            ((contracted, _), _) = params["dimension_numbers"]
            left, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
            total += 2 * math.prod(out) * math.prod(left[axis] for axis in contracted), moved
        elif name == "conv_general_dilated":
            kernel, out = _shape(equation.invars[1]), _shape(equation.outvars[0])
            spec = params["dimension_numbers"].rhs_spec  # output features, input, space
            products = math.prod(kernel[axis] for axis in spec[1:])
            spread = math.prod(params["lhs_dilation"])  # zeros in between are no work
            total += 2 * math.prod(out) * products / spread, moved
        elif name.startswith("reduce_"):
            total += 0, sum(map(_bytes, equation.invars))
        elif name == "cond":
            total += max((cost(branch.jaxpr) for branch in params["branches"]), key=tuple)
        else:
            # A fori_loop of static bounds, as decoding has, is a scan in the trace.
            times = params.get("length", 1) if name == "scan" else 1
            total += times * sum(map(cost, _inner(params)), np.zeros(2))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _bytes(variable: Any) -> int:
    return variable.aval.size * getattr(variable.aval.dtype, "itemsize", 0)


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
