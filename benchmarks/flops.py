"""Cost of a traced program: its matrix products and convolutions, loops counted as often as run.

XLA's own cost analysis counts the body of a loop once, which hides most of a decoding loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend import core


def count(jaxpr: core.Jaxpr) -> float:
    """FLOPs (a multiplication and an addition are two) of one run; of branches, the dearest."""
    return float(cost(jaxpr)[0])


def cost(jaxpr: core.Jaxpr) -> np.ndarray:
    """Returns [FLOPs, bytes] of one run; of branches, the dearest.

    Bytes: operands and results of products and what reductions read, which is what memory moves
    where everything between them is fused.
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
