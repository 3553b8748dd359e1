"""Drill: SIGTERM or Ctrl-C while a checkpoint is being written; all is saved, nothing is different.

Meanwhile a second trainer in the same workdir is refused.
"""

from __future__ import annotations

import signal
import time

from common import Failed, Ground, Run, checkpoints, last, same, saving


def drill(ground: Ground, stops: int = 5) -> str:
    """Stops one run so many times at different moments of a save.

    Raises:
        Failed: a process did not end well, no signal came while a save was under way, or a second
            trainer was let in.
    """
    whole, workdir = ground.whole, ground.folder / "preempted"
    stops, hits, stopped = 2 if ground.quick else stops, 0, 0
    for stop in range(stops):
        run = ground.start("preempted")
        if not run.until(lambda: saving(workdir) is not None, pause=0.002):
            raise run.failed("ended before it saved anything")
        time.sleep(ground.random.uniform(0, 0.1) if stop else 0)
        number, code = ((signal.SIGTERM, 0), (signal.SIGINT, 130))[stop % 2]
        run.process.send_signal(number)
        step = saving(workdir)  # seen after the signal was sent, so under way when it came
        hits += step is not None
        _went_on(run.finish(expected=code), stopped)
        found, stopped = checkpoints(workdir), last(workdir)
        if saving(workdir) is not None or found[-1] != stopped or stopped < (step or 0):
            raise run.failed(f"stopped after step {stopped} in the save of {step}, left {found}")
    run = ground.start("preempted")
    run.until(lambda: (workdir / "train.lock").exists())
    second = ground.start("preempted", "second.txt").finish(expected=2)
    if f"pid {run.process.pid}" not in second.said().splitlines()[-1]:
        raise second.failed(f"does not name the owner, {run.process.pid}")
    _went_on(run.finish(), stopped)
    if not hits:
        raise Failed(f"none of {stops} signals came while a save was under way")
    same(whole, workdir)
    return f"{hits} of {stops} signals within a save, same losses and weights; a second was refused"


def _went_on(run: Run, step: int) -> None:
    if run.began() != step or "cannot be read" in run.said():
        raise run.failed(f"went on from step {run.began()}, not from {step}")
