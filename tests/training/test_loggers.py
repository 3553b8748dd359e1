"""training.loggers: which are chosen, and what each gets; W&B is a stand-in."""

import importlib.util
import json
import sys
import types

import numpy as np
import pytest

from configs import common
from maskgit_sr.errors import UserError
from maskgit_sr.training import loggers, writer
from maskgit_sr.training.writer import Writer


def steps(folder):
    lines = (folder / "scalars.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def fill(log, first, last):
    for step in range(first, last + 1):
        log.scalars(step, {"loss": 0.5})
    log.histogram(last, "counts", np.arange(6.0).reshape(2, 3))
    log.panel(last, "stage", {"hr": np.zeros((1, 4, 4, 3))})
    log.close()


def test_parse():
    assert loggers.parse(common.base().logger) == loggers.parse(writer.DEFAULT)
    assert loggers.parse(" jsonl,tensorboard, jsonl") == ("jsonl", "tensorboard")
    for text in ("", ",", "json", "jsonl tensorboard", "jsonl,csv"):
        with pytest.raises(UserError, match="expected one or several of tensorboard, jsonl, wandb"):
            loggers.parse(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandb", r"wandb needs wandb: pip install 'maskgit-sr\[wandb\]'"),
        ("tensorboard", r"tensorboard needs tensorboardX: pip install 'maskgit-sr\[train\]'"),
    ],
)
def test_an_absent_package_is_named(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=message):
        Writer(tmp_path / "run", chosen=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("chosen", "files"),
    [("jsonl", {"scalars.jsonl"}), ("tensorboard", {"events"}), ("jsonl,tensorboard", None)],
)
def test_only_what_is_chosen_is_written(tmp_path, chosen, files):
    fill(Writer(tmp_path, chosen=chosen), 1, 2)
    found = {path.name if path.suffix == ".jsonl" else "events" for path in tmp_path.iterdir()}
    assert found == (files or {"scalars.jsonl", "events"})
    fill(Writer(tmp_path / "other host", silent=True, chosen=chosen), 1, 2)
    assert list((tmp_path / "other host").iterdir()) == []


def test_steps_after_the_checkpoint_are_dropped_from_the_lines(tmp_path):
    fill(Writer(tmp_path, chosen="jsonl", first=0), 1, 5)
    lines = tmp_path / "scalars.jsonl"
    lines.write_text(lines.read_text() + "not a line\n" + '{"step": 6, "lo')
    fill(Writer(tmp_path, chosen="jsonl", first=3), 4, 7)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    fill(Writer(tmp_path, chosen="jsonl", first=0), 1, 2)  # begun anew
    assert steps(tmp_path) == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["scalars.jsonl"]


@pytest.fixture
def wandb(monkeypatch):
    """W&B's module with what is used of it; `runs` has (arguments, logged, finished)."""
    fake = types.ModuleType("wandb")
    fake.runs, fake.__spec__ = [], importlib.util.spec_from_loader("wandb", None)

    def init(**arguments):
        run = types.SimpleNamespace(arguments=arguments, logged=[], finished=False)
        run.log = lambda values, step: run.logged.append((step, values))
        run.finish = lambda: setattr(run, "finished", True)
        fake.runs.append(run)
        return run

    fake.init, fake.Histogram, fake.Image = init, np.shape, np.shape
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_goes_on_with_its_run(tmp_path, wandb, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    folder = tmp_path / "generator"
    for first in (0, 2):
        log = Writer(folder, chosen="wandb", first=first, config={"name": "nano", "seed": 3})
        fill(log, first + 1, first + 2)
    one, two = wandb.runs
    assert one.finished and one.arguments == two.arguments
    wanted = {"project": "maskgit_sr", "name": "nano-generator", "resume": "allow"}
    assert wanted.items() <= one.arguments.items() and len(one.arguments["id"]) == 16
    assert one.arguments["config"] == {"name": "nano", "seed": 3}
    assert [step for step, _ in one.logged + two.logged] == [1, 2, 2, 2, 3, 4, 4, 4]
    assert one.logged[1:] == [
        (2, {"loss": 0.5}),
        (2, {"counts": (6,)}),
        (2, {"stage/hr": (4, 4, 3)}),
    ]
    assert not (folder / "scalars.jsonl").exists()


def test_what_wandb_says_is_one_line(tmp_path, wandb):
    def init(**arguments):
        raise RuntimeError("no API key\nconfigured")

    wandb.init = init
    with pytest.raises(UserError, match="wandb does not begin .RuntimeError: no API key conf"):
        Writer(tmp_path, chosen="wandb")
