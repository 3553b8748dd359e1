"""Drill: all stages in a time box, killed in the second one, go on along the same plan.

The second start has a box many times as long: a plan that was not kept would grow with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import Failed, Ground, last, losses
from safetensors import safe_open

STEPS = {"pretrain": 5, "finetune": 10_000_000}  # the second takes more than any box holds
BOXES = (40, 120, 360)
"""Seconds; the next one where a machine is too slow to plan within the one before."""


def _config() -> tuple[str, ...]:
    """Options of the ×2 example."""
    small = {
        **{f"stages.{stage}.steps": steps for stage, steps in STEPS.items()},
        "log_every": 5,
        "checkpoint_every": 50,
    }
    values = (f"--config.{name}={value}" for name, value in small.items())
    return ("--config", "configs/subpixel.py", *values)


def _stages(workdir: Path) -> dict[str, dict[str, Any]]:
    """What ``train.json`` says of each stage."""
    path = workdir / "train.json"
    return json.loads(path.read_text())["stages"] if path.exists() else {}


def drill(ground: Ground) -> str:
    """Kills the run some steps after its second stage has a plan, and starts it again.

    Raises:
        Failed: another plan, a stage that did not keep to it, or a bundle of other steps.
    """
    workdir = ground.folder / "boxed"

    def second() -> dict[str, Any]:
        return _stages(workdir).get("finetune", {})

    def under_way() -> bool:
        return "planned" in second() and last(workdir, "finetune") > second()["step"]

    for seconds in BOXES:
        run = ground.start("boxed", config=(*_config(), f"--max_seconds={seconds}"))
        if run.until(under_way):
            break
    else:
        raise run.failed("ended before its second stage had a plan")
    run.kill()
    killed, planned = last(workdir, "finetune"), second()["planned"]

    run = ground.start("boxed", config=(*_config(), f"--max_seconds={20 * seconds}")).finish()
    expected = {**STEPS, "finetune": planned}
    taken = {stage: max(losses(workdir, stage)) for stage in STEPS}
    with safe_open(workdir / "subpixel.safetensors", "numpy") as bundle:
        facts = json.loads(bundle.metadata()["maskgit_sr"])["training"]
    left = {stage: facts[stage]["steps"] for stage in STEPS}
    if second()["planned"] != planned or not killed < planned:
        raise Failed(f"killed at {killed}, planned {planned} and then {second()['planned']}")
    if taken != expected or left != expected:
        raise run.failed(f"planned {expected}, took {taken}, the bundle says {left}")
    return f"killed at step {killed} of the second stage, kept to {planned}, left a bundle"
