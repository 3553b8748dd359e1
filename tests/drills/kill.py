"""Drill: kill -9 at random moments, resume, and end where an undisturbed run ends, bit for bit.

    python tests/drills/kill.py [--kills 20] [--steps 60]

A small RealSRT tokenizer (with its GAN) trains through `launch.train` on pictures made here, with
a checkpoint every three steps. Exit code 1 if the final weights or the losses of any step differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def photographs(folder: Path, count: int = 12) -> None:
    """Waves with an edge, each of its own direction."""
    folder.mkdir()
    y, x = np.mgrid[:96, :96]
    for i in range(count):
        image = np.sin(0.1 * x * (i + 1) / 4 + 0.07 * y)[..., None] * [60, 90, 40] + 128
        image[20 + i : 60, 30:70] = [200, 180, 20 * i]
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))


def command(photos: Path, workdir: Path, steps: int) -> list[str]:
    """Training of one stage, small enough for a second a step."""
    small = {
        "model.tokenizer.channels": "(8,16)",
        "model.tokenizer.code_width": 8,
        "model.generator.code_width": 8,
        "model.critic.code_width": 8,
        "model.discriminator.filters": 8,
        "model.losses.adversarial_weight": 0.5,
        "model.losses.perceptual_weight": 0.0,
        "perceptual": "none",
        "stage.steps": steps,
        "stage.batch": 4,
        "stage.crop": 64,
        "log_every": 1,
        "checkpoint_every": 3,
    }
    return [
        *(sys.executable, "-m", "launch.train", "--workdir", str(workdir)),
        *("--config", "configs/realsrt.py:nano,stage=tokenizer"),
        f"--config.data.root={photos}",
        *(f"--config.{name}={value}" for name, value in small.items()),
    ]


def losses(workdir: Path) -> dict[int, dict[str, float]]:
    """What each step measured; a step that was taken twice must have measured the same twice."""
    timed = ("examples_per_second", "input_wait_share", "tflops_per_device")
    found: dict[int, dict[str, float]] = {}
    for line in (workdir / "tokenizer" / "scalars.jsonl").read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # cut short by a kill
            continue
        values = {k: v for k, v in values.items() if k not in timed}
        before = found.setdefault(values["step"], values)
        if before != values:
            raise AssertionError(f"step {values['step']} measured {before} and then {values}")
    return found


def main() -> int:
    """Runs the drill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        photographs(base / "photos")
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(base / "cache")}
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

        def start(workdir: Path) -> subprocess.Popen[bytes]:
            line = command(base / "photos", workdir, options.steps)
            log = (base / "log.txt").open("wb")  # a pipe that nobody reads would block
            return subprocess.Popen(line, cwd=ROOT, env=environment, stderr=log)

        undisturbed = start(base / "whole")
        if undisturbed.wait():
            print((base / "log.txt").read_text(), file=sys.stderr)
            return 1
        done = 0
        for kill in range(options.kills):
            process = start(base / "killed")
            if rng.random() < 0.25:  # while it starts, or soon after
                _wait(process, lambda: False, rng.uniform(0.5, 12))
            else:  # some steps on, within the step or the save that is then under way
                ahead = done + rng.randint(1, max(1, 2 * (options.steps - done) // options.kills))
                _wait(process, lambda aim=ahead: _steps(base / "killed") >= aim, 600)
                time.sleep(rng.uniform(0, 0.4))
            if process.poll() is not None:
                print(f"run {kill + 1} had ended before it was to be killed", flush=True)
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            done = _steps(base / "killed")
            print(f"kill {kill + 1} of {options.kills}: {done} steps logged", flush=True)
        process = start(base / "killed")
        if process.wait():
            print((base / "log.txt").read_text(), file=sys.stderr)
            return 1
        same = losses(base / "whole") == losses(base / "killed")
        one, other = (
            (base / name / "tokenizer" / "groups.safetensors") for name in ("whole", "killed")
        )
        equal = _arrays(one) == _arrays(other)
        print(
            f"losses of all steps {'equal' if same else 'DIFFER'}, final weights "
            f"{'equal bit for bit' if equal else 'DIFFER'}"
        )
        return 0 if same and equal else 1


def _steps(workdir: Path) -> int:
    """The last step that was logged."""
    known = (workdir / "tokenizer" / "scalars.jsonl").exists()
    return max(losses(workdir), default=0) if known else 0


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], seconds: float) -> None:
    """Until it is ready, has ended, or the time is over; takes what it writes meanwhile."""
    end = time.monotonic() + seconds
    while not ready() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def _arrays(path: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: array.tobytes() for name, array in load_file(path).items()}


if __name__ == "__main__":
    sys.exit(main())
