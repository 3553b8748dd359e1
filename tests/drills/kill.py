"""Drill: kill -9 at random moments, resume, and end where an undisturbed run ends, bit for bit."""

from __future__ import annotations

import time

from common import EVERY, Ground, last, same


def drill(ground: Ground) -> str:
    """Kills the starts of one run: a quarter of them early, the others some steps on."""
    whole, workdir, rng = ground.whole, ground.folder / "killed", ground.random
    kills, done = ground.kills, 0
    while done < kills:
        left, run = ground.steps - 2 * EVERY - last(workdir), ground.start("killed")
        if left <= 0:  # so that none comes to its end before all kills are done
            run.until(lambda: False, rng.uniform(0.5, 4))
        elif rng.random() < 0.25:  # while it starts, or soon after
            run.until(lambda: False, rng.uniform(0.5, 8))
        else:  # some steps on, within the step or the save that is then under way
            ahead = min(left, rng.randint(1, max(1, 2 * left // (kills - done))))
            aim = ground.steps - 2 * EVERY - left + ahead
            run.until(lambda aim=aim: last(workdir) >= aim)
            time.sleep(rng.uniform(0, 0.3))
        if run.process.poll() is not None:  # it had come to its end
            break
        run.kill()
        done += 1
    ground.start("killed").finish()
    same(whole, workdir)
    return f"{done} kills, same losses and weights"
