"""The one place that splits Flax NNX modules into parameters and merges them again.

Everything outside ``models`` reaches a network as (parameters, apply): parameters are a nested
dict with string keys, which is what bundles, checkpoints, sharding rules and optimizers see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
from flax import nnx

from maskgit_sr.arrays import Params

M = TypeVar("M", bound=nnx.Module)


class Network(Generic[M]):
    """A module's structure without its weights.

    Building one allocates nothing: the module is made under ``eval_shape``.
    """

    def __init__(self, build: Callable[[nnx.Rngs], M]):
        self._build = build
        module = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        self._graph, state = nnx.split(module)
        self._state = state
        self.shapes: Params = _nest(
            {
                path: jax.ShapeDtypeStruct(leaf.get_value().shape, leaf.get_value().dtype)
                for path, leaf in _leaves(state)
            }
        )

    def init(self, key: jax.Array) -> Params:
        """Returns fresh parameters, a pure function of ``key``; jit it with out_shardings."""
        module = self._build(nnx.Rngs(key))
        return _nest({path: leaf.get_value() for path, leaf in _leaves(nnx.state(module))})

    def bind(self, params: Params) -> M:
        """Returns the module holding ``params``; use it inside a traced function.

        Raises:
            KeyError: a parameter of the module is missing from ``params``.
        """
        flat = []
        for path, variable in _leaves(self._state):
            node: Any = params
            for part in path:
                node = node[str(part)]
            flat.append((path, variable.replace(node)))
        return nnx.merge(self._graph, nnx.from_flat_state(flat))

    def apply(self, params: Params, call: Callable[[M], Any]) -> Any:
        """Returns ``call(module)`` with the module holding ``params``."""
        return call(self.bind(params))


def _leaves(state: nnx.State) -> list[tuple[tuple[Any, ...], Any]]:
    return list(nnx.to_flat_state(state))


def _nest(flat: dict[tuple[Any, ...], Any]) -> Params:
    tree: Params = {}
    for path, leaf in flat.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(str(part), {})
        node[str(path[-1])] = leaf
    return tree


def flatten(tree: Params, prefix: str = "") -> dict[str, Any]:
    """Returns a nested dict as {"a/b/c": leaf}, in key order."""
    flat: dict[str, Any] = {}
    for name in sorted(tree):
        path = f"{prefix}/{name}" if prefix else name
        leaf = tree[name]
        flat.update(flatten(leaf, path) if isinstance(leaf, dict) else {path: leaf})
    return flat


def unflatten(flat: dict[str, Any]) -> Params:
    """Returns the nested dict that :func:`flatten` was given."""
    return _nest({tuple(path.split("/")): leaf for path, leaf in flat.items()})


def count(tree: Params) -> int:
    """Returns the number of scalars in a parameter tree of arrays or shapes."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = 1
        for side in leaf.shape:
            size *= side
        total += size
    return total
