"""Flax NNX modules as parameters and pure functions.

Everything outside ``models`` reaches a network as (parameters, apply): parameters are a nested
dict with string keys, which is what bundles, checkpoints, sharding rules and optimizers see.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from maskgit_sr.arrays import Params

M = TypeVar("M", bound=nnx.Module)


class _Keys:
    """The keys of `nnx.Rngs(key)`, counted in Python.

    nnx counts in an array. Under a trace each of its updates looks through all operations so far,
    which makes building a network quadratic in its arrays: a large one took 18 s, and takes 2.
    """

    def __init__(self, key: jax.Array):
        self.key, self.count = key, 0

    def params(self) -> jax.Array:
        key = jax.random.fold_in(self.key, np.uint32(self.count))
        self.count += 1
        return key


class Network(Generic[M]):
    """A module's structure without its weights.

    Building one allocates nothing: the module is made under ``eval_shape``.
    """

    def __init__(self, build: Callable[[nnx.Rngs], M]):
        self._build = build
        # Any seed will do: under eval_shape no number is drawn.
        module = nnx.eval_shape(lambda: self._make(jax.random.key(0)))
        self._graph, state = nnx.split(module)
        self._state = state
        leaves = {path: leaf.get_value() for path, leaf in nnx.to_flat_state(state)}
        self.shapes: Params = _nest(
            {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
        )

    def _make(self, key: jax.Array) -> M:
        return self._build(cast(nnx.Rngs, _Keys(key)))

    def init(self, key: jax.Array) -> Params:
        """Returns fresh parameters, a pure function of ``key``; jit it with out_shardings."""
        module = self._make(key)
        state = nnx.to_flat_state(nnx.state(module))
        return _nest({path: leaf.get_value() for path, leaf in state})

    def bind(self, params: Params) -> M:
        """Returns the module holding ``params``; use it inside a traced function.

        Raises:
            KeyError: a parameter of the module is missing from ``params``.
        """
        flat = []
        for path, variable in nnx.to_flat_state(self._state):
            leaf = functools.reduce(lambda node, part: node[str(part)], path, params)
            flat.append((path, variable.replace(leaf)))
        return nnx.merge(self._graph, nnx.from_flat_state(flat))

    def apply(self, params: Params, call: Callable[[M], Any]) -> Any:
        """Returns ``call(module)`` with the module holding ``params``."""
        return call(self.bind(params))


def _nest(flat: dict[tuple[Any, ...], Any]) -> Params:
    # Layers in an nnx.List have integer keys; files, checkpoints and sharding rules need strings.
    tree: Params = unflatten_dict({tuple(map(str, path)): leaf for path, leaf in flat.items()})
    return tree


def flatten(tree: Params) -> dict[str, Any]:
    """Returns a nested dict as {"a/b/c": leaf}, in key order."""
    flat = flatten_dict(tree)
    # Sorted, because the order of a dict depends on who built it.
    return {"/".join(path): flat[path] for path in sorted(flat)}


def unflatten(flat: dict[str, Any]) -> Params:
    """Returns the nested dict that :func:`flatten` was given."""
    tree: Params = unflatten_dict(flat, sep="/")
    return tree


def count(tree: Params) -> int:
    """Returns the number of scalars in a parameter tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
