"""Division of a time box among the stages of a run, each with a schedule that fits its share.

A stage trains briefly to measure the machine's speed, then as many steps as fit its share, so that
its learning rate decays completely. Time that it leaves goes to later stages. The plan is kept in
``train.json``, so that the same command resumes along the same schedules, and a launcher can tell
whether to run it again (`launch.finished`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.training import watch
from maskgit_sr.training.loop import Outcome
from maskgit_sr.training.watch import Interrupted

_LOG = logging.getLogger(__name__)

PROBE_SECONDS, PROBE_SHARE, MOST_PROBE = 20.0, 0.08, 0.25
MARGIN = 0.97  # of the time left is planned for, the rest is for a pace that rises
ONE_STEP = 1e-9  # seconds after the first step

Run = Callable[[str, int | None, float, float], Outcome]
"""Trains (stage, steps in all or None for the config's, seconds, least seconds after step 1)."""


class Plan:
    """Stages of a workdir and the progress of each.

    Args:
        steps: steps in the config by stage, in training order.
        run: trains one stage.
        clock: returns seconds.

    Raises:
        UserError: ``train.json`` cannot be read.
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
        try:
            if self._file.exists():
                self.stages = dict(json.loads(self._file.read_text())["stages"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self._file}: cannot be read ({error}); without it the stages would get other "
                "schedules: bring it back, or delete it"
            ) from error

    def train(self, shares: Mapping[str, float], seconds: float) -> list[str]:
        """Trains every stage that is not finished; returns the names of those that still are not.

        However short the time box, each stage takes at least one step.

        Args:
            shares: weights by which the stages share the time.
            seconds: time box; infinity: none.

        Raises:
            Interrupted: a signal asked to stop; everything is saved.
            UserError: raised by the trainer.
        """
        end = self._clock() + seconds
        waiting = [name for name in self._steps if not self._finished(name, seconds)]
        for index, name in enumerate(waiting):
            left = watch.from_first_host(end - self._clock())
            # Of the time still left, so that what a stage did not need goes to those after it.
            share = shares[name] / sum(shares[other] for other in waiting[index:])
            if left == float("inf"):
                self.take(name, None, left, 0.0)
                continue
            _LOG.info("stage %s: %.0f s of %.0f s", name, max(0.0, share * left), max(0.0, left))
            self._within(name, max(0.0, share * left))
        return [name for name in waiting if not self._finished(name, seconds)]

    def _finished(self, name: str, seconds: float) -> bool:
        """Returns True if a stage has taken its planned steps, without a time box the config's."""
        found = self.stages.get(name, {})
        if seconds == float("inf"):
            return bool(found.get("step", 0) >= self._steps[name])
        return bool(found.get("finished"))

    def _within(self, name: str, seconds: float) -> None:
        """Trains one stage along a schedule that fits the time, or until the time is over."""
        began = self._clock()
        # An earlier run's plan, if there is one, so that its schedule is the one resumed.
        aim = self.stages.get(name, {}).get("planned", self._steps[name])
        probe = min(max(PROBE_SECONDS, PROBE_SHARE * seconds), MOST_PROBE * seconds) or ONE_STEP
        outcome = self.take(name, aim, 0.0, probe)
        # The first host's clock decides: by their own, some hosts would train and others return.
        left = watch.from_first_host(seconds - (self._clock() - began))
        if outcome.finished or outcome.pace is None or left <= 0:
            return
        # The second start loads and compiles as long as the first did.
        start = seconds - left - (outcome.step - outcome.first) * outcome.pace
        fits = int(watch.from_first_host((left - start) * MARGIN / outcome.pace))
        planned = min(aim, outcome.step + max(1, fits))
        self._note(name, planned=planned)
        self.take(name, planned, left, ONE_STEP)

    def take(self, name: str, steps: int | None, limit: float, at_least: float) -> Outcome:
        """Trains one stage with ``run`` and records its progress.

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
        if outcome.interrupted:  # after the note, which a resumed run reads
            raise Interrupted(outcome.interrupted)
        return outcome

    def _note(self, name: str, **facts: Any) -> None:
        self.stages.setdefault(name, {}).update(facts)
        if jax.process_index():
            return
        found = {"order": list(self._steps), "stages": self.stages}
        paths.write(self._file, json.dumps(found, indent=1) + "\n")


def shorten(settings: Any, steps: int | None) -> None:
    """Shortens a stage to ``steps``, warm-up and EMA with it; None or more steps: no change."""
    if steps is None or steps >= settings.steps:
        return
    settings.steps = steps
    # The EMA averages over a tenth of the schedule at most: longer, it would keep early weights.
    settings.optimizer.warmup = min(settings.optimizer.warmup, steps // 20)
    settings.ema = min(settings.ema, max(0.0, 1 - 10 / steps))
