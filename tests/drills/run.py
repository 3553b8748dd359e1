"""Runs the drills of the trainer, one line each; exit code 1 if one fails.

    python tests/drills/run.py [--quick] [--kills 20] [--seed 0] [--only kill --only damage ...]

A small RealSRT tokenizer (with its GAN) trains through `launch.train` on pictures made here, with
a checkpoint every three steps; `all_stages` trains the ×2 example.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import all_stages
import damage
import kill
import preempt
import two_processes
from common import Failed, Ground, last

STEPS = 36
DRILLS: dict[str, Callable[[Ground], str]] = {
    "undisturbed": lambda ground: f"{last(ground.whole)} steps, which the next three compare with",
    "kill": kill.drill,
    "preempt": preempt.drill,
    "damage": damage.drill,
    "two_processes": two_processes.drill,
    "all_stages": all_stages.drill,
}


def passed(name: str, ground: Ground) -> bool:
    """Runs one drill and prints what came of it and how long it took."""
    began, well = time.monotonic(), True
    try:
        line = DRILLS[name](ground)
    except Failed as error:
        line, well = f"FAILED: {error}", False
    print(f"{name} ({time.monotonic() - began:.0f} s): {line}", flush=True)
    return well


def main() -> int:
    """Command-line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=[*DRILLS])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills = 3 if options.quick else options.kills
        ground = Ground(Path(folder), STEPS, options.quick, kills, options.seed)
        try:
            return int(not all([passed(name, ground) for name in options.only or DRILLS]))
        finally:
            ground.close()


if __name__ == "__main__":
    sys.exit(main())
