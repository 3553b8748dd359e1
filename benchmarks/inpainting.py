"""Time of SR-MaskGIT's inpainting of one window: 16 passes, 256 passes, and the public loop.

    python -m benchmarks.inpainting --reference CHECKOUT [--depth 4] [--dim 128] [--grid 32]

CHECKOUT is one of google-research/maskgit. Weights are random and the same for all. The public
loop decodes one cell of 4×4 tokens after another, in four passes each; each cell's call is compiled
once here, which the published notebook does not do. All rows are of one process, compilation
excluded, and take turns; the least of three times is printed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.arrays import Keys, Params, Tokens
from maskgit_sr.errors import one_line
from maskgit_sr.methods.sr_maskgit import Inpainting, InpaintingConfig
from maskgit_sr.models.maskgit_transformer import MaskGITTransformerConfig
from maskgit_sr.ops.cells import rounds


def ours(method: Inpainting, params: Params, order: str) -> Callable[[Tokens, Keys], Any]:
    """Returns the jitted inpainting of all cells."""
    options = method.options(order=order)
    return jax.jit(lambda tokens, keys: method.inpaint(params, tokens, keys, options)[0])


def public(method: Inpainting, params: Params, checkout: str) -> Callable[[Tokens, Keys], Any]:
    """Returns the public loop over the same network, cell by cell as in the notebook."""
    sys.path.insert(0, checkout)
    jnp.DeviceArray = jax.Array  # type: ignore[attr-defined]  # a name that it asks for
    loop = importlib.import_module("maskgit.libml.parallel_decode")

    @jax.jit
    def cell(tokens: Tokens, key: jax.Array) -> jax.Array:
        found: jax.Array = loop.decode(
            tokens,
            key,
            lambda rows: method.logits(params, rows),
            mask_token_id=method.mask,
            num_iter=12,
            start_iter=8,
            choice_temperature=4.5,
        )
        return found[:, -1]

    def run(tokens: Tokens, keys: Keys) -> jax.Array:
        for (places,) in rounds("raster", method.grid, 4):
            tokens = cell(tokens.at[:, places].set(method.mask), keys[0])
        return tokens

    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table; a user's mistake is one line and code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", help="checkout of google-research/maskgit")
    for name, default in (("depth", 4), ("dim", 128), ("grid", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args(argv)
    with one_line("benchmarks.inpainting", {ValueError: 2}):
        transformer = MaskGITTransformerConfig(
            positions=given.grid**2 + 1,
            dim=given.dim,
            depth=given.depth,
            heads=max(1, given.dim // 48),
            inner=4 * given.dim,
        )
        method = Inpainting(InpaintingConfig(transformer=transformer, class_token=False))
        params = {"transformer": method.transformer.init(jax.random.key(0))}
        runs = {order: ours(method, params, order) for order in ("shift", "raster")}
        if given.reference:
            runs["public"] = public(method, params, given.reference)
        tokens = jnp.asarray(np.random.default_rng(0).integers(1024, size=(1, method.grid**2)))
        keys = jax.random.split(jax.random.key(1), 1)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(4):  # the first compiles
            for name, run in runs.items():
                start = time.perf_counter()
                jax.block_until_ready(run(tokens.astype(jnp.int32), keys))
                times[name] += [time.perf_counter() - start] if turn else []
        print("| order | s a window | times shift |\n|---|--:|--:|")
        least = {name: min(found) for name, found in times.items()}
        for name, seconds in least.items():
            print(f"| {name} | {seconds:.3f} | {seconds / least['shift']:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
