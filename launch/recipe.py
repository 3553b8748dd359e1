"""Trains all stages within a budget of time, one after the other, and leaves a bundle.

    python -m launch.recipe --config configs/realsrt.py:small --workdir W --budget_minutes 30 \\
        --config.data.root PHOTOS --config.data.validation VALIDATION

Every stage has its share of the budget (``--split``). It trains a little to see how fast the
machine is, then as many steps as fit its share, so that the learning rate comes to its end in time;
what it leaves over goes to the next. The same command goes on where it was stopped, with a new
budget. A new run goes on from an earlier one's weights with ``--config.init BUNDLE``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from etils import epath

from launch import export_bundle, train
from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.methods import registry
from maskgit_sr.methods.base import Method
from maskgit_sr.training import checkpoint
from maskgit_sr.training.loop import Outcome

_LOG = logging.getLogger(__name__)

SPLIT = {"tokenizer": 40, "generator": 25, "critic": 10, "control": 25}
PROBE_SECONDS, PROBE_SHARE = 20.0, 0.08
MARGIN = 0.97
PART_BYTES = 15_000_000

_BUDGET = flags.DEFINE_float("budget_minutes", None, "Time for everything, compilation included.")
_SPLIT = flags.DEFINE_string(
    "split",
    ",".join(f"{name}={share}" for name, share in SPLIT.items()),
    "Shares of the budget.",
)

Run = Callable[[int, float, float], Outcome]
"""(steps in all, seconds, seconds after the first step at least) → where the stage then stands."""


class Interrupted(Exception):
    """A signal has asked the run to stop; everything is saved."""


def parse_split(text: str, stages: Mapping[str, Any]) -> dict[str, float]:
    """``"tokenizer=40,generator=25"`` → shares above 0 of those stages; others get none.

    Raises:
        UserError: not of that form, an unknown stage, or no share.
    """
    shares = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in stages:
            raise UserError(f"--split: expected of {', '.join(stages)}, found {name!r}")
        try:
            shares[name] = float(value)
        except ValueError:
            raise UserError(f"--split: expected {name}=NUMBER, found {part!r}") from None
        if not 0 < shares[name] < float("inf"):
            raise UserError(f"--split: expected a share above 0 of {name}, found {value}")
    if not shares:
        raise UserError("--split: expected STAGE=SHARE,…, found nothing")
    return shares


def steps_that_fit(step: int, pace: float, seconds: float, most: int) -> int:
    """Steps in all, if so many seconds are left after `step` at `pace` seconds each.

    At least one more, at most `most`.
    """
    return min(most, step + max(1, int(seconds * MARGIN / pace)))


def train_stage(
    run: Run,
    seconds: float,
    aim: int,
    keep: Callable[[int], None],
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """One stage to the end of a schedule that fits the time, or as far as it comes.

    Args:
        aim: steps that would be enough: the config's, or those that an earlier run had planned.
        keep: takes the plan, so that the next run knows it.
    """
    began = clock()
    probe = max(PROBE_SECONDS, PROBE_SHARE * seconds)
    outcome = run(aim, 0.0, probe)
    left = seconds - (clock() - began)
    if outcome.finished or outcome.pace is None or left <= 0:
        return outcome
    # starting again will take as long as it did: loading, compiling
    start = seconds - left - (outcome.step - outcome.first) * outcome.pace
    fits = steps_that_fit(outcome.step, outcome.pace, left - start, aim)
    keep(fits)
    return run(fits, left, 0.0)


class Recipe:
    """A workdir with its stages and the plan of each, which is kept in ``recipe.json``.

    Args:
        config: stage → the config of that stage.
        run: `launch.train.run`.
    """

    def __init__(
        self,
        config: Callable[[str], Any],
        stages: Sequence[str],
        workdir: paths.PathLike,
        run: Callable[[Any, paths.PathLike, float, float], Outcome] = train.run,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._config, self._stages, self._clock, self._run = config, stages, clock, run
        self.folder = paths.absolute(workdir)
        self._file = self.folder / "recipe.json"
        self._plan: dict[str, dict[str, Any]] = {}
        if self._file.exists():
            self._plan = json.loads(self._file.read_text())

    def train(self, shares: Mapping[str, float], seconds: float) -> list[str]:
        """Trains every stage that has a share and is not finished; the names of those left over.

        Raises:
            Interrupted: a signal asked to stop; everything is saved.
            UserError: what `launch.train` would end with.
        """
        end = self._clock() + seconds
        waiting = [name for name in self._stages if name in shares and not self._done(name)]
        for index, name in enumerate(waiting):
            left = end - self._clock()
            share = shares[name] / sum(shares[other] for other in waiting[index:])
            _LOG.info("stage %s: %.0f s of %.0f s", name, share * left, left)
            if left <= 0:
                break
            self._train(name, share * left)
        return [name for name in waiting if not self._done(name)]

    def _done(self, name: str) -> bool:
        return bool(self._plan.get(name, {}).get("finished"))

    def _train(self, name: str, seconds: float) -> None:
        began = self._clock()

        def run(steps: int, limit: float, at_least: float) -> Outcome:
            config = self._config(name)
            shorten(config, steps)
            outcome = self._run(config, self.folder, limit, at_least)
            self._note(name, step=outcome.step)
            if outcome.interrupted:
                raise Interrupted
            return outcome

        most = self._config(name).stage.steps
        aim = self._plan.get(name, {}).get("planned", most)
        outcome = train_stage(
            run, seconds, aim, lambda steps: self._note(name, planned=steps), self._clock
        )
        self._note(name, finished=outcome.finished, seconds=round(self._clock() - began, 1))

    def _note(self, name: str, **facts: Any) -> None:
        self._plan.setdefault(name, {}).update(facts)
        partial = self._file.with_name(".recipe.json.part")
        partial.write_text(json.dumps(self._plan, indent=1) + "\n")
        partial.replace(self._file)


def shorten(config: Any, steps: int) -> None:
    """Gives a stage's config that many steps; warm-up and EMA never outlast a part of them."""
    stage = config.stage
    if steps >= stage.steps:
        return
    stage.steps = steps
    stage.optimizer.warmup = min(stage.optimizer.warmup, steps // 20)
    stage.ema = min(stage.ema, max(0.0, 1 - 10 / steps))


def write_parts(path: epath.Path, size: int) -> list[epath.Path]:
    """A file as NAME.00, NAME.01, … of at most `size` bytes, which ``cat`` joins again."""
    data = path.read_bytes()
    for old in path.parent.glob(f"{path.name}.[0-9][0-9]"):
        old.unlink()
    found = []
    for index in range(-(-len(data) // size)):
        part = path.with_name(f"{path.name}.{index:02d}")
        part.write_bytes(data[index * size : (index + 1) * size])
        found.append(part)
    digest = hashlib.sha256(data).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return found


def configs(filename: str, overrides: Mapping[str, Any]) -> Callable[[str], Any]:
    """Stage → its config, from ``FILE.py:ARGUMENT`` and the overrides of the command line.

    Raises:
        UserError: the argument names a stage.
    """
    file, _, argument = filename.partition(":")
    if any(part.startswith("stage=") for part in argument.split(",")):
        raise UserError(f"--config: expected no stage, found {argument!r}")
    spec = importlib.util.spec_from_file_location("recipe_config", Path(file))
    assert spec is not None and spec.loader is not None  # it was loaded once already
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def config(name: str) -> Any:
        found = module.get_config(",".join(filter(None, (argument, f"stage={name}"))))
        found.update_from_flattened_dict(dict(overrides))
        return found

    return config


def leave_bundle(folder: epath.Path, config: Any) -> str:
    """Exports what the stages have, and its parts; a line about it.

    Groups that no stage of the workdir has trained are those of ``config.init``.
    """
    path = folder / f"{config.name}.safetensors"
    number = export_bundle.export(folder, path, "bfloat16", "Apache-2.0", {}, init=config.init)
    parts = write_parts(path, PART_BYTES)
    return f"{path}: {number:,} parameters, {len(parts)} parts of at most {PART_BYTES:,} bytes"


def groups_to_come(folder: epath.Path, method: Method, init: str) -> list[str]:
    """Groups of a bundle that neither a stage of the workdir nor ``init`` has."""
    sources = [checkpoint.stage_file(folder, name) for name in method.stages]
    sources += [paths.absolute(init)] if init else []
    found, _ = checkpoint.collect(sources, method.bundle_groups)
    return [group for group in method.bundle_groups if group not in found]


def main(argv: list[str]) -> None:
    """Command-line entry; a user's mistake is one line and exit code 2."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    train.narrate()
    began = time.monotonic()
    with train.one_line("launch.recipe"):
        budget = 60 * (_BUDGET.value or 0.0)
        if not 0 < budget < float("inf"):
            raise UserError(f"--budget_minutes: expected more than 0, found {_BUDGET.value}")
        train.join_hosts()
        if jax.process_count() > 1:
            raise UserError("runs in one process; launch/tpu_pod.sh trains all stages on many")
        flag: Any = flags.FLAGS["config"]
        make = configs(flag.config_filename, flag.override_values)
        first = flags.FLAGS.config
        first.init = train.find_init(first.init)
        method = registry.build(first.method, first.model.to_dict())
        stages = method.stages
        shares = parse_split(_SPLIT.value or "", stages)
        recipe = Recipe(make, list(stages), flags.FLAGS.workdir)
        try:
            left = recipe.train(shares, budget - (time.monotonic() - began))
        except Interrupted:
            print("launch.recipe: stopped by a signal; the same command goes on")
            return
        lacking = groups_to_come(recipe.folder, method, first.init)
        if lacking:  # --split was of some stages only, or the budget of too few
            print(f"launch.recipe: no bundle yet, it needs {', '.join(lacking)}")
        else:
            print(f"launch.recipe: {leave_bundle(recipe.folder, first)}")
        if left:
            print(f"launch.recipe: not finished: {', '.join(left)}; the same command goes on")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir", "budget_minutes"])
    app.run(main, flags_parser=lambda argv: train.parse_flags(argv, "launch.recipe"))
