"""Drill: the training steps of base compile, all four stages, each for another mesh of eight.

    python -m tests.drills.aot [--stages critic] [--jobs 2]

The configs are those that `configs/realsrt.py` gives, with their own batches, but for the mesh of
three of them. Exit code 1 if an array is allocated, if a device's arguments are not as many bytes
as the table of shardings says, if the state is not donated whole or comes back anywhere else than
it was, or if the devices repeat work that they should share.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax

from configs import realsrt
from maskgit_sr import assets
from tests.configs import ahead
from tests.perceptual import perceptual_nets

CASES = {  # stage → hardware, mesh
    "tokenizer": ("v5e-8", (8, 1, 1)),  # in parts, one after the other
    "generator": ("h100x8", (1, 8, 1)),
    "critic": ("h100x8", (2, 2, 2)),
    "control": ("h100x8", (2, 4, 1)),
}


def begin(folder: str) -> None:
    """Makes a process one of eight devices."""
    os.environ[assets.ENV] = folder
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)


def check(stage: str) -> ahead.Report:
    """The report of one stage's step."""
    hardware, mesh = CASES[stage]
    return ahead.compiled(realsrt.get_config(f"hardware={hardware}"), stage, mesh)


def main() -> int:
    """Runs the drill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        perceptual_nets.write(Path(folder))
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, spawn, begin, (folder,)) as pool:
            for stage, report in zip(options.stages, pool.map(check, options.stages), strict=True):
                name = f"{stage} on {'x'.join(map(str, CASES[stage][1]))}"
                print(f"{name}: {report.text}", flush=True)
                for fault in report.faults:
                    print(f"{name}: {fault}", file=sys.stderr)
                faults += len(report.faults)
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
