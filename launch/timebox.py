"""All stages of a run within a time box, each to the end of a schedule that fits its share.

A stage trains a little to see how fast the machine is, then as many steps as fit its share, so that
its learning rate comes to its end in time. What it leaves over goes to the stages after it. The
plan is kept in ``train.json``, so that the same command goes on along the same schedules, and that
a launcher can tell whether it has to (`launch.finished`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from maskgit_sr import paths
from maskgit_sr.training import watch
from maskgit_sr.training.loop import Outcome

_LOG = logging.getLogger(__name__)

PROBE_SECONDS, PROBE_SHARE, MOST_PROBE = 20.0, 0.08, 0.25
MARGIN = 0.97
ONE_STEP = 1e-9  # seconds after the first step

Run = Callable[[str, int | None, float, float], Outcome]
"""(stage, steps in all or None: the config's, seconds, seconds after the first step at least)."""


class Interrupted(Exception):
    """A signal has asked the run to stop; everything is saved."""


class Plan:
    """The stages of a workdir and where each stands.

    Args:
        steps: stage → steps in its config, in the order of training.
        run: trains one stage.
    """

    def __init__(
        self,
        steps: Mapping[str, int],
        workdir: paths.PathLike,
        run: Run,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._steps, self._run, self._clock = dict(steps), run, clock
        self._file = paths.absolute(workdir) / "train.json"
        self.stages: dict[str, dict[str, Any]] = {}
        if self._file.exists():
            self.stages = json.loads(self._file.read_text())["stages"]

    def train(self, shares: Mapping[str, float], seconds: float) -> list[str]:
        """Trains every stage that is not finished; returns the names of those left over.

        However short the box is, each stage takes at least one step.

        Raises:
            Interrupted: a signal asked to stop; everything is saved.
            UserError: what the trainer ends with.
        """
        end = self._clock() + seconds
        waiting = [name for name in self._steps if not self._finished(name, seconds)]
        for index, name in enumerate(waiting):
            left = watch.from_first_host(end - self._clock())
            share = shares[name] / sum(shares[other] for other in waiting[index:])
            if left == float("inf"):
                self.take(name, None, left, 0.0)
                continue
            _LOG.info("stage %s: %.0f s of %.0f s", name, max(0.0, share * left), max(0.0, left))
            self._within(name, max(0.0, share * left))
        return [name for name in waiting if not self._finished(name, seconds)]

    def _finished(self, name: str, seconds: float) -> bool:
        """Returns True if a stage needs no more: without a time box, than its config's steps."""
        found = self.stages.get(name, {})
        if seconds == float("inf"):
            return bool(found.get("step", 0) >= self._steps[name])
        return bool(found.get("finished"))

    def _within(self, name: str, seconds: float) -> None:
        """One stage to the end of a schedule that fits the time, or as far as it comes."""
        began = self._clock()
        # Steps that would be enough: the config's, or those that an earlier run has planned.
        aim = self.stages.get(name, {}).get("planned", self._steps[name])
        probe = min(max(PROBE_SECONDS, PROBE_SHARE * seconds), MOST_PROBE * seconds) or ONE_STEP
        outcome = self.take(name, aim, 0.0, probe)
        # All hosts must decide alike, and their clocks differ.
        left = watch.from_first_host(seconds - (self._clock() - began))
        if outcome.finished or outcome.pace is None or left <= 0:
            return
        # Starting again will take as long as it did: loading, compiling.
        start = seconds - left - (outcome.step - outcome.first) * outcome.pace
        fits = int(watch.from_first_host((left - start) * MARGIN / outcome.pace))
        planned = min(aim, outcome.step + max(1, fits))
        self._note(name, planned=planned)
        self.take(name, planned, left, ONE_STEP)

    def take(self, name: str, steps: int | None, limit: float, at_least: float) -> Outcome:
        """Trains one stage as ``run`` does, and notes where it then stands.

        Raises:
            Interrupted: a signal asked to stop; everything is saved.
        """
        outcome = self._run(name, steps, limit, at_least)
        self._note(
            name,
            step=outcome.step,
            steps=steps or self._steps[name],
            finished=outcome.finished,
        )
        if outcome.interrupted:
            raise Interrupted
        return outcome

    def _note(self, name: str, **facts: Any) -> None:
        self.stages.setdefault(name, {}).update(facts)
        if jax.process_index():
            return
        found = {"order": list(self._steps), "stages": self.stages}
        paths.write(self._file, json.dumps(found, indent=1) + "\n")


def shorten(settings: Any, steps: int | None) -> None:
    """Gives a stage so many steps; warm-up and EMA never outlast a part of them."""
    if steps is None or steps >= settings.steps:
        return
    settings.steps = steps
    settings.optimizer.warmup = min(settings.optimizer.warmup, steps // 20)
    settings.ema = min(settings.ema, max(0.0, 1 - 10 / steps))
