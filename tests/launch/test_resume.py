"""launch.train in a workdir that has been used: edited configs, another trainer, signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from etils import epath

from configs import subpixel
from launch import timebox, train
from maskgit_sr.errors import UserError
from maskgit_sr.training import lock

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Enough of them for batches of 16."""
    root = tmp_path_factory.mktemp("many")
    y, x = np.mgrid[:64, :64]
    for index in range(20):
        image = 128 + 90 * np.sin(x * (index + 2) / 20 + y / 9)[..., None] * np.ones(3)
        cv2.imwrite(str(root / f"{index:02}.png"), image.astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def made(photos):
    """Makes configs of a filter: checkpoints of steps 4 and 5."""

    def made(**changes):
        found = subpixel.get_config("stage=pretrain")
        found.data.update(root=str(photos), threads=0)
        found.stages.pretrain.update(steps=5, crop=32)
        found.stages.pretrain.optimizer.update(learning_rate=3e-3, warmup=0)
        found.update(log_every=1, checkpoint_every=4)
        found.update_from_flattened_dict(changes)
        return found

    return made


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    """A workdir in which the five steps are taken."""
    workdir = tmp_path_factory.mktemp("finished")
    assert train.run_stage(made(), "pretrain", workdir).step == 5
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "w"))


def kept(workdir):
    return sorted(path.name for path in (workdir / "pretrain" / "checkpoints").iterdir())


def test_a_killed_run_leaves_each_step_one_line(made, workdir):
    """Killed after it had logged step 5 and begun step 6, whose checkpoints are not there."""
    shutil.rmtree(workdir / "pretrain/checkpoints/5")
    lines = workdir / "pretrain/scalars.jsonl"
    with lines.open("a") as file:
        file.write('{"step": 6, "lo')
    assert train.run_stage(made(**{"stages.pretrain.steps": 7}), "pretrain", workdir).first == 4
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6, 7]


def test_an_unknown_logger_is_told_before_anything_is_read(made, tmp_path):
    config = made(**{"logger": "tensorbord"})
    with pytest.raises(UserError, match="expected one or several of tensorboard, jsonl, wandb"):
        train.run_stage(config, "pretrain", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_another_batch_goes_on_from_the_newest_checkpoint(made, workdir, caplog):
    """The next example is the one after those that were consumed: 5 x 8 = 40, then 2 x 16."""
    assert kept(workdir) == ["4", "5"]
    first = json.loads((workdir / "config-pretrain.json").read_text())
    changes = {
        "stages.pretrain.batch": 16,
        "stages.pretrain.steps": 7,
        "stages.pretrain.crop": 24,
        "stages.pretrain.optimizer.learning_rate": 1e-3,
        "stages.pretrain.accumulate": 2,
        "stages.pretrain.ema": 0.0,
        "seed": 4,
    }
    caplog.set_level("INFO")
    outcome = train.run_stage(made(**changes), "pretrain", workdir)
    assert (outcome.first, outcome.step) == (5, 7)
    (line,) = [r.getMessage() for r in caplog.records if "changed since step 5" in r.getMessage()]
    for part in ("batch 8 -> 16", "crop 32 -> 24", "learning_rate 0.003 -> 0.001", "seed 0 -> 4"):
        assert part in line and "\n" not in line
    before = json.loads((workdir / "config-pretrain-1.json").read_text())
    assert before.pop("until_step") == 5 and before == first
    state = workdir / "pretrain" / "checkpoints" / "7" / "data" / "process_0-of-1.json"
    assert json.loads(state.read_text())["examples"] == 5 * 8 + 2 * 16
    caplog.clear()
    again = made(**changes)
    assert train.run_stage(again, "pretrain", workdir).finished
    assert "changed" not in caplog.text and not (workdir / "config-pretrain-2.json").exists()
    train.run_stage(made(**changes | {"seed": 5}), "pretrain", workdir)
    assert json.loads((workdir / "config-pretrain-2.json").read_text())["seed"] == 4


def test_a_state_that_does_not_fit_is_told_with_the_field_and_stays(made, workdir):
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    name = "stages.pretrain.optimizer.clip"
    changes = {name: 1.0}
    message = f"checkpoints/5: is of another configuration: .*; changed since then: .*{name} .*->"
    for _ in range(2):  # a refused run leaves no trace that would hide the reason from the next
        with pytest.raises(UserError, match=message) as error:
            train.run_stage(made(**changes), "pretrain", workdir)
        assert "\n" not in str(error.value)
        assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before
    assert train.run_stage(made(), "pretrain", workdir).finished


def test_the_time_box_is_no_change_of_the_config(made, tmp_path, caplog):
    caplog.set_level("INFO")
    for steps in (100, 6, 4, None):
        train.run_stage(made(), "pretrain", tmp_path, 0.0, 0.0, steps)
    assert "changed" not in caplog.text
    assert not list(tmp_path.glob("config-pretrain-*.json"))
    train.run_stage(made(**{"stages.pretrain.steps": 6}), "pretrain", tmp_path, 0.0, 0.0, 4)
    assert "stages.pretrain.steps 5 -> 6" in caplog.text


def test_checkpoints_that_are_missing_from_a_trained_stage_are_told(made, workdir):
    groups = workdir / "pretrain" / "groups.safetensors"
    before = groups.read_bytes()
    (workdir / "pretrain" / "checkpoints").rename(workdir / "away")
    with pytest.raises(UserError, match="holds no checkpoint, and groups.safetensors beside it is"):
        train.run_stage(made(), "pretrain", workdir)
    assert groups.read_bytes() == before
    groups.unlink()
    assert train.run_stage(made(), "pretrain", workdir, 0.0).step == 0


def test_a_second_trainer_is_refused_before_it_changes_anything(made, tmp_path):
    with lock.held(epath.Path(tmp_path)):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError, match=f"a trainer runs there already, .*pid {os.getpid()}"):
            train.train(made(), tmp_path, float("inf"))
        assert sorted(tmp_path.iterdir()) == before
    assert "step 5" in train.train(made(), tmp_path, float("inf"))
    assert not (tmp_path / lock.NAME).exists()


