"""Times RealSRT's public PyTorch code against this package: same weights, same tiles, same run.

Needs a checkout of https://github.com/USTC-JialunPeng/RealSRT and an environment that has PyTorch
and einops beside this package (``pip install "maskgit-sr[convert]" einops``):

    python -m benchmarks.torch_reference --reference RealSRT --repeats 5

Weights are random at the published sizes, because speed does not depend on their values; both
programs get the same ones, so the largest difference between their images is printed as well. One
measurement is a 64×64 tile to 256×256 in four decoding steps with the controlling module and colour
correction, float32, compilation and loading excluded. The two alternate, so that other load on the
machine meets both. On a busy machine use ``--threads 1`` and compare CPU times: threads that wait
for each other are counted as working.

A tile takes the PyTorch code about 2.1 TFLOP and this package 1.7: it encodes the LR tokens once
for all steps and asks no critic after the last one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description="RealSRT in PyTorch against maskgit_sr")
    parser.add_argument(
        "--reference", type=Path, required=True, help="checkout of the PyTorch code"
    )
    parser.add_argument("--tiles", type=int, default=1, help="tiles a call")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each")
    parser.add_argument("--threads", type=int, default=0, help="CPU cores both may use, 0: all")
    options = parser.parse_args()
    if not (options.reference / "realsrt" / "archs" / "realsrt_arch.py").is_file():
        parser.error(f"--reference: expected a checkout of RealSRT, found {options.reference}")
    if options.tiles < 1 or options.repeats < 1:
        parser.error("--tiles and --repeats: expected at least 1")
    if options.threads and hasattr(os, "sched_setaffinity"):  # before either runtime counts cores
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[: options.threads])

    tiles = np.random.default_rng(0).random((options.tiles, 64, 64, 3), np.float32)
    reference, state, where = torch_side(options.reference, tiles, options.threads)
    ours, device = jax_side(state, tiles)
    runs: dict[str, Callable[[], np.ndarray]] = {
        f"PyTorch, {where}": reference,
        f"maskgit_sr, {device}": ours,
    }
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    images = {name: run() for name, run in runs.items()}  # compiles, and fills caches
    for _ in range(options.repeats):
        for name, run in runs.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            wall[name].append((time.perf_counter() - start) / options.tiles)
            cpu[name].append((time.process_time() - used) / options.tiles)

    load = os.getloadavg()[0]
    print(f"{options.tiles} tile(s) a call, median of {options.repeats}, load {load:.1f}; s a tile")
    median = statistics.median
    for name in runs:
        print(f"{name:24} {median(wall[name]):8.3f}   CPU time {median(cpu[name]):8.3f}")
    (slow, fast), (more, less) = (map(median, times.values()) for times in (wall, cpu))
    first, second = images.values()
    print(f"ratio {slow / fast:.2f}, of CPU time {more / less:.2f}")
    print(f"largest difference of the images {np.abs(first - second).max():.2e}")


def torch_side(
    folder: Path, tiles: np.ndarray, threads: int
) -> tuple[Callable[[], np.ndarray], dict[str, np.ndarray], str]:
    """The restoration of ``tiles`` by the checkout's network, its weights, and where it runs."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    architecture = _import_reference(folder, torch, where)
    torch.manual_seed(0)
    network = architecture.RealSRT(use_critic=True, use_ccm=True).eval().to(where)
    lr = torch.from_numpy(tiles.transpose(0, 3, 1, 2).copy()).to(where)

    def run() -> np.ndarray:
        with torch.no_grad():
            image = network.forward_with_ccm(lr, STEPS)
            image = architecture.adaptive_instance_normalization(image, lr)
        return image.cpu().numpy().transpose(0, 2, 3, 1)

    state = {name: value.cpu().numpy() for name, value in network.state_dict().items()}
    return run, state, where


def _import_reference(folder: Path, torch: Any, where: str) -> Any:
    """The checkout's network module, without the training framework its packages import."""

    def package(name: str, path: Path | None = None) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__path__ = [] if path is None else [str(path)]
        sys.modules[name] = module
        return module

    class Registry:
        def register(self) -> Callable[[Any], Any]:
            return lambda item: item

    for name in ("basicsr", "basicsr.utils"):
        package(name)
    package("basicsr.utils.registry").ARCH_REGISTRY = Registry()  # type: ignore[attr-defined]
    package("realsrt", folder / "realsrt")
    package("realsrt.archs", folder / "realsrt" / "archs")
    np.float = float  # type: ignore[attr-defined]  # gone since NumPy 1.24
    if where == "cpu":  # the code copies its codebook through a GPU
        torch.Tensor.cuda = lambda self, *args, **kwargs: self
    return importlib.import_module("realsrt.archs.realsrt_arch")


def jax_side(
    state: dict[str, np.ndarray], tiles: np.ndarray
) -> tuple[Callable[[], np.ndarray], str]:
    """The restoration of ``tiles`` by this package with the same weights, and where it runs."""
    import jax

    from maskgit_sr.convert.realsrt import map_state
    from maskgit_sr.decoding.policies import Policy
    from maskgit_sr.methods.base import RestoreOptions
    from maskgit_sr.methods.realsrt import RealSRT, RealSRTConfig

    method = RealSRT(RealSRTConfig())
    options = RestoreOptions(Policy(steps=STEPS))
    keys = jax.random.split(jax.random.key(0), len(tiles))
    params, lr = jax.device_put((map_state(state, method.config), tiles))
    restore = jax.jit(lambda params, lr: method.restore(params, lr, keys, options).image)
    return lambda: np.asarray(restore(params, lr)), jax.default_backend()


if __name__ == "__main__":
    main()
