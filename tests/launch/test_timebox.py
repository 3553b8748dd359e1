"""launch.timebox: the plan against a machine of known speed."""

import json

import ml_collections
import pytest

from launch import timebox
from launch.finished import finished
from maskgit_sr.training.loop import Outcome

SHARES = {"tokenizer": 40, "generator": 25, "critic": 10, "control": 25}
MANY = dict.fromkeys(SHARES, 10_000_000)


class Machine:
    """Takes `start` seconds to begin a run and `pace` seconds a step; stands in for training."""

    def __init__(self, start=10.0, pace=0.5, interrupt=None):
        self.now, self.start, self.pace = 0.0, start, pace
        self.step, self.calls, self.interrupt = dict.fromkeys(SHARES, 0), [], interrupt

    def clock(self):
        return self.now

    def run(self, name, total, seconds, at_least):
        total = MANY[name] if total is None else total
        began, first = self.now, self.step[name]
        self.now += self.start
        settled = float("inf") if at_least else 0.0
        while self.step[name] < total and (self.now - began < seconds or self.now < settled):
            self.now += self.pace
            self.step[name] += 1
            settled = min(settled, self.now + at_least)
        self.calls.append((name, first, self.step[name], total))
        pace = self.pace if self.step[name] - first > 1 else None
        hit = self.interrupt == len(self.calls)
        return Outcome(first, self.step[name], self.step[name] >= total, None, pace, hit)


def made(machine, folder, steps=MANY):
    return timebox.Plan(steps, folder, machine.run, machine.clock)


def noted(folder):
    return json.loads((folder / "train.json").read_text())["stages"]


@pytest.mark.parametrize("box", [1800.0, 36_000.0])
@pytest.mark.parametrize(("start", "pace"), [(10.0, 0.5), (45.0, 0.02), (2.0, 4.0)])
def test_every_stage_ends_its_schedule_within_its_share(tmp_path, box, start, pace):
    machine = Machine(start, pace)
    left = made(machine, tmp_path).train(SHARES, box)
    assert left == []
    assert 0.75 * box < machine.now <= 1.01 * box
    ends = {name: (step, total) for name, _, step, total in machine.calls}
    assert all(step == total for step, total in ends.values())
    spent = {name: step * pace for name, (step, _) in ends.items()}
    assert spent["tokenizer"] > spent["generator"] > spent["critic"]


def test_a_stage_that_needs_less_leaves_its_time_to_the_next(tmp_path):
    machine = Machine(start=1.0, pace=0.5)
    found = made(machine, tmp_path, {**MANY, "tokenizer": 50})
    assert found.train(SHARES, 1200.0) == []
    assert machine.now > 1000 and machine.step["tokenizer"] == 50
    assert machine.step["generator"] * 0.5 > 0.35 * 1200


def test_an_interrupted_run_keeps_its_plan_and_goes_on(tmp_path):
    machine = Machine(interrupt=4)  # the generator, within its planned schedule
    with pytest.raises(timebox.Interrupted):
        made(machine, tmp_path).train(SHARES, 600.0)
    plan = noted(tmp_path)
    assert plan["tokenizer"]["finished"] and "critic" not in plan
    planned = plan["generator"]["planned"]
    done = list(machine.calls)
    machine.interrupt, machine.step["generator"] = None, planned - 100
    (tmp_path / "train.json").write_text(
        json.dumps({"stages": plan | {"generator": {"planned": planned}}})
    )
    assert made(machine, tmp_path).train(SHARES, 900.0) == []
    later = machine.calls[len(done) :]
    assert "tokenizer" not in {name for name, *_ in later}
    assert machine.step["generator"] == planned  # its learning rate went on along the same curve
    assert made(machine, tmp_path).train(SHARES, 900.0) == []
    assert len(machine.calls) == len(done) + len(later)  # all is finished


@pytest.mark.parametrize("box", [0.0, 5.0, 60.0])
def test_however_short_the_box_each_stage_takes_a_step(tmp_path, box):
    machine = Machine(start=100.0, pace=1.0)
    left = made(machine, tmp_path).train(SHARES, box)
    assert left == list(SHARES)
    assert all(1 <= steps <= 2 + box for steps in machine.step.values())
    assert not any(stage["finished"] for stage in noted(tmp_path).values())


def test_without_a_box_every_stage_takes_its_own_schedule(tmp_path):
    machine = Machine()
    steps = dict(zip(SHARES, (5, 7, 2, 9), strict=True))
    runs = []

    def run(name, total, seconds, at_least):
        runs.append((name, total, seconds, at_least))
        return Outcome(0, steps[name], True, None)

    plan = timebox.Plan(steps, tmp_path, run, machine.clock)
    assert plan.train(SHARES, float("inf")) == []
    assert runs == [(name, None, float("inf"), 0.0) for name in SHARES]
    assert noted(tmp_path)["control"] == {"step": 9, "steps": 9, "finished": True}


def test_a_run_without_a_box_goes_on_where_a_short_one_ended(tmp_path):
    machine, steps = Machine(), dict.fromkeys(SHARES, 2000)
    assert made(machine, tmp_path, steps).train(SHARES, 600.0) == []
    short = dict(machine.step)
    assert max(short.values()) < 2000
    assert made(machine, tmp_path, steps).train(SHARES, 600.0) == []
    assert machine.step == short  # the plan of the time box is fulfilled
    machine.run = lambda name, total, *_: (
        machine.calls.append(name) or Outcome(machine.step[name], 2000, True, None)
    )
    assert made(machine, tmp_path, steps).train(SHARES, float("inf")) == []
    assert machine.calls[-4:] == list(SHARES)


def settings():
    return ml_collections.ConfigDict(dict(steps=10_000, ema=0.999, optimizer=dict(warmup=1000)))


def test_shorter_runs_warm_up_and_average_for_less_long():
    short = settings()
    timebox.shorten(short, 400)
    assert (short.steps, short.optimizer.warmup) == (400, 20)
    assert short.ema == pytest.approx(0.975)
    for steps in (None, 20_000):
        whole = settings()
        timebox.shorten(whole, steps)
        assert whole == settings()


def test_launchers_are_told_of_the_stages_of_the_last_command(tmp_path):
    with pytest.raises(timebox.Interrupted):
        made(Machine(interrupt=1), tmp_path).train(SHARES, 600.0)
    assert not finished(tmp_path)
    made(Machine(), tmp_path, {"critic": 10}).take("critic", 10, 600.0, 0.0)
    assert finished(tmp_path)
    with pytest.raises(timebox.Interrupted):
        made(Machine(interrupt=1), tmp_path).train(SHARES, 600.0)
    assert not finished(tmp_path)
