"""SRMAP: what a trained network does, and its speed beside the public code.

    python -m benchmarks.srmap learned --model srmap-nano --l1 W/l1/groups.safetensors --val SET
    python -m benchmarks.srmap speed --reference CHECKOUT

SET has hr/, and lr/ or nothing. `learned` prints LPIPS, PSNR and the LR-PSNR of bicubic, of the L1
net (where there is one), of the model without its noise and of the model; then the diversity score
and the deviation over seeds. --map gives further nets to compare, such as those of fidelity or the
critic alone. `speed` takes turns, in one process and with the same weights: the published generator
for 48 → 192 pixels, with noise and without. Seconds are of the CPU, over all threads, so that other
programs do not count. CHECKOUT is one of r-mohanty/Super-Rez, and needs PyTorch.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import maskgit_sr
from benchmarks import common
from data.validation import validation_pairs
from maskgit_sr import bundles, metrics
from maskgit_sr.arrays import Image, Params
from maskgit_sr.convert import srmap as conversion
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.methods.srmap import SRMAP
from maskgit_sr.metrics import diversity, lpips
from maskgit_sr.metrics.lr import lr_psnr_ntire
from maskgit_sr.models.functional import flatten
from maskgit_sr.ops.noise import Windows


def windows(val: str, method: SRMAP, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns centre windows of the set, LR [n, S, S, 3] and HR, float32 in [0, 1]."""
    side, scale, found = method.tile.sides[-1], method.scale, []
    for pair in validation_pairs(val, limit, scale):
        if min(pair["lr"].shape[:2]) >= side:
            top, left = ((n - side) // 2 for n in pair["lr"].shape[:2])
            lr = pair["lr"][top : top + side, left : left + side]
            hr = pair["hr"][top * scale :, left * scale :][: side * scale, : side * scale]
            found.append((lr, hr))
    if not found:
        raise UserError(f"--val: expected images of at least {side} LR pixels in {val}")
    lr, hr = (np.stack(part).astype(np.float32) / 255 for part in zip(*found, strict=True))
    return lr, hr


# ---------------------------------------------------------------- what was learned


def learned(
    method: SRMAP, nets: dict[str, Params], lr: np.ndarray, hr: np.ndarray, seeds: int
) -> str:
    """Returns the table of scores of bicubic and every net, and that of the seeds' deviation."""
    distance, spread = lpips.load("alex"), diversity.load()
    high, low = jnp.asarray(hr), jnp.asarray(lr)

    @partial(jax.jit, static_argnames="options")
    def run(params: Params, seed: jax.Array, options: Any) -> Image:
        keys = jax.random.split(jax.random.key(seed), lr.shape[0])
        return jnp.clip(method.restore(params, jnp.asarray(lr), keys, options).image, 0, 1)

    def scores(image: Image) -> list[str]:
        image = jnp.round(255 * image) / 255
        near = [
            f"{np.mean(distance(image, high)):.4f}",
            f"{np.mean(metrics.psnr(image, high)):.2f}",
        ]
        return [*near, f"{np.mean(lr_psnr_ntire(image, high, low)):.2f}"]

    bicubic = jnp.clip(jax.image.resize(jnp.asarray(lr), hr.shape, "cubic", antialias=False), 0, 1)
    rows: list[tuple[object, ...]] = [("bicubic", *scores(bicubic), None, None)]
    for name, params in nets.items():
        silent = run(params, jnp.uint32(0), method.options(noise=0.0))
        rows.append((f"{name}, no noise", *scores(silent), None, None))
        if not any(np.any(np.asarray(x)) for x in jax.tree.leaves(params["noise"])):
            continue
        drawn = np.stack(
            [np.asarray(run(params, jnp.uint32(seed), method.options())) for seed in range(seeds)]
        )
        found = spread(jnp.asarray(drawn.swapaxes(0, 1)), jnp.asarray(hr))
        deviation = 255 * drawn.std(0).mean()
        more = (f"{np.mean(found):.2f}", f"{deviation:.2f}")
        rows.append((name, *scores(jnp.asarray(drawn[0])), *more))
    titles = "net|LPIPS|PSNR|LR-PSNR|diversity|deviation over seeds"
    return common.table(titles, rows)


# ---------------------------------------------------------------- speed


def load_public(checkout: str) -> Any:
    """Returns the public modules of the networks and of the mean shift."""
    source = Path(checkout) / "src"
    if not (source / "model" / "NetworksV2.py").is_file():
        raise UserError(f"--reference: expected a checkout with {source}/model/NetworksV2.py")
    # The package itself imports all that training needs.
    package = types.ModuleType("model")
    package.__path__ = [str(source / "model")]
    sys.modules["model"] = package
    return importlib.import_module("model.NetworksV2"), importlib.import_module("model.common")


def public_generator(checkout: str, method: SRMAP, params: Params) -> Any:
    """Returns the public generator with our weights, a function of PyTorch's images in 0 … 255."""
    import torch

    networks, layers = load_public(checkout)
    shape = method.config.generator
    network = networks.Generator(
        shape.stem, list(shape.features), list(shape.blocks), shape.compression
    )
    flat, scales = flatten(params["generator"]), flatten(params["noise"])
    state = {}
    for name, entry in conversion.entries(method.config).items():
        array = np.asarray(flat[name])
        array = array.transpose(3, 2, 0, 1) if entry.layout == "conv" else array
        state[entry.name] = array.reshape(entry.shape)
    shapes = network.state_dict()
    for name, rows in conversion.scales(method.config).items():
        joined = np.asarray(scales[name]).reshape(len(rows), -1)
        for row, names in zip(joined, rows, strict=True):
            ends = np.cumsum([shapes[n.removeprefix("Main.")].numel() for n in names])
            state |= dict(zip(names, np.split(row, ends[:-1]), strict=True))
    tensors = {
        name.removeprefix("Main."): torch.from_numpy(np.array(array))
        for name, array in state.items()
    }
    network.load_state_dict(network.state_dict() | tensors)
    return torch.nn.Sequential(layers.MeanShift(255), network, layers.MeanShift(255, sign=1)).eval()


def speed(checkout: str, side: int, turns: int) -> str:
    """Returns the table of both generators' CPU seconds for one image."""
    import torch

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    method = SRMAP()
    rng = np.random.default_rng(0)

    def fill(leaf: Any) -> np.ndarray:
        deviation = np.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) == 4 else 0.1
        return rng.normal(0, deviation, leaf.shape).astype(np.float32)

    params: Params = jax.tree.map(fill, method.shapes())
    module = public_generator(checkout, method, params)
    lr = rng.random((1, side, side, 3), np.float32)
    given = torch.from_numpy(np.ascontiguousarray(lr.transpose(0, 3, 1, 2))) * 255
    held = jax.device_put(params)
    keys = jax.random.split(jax.random.key(0), 1)
    rows = []
    for name, noise in (("with noise", 1.0), ("without", 0.0)):
        options = method.options(noise=noise)
        run = jax.jit(
            lambda p, x, o=options: method.restore_windows(p, x, Windows.alone(keys), o).image
        )
        if not noise:
            for layer in module.modules():
                if hasattr(layer, "Scale"):
                    layer.forward = lambda x: x

        def public() -> Any:
            with torch.no_grad():
                return module(given)

        least = [float("inf")] * 2
        calls = (lambda run=run: jax.block_until_ready(run(held, lr)), public)
        for turn in range(turns + 1):  # the first compiles
            for index, call in enumerate(calls):
                taken = common.timed(call).cpu
                least[index] = min(least[index], taken) if turn else least[index]
        if not noise:
            theirs = public().numpy().transpose(0, 2, 3, 1) / 255
            apart = np.abs(np.asarray(run(held, lr)) - theirs).max() / np.abs(theirs).max()
            print(f"largest difference without noise: {apart:.1e} of the largest value")
        rows.append((name, *(f"{value:.2f}" for value in least), f"{least[1] / least[0]:.2f}"))
    return common.table(f"{side} → {4 * side}, {threads} thread(s)|ours|public|times faster", rows)


