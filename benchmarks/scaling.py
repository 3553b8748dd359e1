"""The scaling plan of docs/scaling.md: FLOPs, bytes, memory and communication of every stage.

    python -m benchmarks.scaling --records scaling.json

compiles each stage's step of base for simulated meshes of 1 to 256 devices, one process a case
(`benchmarks.scaling_cases`, a minute or so each on two cores; what the file holds already is not
compiled again), and prints the tables of docs/scaling.md. Needs the perceptual nets
(``MASKGIT_SR_ASSETS``) and no accelerator. ``--mfu``, ``--overlap`` and ``--price`` change what
the predictions assume, ``--stages`` and ``--devices`` which cases are compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import scaling_model, scaling_report
from benchmarks.scaling_model import devices_of, key
from configs import realsrt

Records = dict[str, dict[str, Any]]


def cases(size: str, stages: list[str], devices: list[int]) -> list[dict[str, Any]]:
    """Every case of the plan, as keyword arguments of ``scaling_cases.Case``."""
    found: list[dict[str, Any]] = []

    def case(stage: str, batch: int, **more: Any) -> None:
        found.append(dict(size=size, stage=stage, batch=batch, **more))

    published = {
        stage: int(realsrt.get_config(f"{size},stage={stage}").stage.batch) for stage in stages
    }
    for count in devices:
        for stage, batch in published.items():
            # a batch that the mesh does not divide is made one example a device
            case(stage, max(batch, count), data=count)
            if count == 1:
                case(stage, batch, remat=True)
            if count == 8:
                case(stage, max(batch, count), fsdp=8)
        # the widest of the transformers stands for both on the meshes that split it
        if "generator" in published and count in (8, 256):
            batch = published["generator"]
            case("generator", max(batch, count), data=count // 8, fsdp=8, gather=True)
            case("generator", batch, data=count // 4, tensor=4)
    return found


def compile_case(case: dict[str, Any], limit: float) -> dict[str, Any]:
    """The record of one case, from a process with as many simulated devices as it needs."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is not compiled leaves no text to read
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_of(case)}",
    }
    command = [sys.executable, "-m", "benchmarks.scaling_cases", json.dumps(case)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not compiled within {limit:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def collect(wanted: list[dict[str, Any]], path: Path, limit: float) -> Records:
    """Compiles what ``path`` does not hold, and keeps it there after every case."""
    records: Records = json.loads(path.read_text()) if path.exists() else {}
    for number, case in enumerate(wanted, 1):
        if "cost" in records.get(key(case), {}):
            continue
        start = time.monotonic()
        record = compile_case(case, limit)
        records[key(case)] = record
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(records, indent=1))
        partial.replace(path)
        took = time.monotonic() - start
        print(
            f"{number}/{len(wanted)} {took:4.0f} s {record.get('failed', 'compiled')}: {key(case)}",
            file=sys.stderr,
            flush=True,
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path, required=True, help="JSON file of compiled cases")
    parser.add_argument("--size", default="base", choices=realsrt.SIZES)
    parser.add_argument("--stages", nargs="+", default=list(realsrt.STAGES), choices=realsrt.STAGES)
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 8, 256, 64])
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a case may compile")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is reached")
    parser.add_argument(
        "--overlap", type=float, default=0.5, help="share of communication hidden by computation"
    )
    parser.add_argument(
        "--price",
        nargs="+",
        default=[],
        metavar="DEVICE=DOLLARS",
        help="an hour of one device; defaults: "
        + ", ".join(f"{d.name}={d.price:g}" for d in scaling_model.DEVICES.values()),
    )
    options = parser.parse_args()
    prices = {}
    for entry in options.price:
        name, _, dollars = entry.partition("=")
        if name not in scaling_model.DEVICES or not dollars:
            parser.error(f"--price: expected DEVICE=DOLLARS, found {entry!r}")
        prices[name] = float(dollars)
    wanted = cases(options.size, options.stages, options.devices)
    records = collect(wanted, options.records, options.limit)
    assumed = scaling_model.Assumptions(options.mfu, options.overlap, prices)
    print(scaling_report.report(wanted, records, options.size, assumed))


if __name__ == "__main__":
    main()
