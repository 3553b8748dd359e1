"""Drill: all stages in a time box, killed in the second one, go on along the same plan.

The second start has a box many times as long: a plan that was not kept would grow with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import Failed, Ground, last, losses
from safetensors import safe_open

SECONDS = 90
STAGES = ("pretrain", "finetune")


def _config() -> tuple[str, ...]:
    """The ×2 example, with more steps than fit into any box."""
    small = {
        **{f"stages.{stage}.steps": 10_000_000 for stage in STAGES},
        "log_every": 10,
        "checkpoint_every": 50,
    }
    values = (f"--config.{name}={value}" for name, value in small.items())
    return ("--config", "configs/subpixel.py", *values)


def _stages(workdir: Path) -> dict[str, dict[str, Any]]:
    """What ``train.json`` says of each stage."""
    path = workdir / "train.json"
    return json.loads(path.read_text())["stages"] if path.exists() else {}


def _planned(workdir: Path) -> dict[str, int | None]:
    return {name: _stages(workdir).get(name, {}).get("planned") for name in STAGES}


def drill(ground: Ground) -> str:
    """Kills the run some steps after its second stage has a plan, and starts it again.

    Raises:
        Failed: another plan, a stage that did not keep to it, or a bundle of other steps.
    """
    first = ground.start("boxed", config=(*_config(), f"--max_seconds={SECONDS}"))
    workdir = first.workdir

    def under_way() -> bool:
        facts = _stages(workdir).get("finetune", {})
        return "planned" in facts and last(workdir, "finetune") > facts["step"]

    if not first.until(under_way) or None in _planned(workdir).values():
        raise first.failed(f"a stage has no plan, {_stages(workdir)}: too short a box?")
    first.kill()
    planned, killed = _planned(workdir), last(workdir, "finetune")

    second = ground.start("boxed", config=(*_config(), f"--max_seconds={20 * SECONDS}")).finish()
    if _planned(workdir) != planned:
        raise second.failed(f"planned {planned}, and after the kill {_planned(workdir)}")
    taken = {stage: max(losses(workdir, stage)) for stage in STAGES}
    with safe_open(workdir / "subpixel.safetensors", "numpy") as bundle:
        facts = json.loads(bundle.metadata()["maskgit_sr"])["training"]
    left = {stage: facts[stage]["steps"] for stage in STAGES}
    if not killed < taken["finetune"] or taken != planned or left != planned:
        raise Failed(f"planned {planned}, killed at {killed}, took {taken}, the bundle says {left}")
    return f"killed at step {killed} of the second stage, kept to {planned}, left a bundle"
