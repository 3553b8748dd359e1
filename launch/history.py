"""Configs of a stage's runs in one workdir: which one is in use, which were before, what changed.

``config-STAGE.json`` is the config of the latest run, as it was trained. One that a later run has
changed stays as ``config-STAGE-1.json``, ``-2`` and so on, with the step at which that happened.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import jax
from etils import epath

from launch import settings
from maskgit_sr import paths
from maskgit_sr.errors import UserError

FORMAT = 2
"""Format version of a workdir; runs of another version cannot be resumed."""

_LOG = logging.getLogger(__name__)
_SHORTENED = ("steps", "ema", "optimizer.warmup")  # by the time box: no change of the user's
_OTHERS = ("format", "stages", "order", "schedule", "until_step")  # no settings of this stage
_SHOWN = 12  # changed fields that are named


class Record:
    """The configs of one stage.

    Args:
        given: config of this run.
        trained: the same with the schedule that the time box leaves.
    """

    def __init__(self, workdir: epath.Path, stage: str, given: Any, trained: Any):
        self._workdir, self._stage = workdir, stage
        self._path = workdir / f"config-{stage}.json"
        whole = json.loads(trained.to_json_best_effort())
        known = dict(settings.fields(json.loads(given.to_json_best_effort())["stages"][stage]))
        schedule = {name: known[name] for name in _SHORTENED if name in known}
        self._now = {"format": FORMAT, **whole, "schedule": schedule}
        self._before: dict[str, Any] | None = None

    def check(self) -> None:
        """Reads the earlier run's config and compares the model.

        Raises:
            UserError: the models differ, naming the first setting that does, or the workdir has an
                older format.
        """
        if not self._path.exists():
            return
        before = self._before = json.loads(self._path.read_text())
        if before.get("format") != FORMAT:
            raise UserError(
                f"--workdir {self._workdir}: holds a run of an older format "
                f"({before.get('format', 1)}, expected {FORMAT}); begin in a new folder, with its "
                "bundle as --config.init"
            )
        for field, old, new in self._differing():
            if field.partition(".")[0] in ("method", "model"):
                raise UserError(
                    f"--workdir {self._workdir}: holds a run of stage {self._stage} with "
                    f"{field} = {old}, this config has {new}"
                )

    def changed(self) -> str:
        """Returns the fields that are not as in the earlier run, "FIELD OLD -> NEW, …"."""
        found = [f"{field} {old!r} -> {new!r}" for field, old, new in self._differing()]
        more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        return ", ".join(found[:_SHOWN] + more)

    def write(self, step: int) -> None:
        """Writes this run's config; one that differs is told, and the earlier one kept.

        Args:
            step: that this run goes on from.

        Raises:
            UserError: the workdir cannot be written.
        """
        if jax.process_index():
            return
        if self._before is not None and (changed := self.changed()):
            numbers = (f"config-{self._stage}-{n}.json" for n in range(1, 10**6))
            kept = next(path for name in numbers if not (path := self._workdir / name).exists())
            paths.write(kept, json.dumps({**self._before, "until_step": step}, indent=2))
            _LOG.info(
                "stage %s: changed since step %d: %s; the former config is kept as %s",
                *(self._stage, step, changed, kept),
            )
        paths.write(self._path, json.dumps(self._now, indent=2))

    def _differing(self) -> list[tuple[str, Any, Any]]:
        """Returns (field, earlier value, value of this run), sorted."""
        if self._before is None:
            return []
        old, new = self._fields(self._before), self._fields(self._now)
        return [
            (name, old.get(name), new.get(name))
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name) and (name in old or self._optional(name))
        ]

    def _optional(self, name: str) -> bool:
        """Returns True for a field whose lack in an earlier config means something.

        Another one was not known to the version of the program that wrote it.
        """
        of_stage = (f"stages.{self._stage}.optimizers", f"stages.{self._stage}.losses")
        return name.startswith(("model.", *of_stage))

    def _fields(self, config: dict[str, Any]) -> dict[str, Any]:
        prefix = f"stages.{self._stage}."
        found = {
            name: value
            for name, value in settings.fields(config)
            if name.startswith(prefix) or name.partition(".")[0] not in _OTHERS
        }
        found |= {prefix + name: v for name, v in settings.fields(config.get("schedule", {}))}
        return found