def test_a_damaged_plan_is_one_line(made, tmp_path):
    (tmp_path / "train.json").write_text('{"stages": ')
    with pytest.raises(UserError, match=r"train.json: cannot be read .*bring it back"):
        train.train(made(), tmp_path, float("inf"))
    assert (tmp_path / "train.json").read_text() == '{"stages": '


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_stages_after_saving(made, tmp_path, monkeypatch, number):
    changed = made(order=("pretrain", "finetune"))
    changed.stages.pretrain.steps = 50

    def validator(*_):
        return lambda groups: os.kill(os.getpid(), number) or {}

    monkeypatch.setattr(train, "validator", validator)
    hr = np.zeros((1, 64, 64, 3), np.float32)
    batch = {"hr": hr, "lr": hr[:, ::2, ::2]}
    monkeypatch.setattr(train, "validation_batch", lambda *_: batch)
    changed.data.validation, changed.validate_every = "set", 3
    before = signal.getsignal(number)
    with pytest.raises(timebox.Interrupted) as error:
        train.train(changed, tmp_path, float("inf"))
    assert error.value.number == number and signal.getsignal(number) is before
    plan = json.loads((tmp_path / "train.json").read_text())["stages"]
    assert plan == {"pretrain": {"step": 3, "steps": 50, "finished": False}}
    assert kept(tmp_path) == ["3"] and not (tmp_path / lock.NAME).exists()


def command(workdir, photos):
    """A filter's training, and the file that holds what it says."""
    small = {"stages.pretrain.crop": 32, "log_every": 1, "data.root": photos}
    log = workdir / "log.txt"
    workdir.mkdir()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "launch.train", "--workdir", str(workdir)),
                *("--config", "configs/subpixel.py:stage=pretrain"),
                *(f"--config.{name}={value}" for name, value in small.items()),
            ],
            cwd=ROOT,
            stdout=file,
            stderr=file,
        )
    return process, log


def until(process, log, text):
    end = time.monotonic() + 120
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def test_ctrl_c_saves_and_is_one_line(photos, tmp_path):
    process, log = command(tmp_path / "w", photos)
    until(process, log, "pretrain 2/")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = log.read_text()
    assert said.splitlines()[-1] == "launch.train: stopped by a signal; the same command goes on"
    assert "Traceback" not in said
    (step,) = kept(tmp_path / "w")
    assert f"stopped at step {step} of" in said and not (tmp_path / "w" / lock.NAME).exists()


def test_ctrl_c_while_the_modules_load_is_one_line(photos, tmp_path):
    process, log = command(tmp_path / "w", photos)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (130, -signal.SIGINT)  # before Python's first line, the latter
    assert "Traceback" not in log.read_text() and len(log.read_text().splitlines()) <= 1