# ---------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a part's tables; a user's mistake is one line and code 2."""
    parser = common.parser(__doc__)
    parser.add_argument("part", choices=("learned", "speed"))
    parser.add_argument("--model", help="bundle of SRMAP")
    parser.add_argument("--l1", help="bundle or stage file of its L1 net")
    parser.add_argument("--map", nargs="*", default=(), help="others, to compare")
    parser.add_argument("--val", help="folder with hr/, and lr/ or nothing")
    parser.add_argument("--limit", type=common.positive, default=16, help="images at most")
    parser.add_argument("--seeds", type=common.positive, default=10)
    parser.add_argument("--reference", help="checkout of the public code")
    parser.add_argument("--side", type=common.positive, default=48)
    parser.add_argument("--turns", type=common.positive, default=5)
    given = parser.parse_args(argv)
    with one_line("benchmarks.srmap", {ValueError: 2}):
        if given.part == "speed":
            if not given.reference:
                raise UserError("speed: expected --reference, a checkout")
            print(speed(given.reference, given.side, given.turns))
            return 0
        if not given.val or not given.model:
            raise UserError("learned: expected --model, and --val, a folder with hr/")
        upscaler = maskgit_sr.load(given.model, device="cpu", dtype="float32")
        method = upscaler.method
        if not isinstance(method, SRMAP):
            raise UserError(f"--model: expected a bundle of srmap, found one of {method.name}")
        lr, hr = windows(given.val, method, given.limit)
        nets = {name: bundles.read(Path(path))[0] for name, path in _others(given.l1, given.map)}
        nets[Path(given.model).stem] = upscaler.params
        print(learned(method, nets, lr, hr, given.seeds))
    return 0


def _others(first: str | None, rest: Sequence[str]) -> list[tuple[str, str]]:
    """Returns names and paths of further nets; a stage file is named by its run."""
    found = [("L1", first)] if first else []
    return [*found, *((str(Path(path).with_suffix("")), path) for path in rest)]


if __name__ == "__main__":
    sys.exit(main())
