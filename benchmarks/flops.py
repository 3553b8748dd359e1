"""FLOPs of a traced program: its matrix products and convolutions, loops counted as often as run.

XLA's own cost analysis counts the body of a loop once, which hides most of a decoding loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def count(jaxpr: core.Jaxpr) -> float:
    """FLOPs (a multiplication and an addition are two) of one run; of branches, the dearest."""
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            left, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
            total += 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, out = _shape(equation.invars[1]), _shape(equation.outvars[0])
            spec = equation.params["dimension_numbers"].rhs_spec  # output features, input, space
            products = math.prod(kernel[axis] for axis in spec[1:])
            spread = math.prod(equation.params["lhs_dilation"])  # zeros in between are no work
            total += 2 * math.prod(out) * products / spread
        elif name == "cond":
            total += max(count(branch.jaxpr) for branch in equation.params["branches"])
        else:
            times = equation.params.get("length", 1) if name == "scan" else 1
            total += times * sum(map(count, _inner(equation.params)))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
