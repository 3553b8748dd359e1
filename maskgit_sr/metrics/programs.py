"""Compiled networks of a score, of which those of few image sizes are kept."""

from collections.abc import Callable
from typing import Any

import jax

KEPT = 8  # sizes; a program takes 4 MB (LPIPS) to 20 MB (CLIP-IQA) of memory


def by_size(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the jitted ``function(params, *images)``, which is compiled for every size.

    Sets may have as many sizes as images, so the programs are dropped when there are `KEPT`.
    """
    compiled: Any = jax.jit(function)
    shapes: set[tuple[int, ...]] = set()

    def call(params: Any, *images: Any) -> Any:
        shape = images[0].shape
        if shape not in shapes and len(shapes) == KEPT:
            compiled.clear_cache()
            shapes.clear()
        shapes.add(shape)
        return compiled(params, *images)

    return call
