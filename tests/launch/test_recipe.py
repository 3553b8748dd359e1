"""launch.recipe: the plan against a machine of known speed, and the command on a tiny network."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

import maskgit_sr
from launch import recipe
from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.models.functional import flatten
from maskgit_sr.training.loop import Outcome
from tests.launch.tiny import STEPS
from tests.launch.tiny import config as tiny_config

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("tokenizer", "generator", "critic", "control")


class Machine:
    """Takes `start` seconds to begin a run and `pace` seconds a step; stands in for training."""

    def __init__(self, start=10.0, pace=0.5, interrupt=None):
        self.now, self.start, self.pace = 0.0, start, pace
        self.step, self.calls, self.interrupt = dict.fromkeys(STAGES, 0), [], interrupt

    def clock(self):
        return self.now

    def run(self, config, folder, seconds, at_least):
        name, total = config.stage_name, config.stage.steps
        began, first = self.now, self.step[name]
        self.now += self.start
        settled = self.now + at_least
        while self.step[name] < total and (self.now - began < seconds or self.now < settled):
            self.now += self.pace
            self.step[name] += 1
        self.calls.append((name, first, self.step[name], total))
        pace = self.pace if self.step[name] - first > 1 else None
        hit = self.interrupt == len(self.calls)
        return Outcome(first, self.step[name], self.step[name] >= total, folder, pace, hit)


def config(name, steps=10_000_000):
    return ml_collections.ConfigDict(
        dict(
            stage_name=name,
            stage=dict(steps=steps, ema=0.999, optimizer=dict(warmup=1000)),
        )
    )


def made(machine, folder, **more):
    return recipe.Recipe(
        lambda name: config(name, **more), STAGES, folder, machine.run, machine.clock
    )


@pytest.mark.parametrize("budget", [1800.0, 36_000.0])
@pytest.mark.parametrize(("start", "pace"), [(10.0, 0.5), (45.0, 0.02), (2.0, 4.0)])
def test_every_stage_ends_its_schedule_within_its_share(tmp_path, budget, start, pace):
    machine = Machine(start, pace)
    left = made(machine, tmp_path).train(recipe.SPLIT, budget)
    assert left == []
    assert 0.75 * budget < machine.now <= 1.01 * budget
    ends = {name: (step, total) for name, _, step, total in machine.calls}
    assert all(step == total for step, total in ends.values())
    spent = {name: step * pace for name, (step, _) in ends.items()}
    assert spent["tokenizer"] > spent["generator"] > spent["critic"]


def test_a_stage_that_needs_less_leaves_its_time_to_the_next(tmp_path):
    machine = Machine(start=1.0, pace=0.5)
    steps = dict(zip(STAGES, (50, 10**6, 10**6, 10**6), strict=True))
    found = recipe.Recipe(
        lambda name: config(name, steps[name]), STAGES, tmp_path, machine.run, machine.clock
    )
    assert found.train(recipe.SPLIT, 1200.0) == []
    assert machine.now > 1000 and machine.step["tokenizer"] == 50
    assert machine.step["generator"] * 0.5 > 0.35 * 1200


def test_an_interrupted_run_keeps_its_plan_and_goes_on(tmp_path):
    machine = Machine(interrupt=4)  # the generator, within its planned schedule
    with pytest.raises(recipe.Interrupted):
        made(machine, tmp_path).train(recipe.SPLIT, 600.0)
    plan = json.loads((tmp_path / "recipe.json").read_text())
    assert plan["tokenizer"]["finished"] and "finished" not in plan["generator"]
    planned = plan["generator"]["planned"]
    done = list(machine.calls)
    machine.interrupt, machine.step["generator"] = None, planned - 100
    assert made(machine, tmp_path).train(recipe.SPLIT, 900.0) == []
    later = machine.calls[len(done) :]
    assert "tokenizer" not in {name for name, *_ in later}
    assert machine.step["generator"] == planned  # its learning rate went on along the same curve
    assert made(machine, tmp_path).train(recipe.SPLIT, 900.0) == []
    assert len(machine.calls) == len(done) + len(later)  # all is finished


def test_a_budget_that_is_too_short_names_what_is_left(tmp_path):
    machine = Machine(start=100.0, pace=1.0)
    left = made(machine, tmp_path).train(recipe.SPLIT, 60.0)
    assert left and set(left) <= set(STAGES)
    plan = json.loads((tmp_path / "recipe.json").read_text())
    assert all(not plan.get(name, {}).get("finished") for name in left)


def test_shorter_runs_warm_up_and_average_for_less_long():
    short = config("critic")
    recipe.shorten(short, 400)
    assert (short.stage.steps, short.stage.optimizer.warmup) == (400, 20)
    assert short.stage.ema == pytest.approx(0.975)
    whole = config("critic")
    recipe.shorten(whole, 20_000_000)
    assert whole == config("critic")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokeniser=3", "expected of tokenizer, generator, critic, control, found 'tokeniser'"),
        ("critic=much", "expected critic=NUMBER, found 'critic=much'"),
        ("critic=0", "expected a share above 0 of critic, found 0"),
        ("critic=nan", "expected a share above 0 of critic, found nan"),
        ("", "expected STAGE=SHARE"),
    ],
)
def test_wrong_splits_are_named(text, message):
    with pytest.raises(UserError, match=message):
        recipe.parse_split(text, dict.fromkeys(STAGES))


def test_parts_join_again(tmp_path):
    data = np.random.default_rng(0).bytes(2500)
    path = recipe.epath.Path(tmp_path / "b.safetensors")
    path.write_bytes(b"x" * 5000)
    assert len(recipe.write_parts(path, 1000)) == 5
    path.write_bytes(data)
    parts = recipe.write_parts(path, 1000)
    assert [len(part.read_bytes()) for part in parts] == [1000, 1000, 500]
    assert b"".join(p.read_bytes() for p in sorted(tmp_path.glob("b.safetensors.0*"))) == data
    check = subprocess.run(["sha256sum", "--check", "b.safetensors.sha256"], cwd=tmp_path)
    assert check.returncode == 0


def test_a_tiny_run_leaves_a_bundle_in_parts_that_restores(
    tmp_path, photos, tiny, method, monkeypatch
):
    """One stage is trained, the others are those of the bundle that the run goes on from."""
    params, _ = method.init(jax.random.key(0), method.bundle_groups)
    init = tmp_path / "init.safetensors"
    bundles.write(init, params, bundles.Metadata(method.name, method.describe(), 4), np.float32)
    monkeypatch.setattr(recipe, "PART_BYTES", 20_000)
    make = partial(tiny_config, root=photos, tiny=tiny, init=str(init))
    found = recipe.Recipe(make, STAGES, tmp_path / "w")
    found.folder.mkdir()
    assert found.train({"tokenizer": 1.0}, 600.0) == []
    plan = json.loads((found.folder / "recipe.json").read_text())
    assert plan["tokenizer"]["finished"] and plan["tokenizer"]["step"] == STEPS
    line = recipe.leave_bundle(found.folder, make("tokenizer"))
    parts = sorted(found.folder.glob("realsrt-nano.safetensors.[0-9][0-9]"))
    assert len(parts) > 1 and f"{len(parts)} parts of at most 20,000 bytes" in line
    joined = tmp_path / "joined.safetensors"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    image = np.random.default_rng(0).integers(0, 256, (7, 21, 3)).astype(np.uint8)
    assert maskgit_sr.load(joined)(image).image.shape == (28, 84, 3)
    groups, _ = bundles.read(joined)
    kernels = [flatten(tree)["generator/logits/kernel"] for tree in (groups, params)]
    np.testing.assert_allclose(*kernels, rtol=0.01)


def test_what_a_bundle_still_needs(tmp_path, method, params):
    """After a --split of some stages only."""
    folder, everything = recipe.paths.absolute(tmp_path), set(method.bundle_groups)
    head = bundles.Metadata(method.name, method.describe(), 4)
    assert set(recipe.groups_to_come(folder, method, "")) == everything
    first = {group: params[group] for group in ("tokenizer", "codebook")}
    (folder / "tokenizer").mkdir()
    bundles.write(folder / "tokenizer" / "groups.safetensors", jax.device_get(first), head)
    left = recipe.groups_to_come(folder, method, "")
    assert left == ["generator", "critic", "control"]
    rest = {group: params[group] for group in left}
    bundles.write(folder / "init.safetensors", jax.device_get(rest), head)
    assert recipe.groups_to_come(folder, method, str(folder / "init.safetensors")) == []


def test_a_run_goes_on_from_a_model_that_ships():
    assert recipe.train.find_init("") == ""
    assert recipe.train.find_init("realsrt-nano").endswith("realsrt-nano.safetensors")
    with pytest.raises(UserError, match="--config.init: model: expected a path or one of"):
        recipe.train.find_init("realsrt-giant")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.recipe", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/realsrt.py:nano,stage=critic"], "--config: expected no stage"),
        (["--config=configs/realsrt.py:nano", "--split=x=1"], "--split: expected of tokenizer"),
        (["--config=configs/realsrt.py:nano", "--budget_minutes=0"], "--budget_minutes: expected"),
        (["--config=configs/realsrt.py:nano"], "--config.data.root: expected a folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    rest = ["--budget_minutes=1"] if "minutes" not in "".join(arguments) else []
    found = command(*arguments, *rest, f"--workdir={tmp_path / 'w'}")
    assert found.returncode == 2, found.stderr
    assert found.stderr.strip().splitlines()[-1].startswith(f"launch.recipe: {message}")
    assert "Traceback" not in found.stderr
