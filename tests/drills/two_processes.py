"""Drill: two processes on this machine train as one process with two devices does.

    python tests/drills/two_processes.py

The same steps of a small RealSRT tokenizer (with its GAN) through `launch.train`: once in one
process with two CPU devices, once in two processes of one device each that find each other through
JAX_COORDINATOR_ADDRESS; then SIGTERM to one of two processes, which both must obey, and a second
start. Exit code 1 if losses or final weights differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import portpicker
from kill import ROOT, command, losses, photographs
from safetensors.numpy import load_file


def start(line: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """One training process."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(log.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = {**os.environ, **cache, **environment}
    return subprocess.Popen(line, cwd=ROOT, env=environment, stderr=log.open("ab"))


def pair(line: list[str], base: Path) -> list[subprocess.Popen[bytes]]:
    """Two processes of one device each."""
    address = f"127.0.0.1:{portpicker.pick_unused_port()}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [
        start(line, {**shared, "JAX_PROCESS_ID": str(i), "XLA_FLAGS": ""}, base / f"log{i}.txt")
        for i in range(2)
    ]


def ended(processes: list[subprocess.Popen[bytes]], base: Path) -> bool:
    """Whether all ended well; else prints what they wrote."""
    codes = [process.wait(timeout=600) for process in processes]
    if any(codes):
        for log in sorted(base.glob("log*.txt")):
            print(f"{log.name}: {log.read_text()[-3000:]}", file=sys.stderr)
        print(f"exit codes {codes}", file=sys.stderr)
    return not any(codes)


def main() -> int:
    """Runs the drill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=24)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        photographs(base / "photos")
        lines = {
            name: command(base / "photos", base / name, steps) for name in ("one", "two", "stopped")
        }
        two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        if not ended([start(lines["one"], two_devices, base / "log.txt")], base):
            return 1
        if not ended(pair(lines["two"], base), base):
            return 1

        processes = pair(lines["stopped"], base)
        scalars = base / "stopped" / "tokenizer" / "scalars.jsonl"
        while not (scalars.exists() and len(losses(base / "stopped")) >= 4):
            if any(process.poll() is not None for process in processes):
                break
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        if not ended(processes, base):
            return 1
        reached = max(losses(base / "stopped"))
        print(f"SIGTERM to one of two: both stopped at step {reached} of {steps}")
        if not ended(pair(lines["stopped"], base), base):
            return 1

        found = {name: losses(base / name) for name in lines}
        weights = {
            name: load_file(base / name / "tokenizer" / "groups.safetensors") for name in lines
        }
        worst = 0.0
        for name in ("two", "stopped"):
            if found[name].keys() != found["one"].keys():
                print(f"{name}: other steps than in one process", file=sys.stderr)
                return 1
            for key, array in weights["one"].items():
                worst = max(worst, float(np.abs(array - weights[name][key]).max()))
        key = "tokenizer/reconstruction"
        apart = max(abs(found["one"][s][key] - found["two"][s][key]) for s in found["one"])
        print(f"largest difference of weights {worst:.1e}, of a step's loss {apart:.1e}")
        return 0 if max(worst, apart) <= 1e-5 and reached < steps else 1


if __name__ == "__main__":
    sys.exit(main())
