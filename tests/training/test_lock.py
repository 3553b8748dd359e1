"""training.lock: one trainer a workdir; locks of processes that are gone are taken over."""

import json
import os
import subprocess
import sys
import threading

import psutil
import pytest
from etils import epath

from maskgit_sr.errors import UserError
from maskgit_sr.training import lock


def other(workdir, **changes):
    """Writes the lock of another trainer: this process, unless changed."""
    owner = json.loads(json.dumps(lock._this_process())) | changes
    workdir.mkdir(exist_ok=True)
    (workdir / lock.NAME).write_text(json.dumps(owner))
    return owner


def taken(workdir):
    with lock.held(epath.Path(workdir)):
        return json.loads((workdir / lock.NAME).read_text())["pid"]


def test_a_lock_names_its_owner_and_goes_with_it(tmp_path):
    assert taken(tmp_path / "w" / "deep") == os.getpid()
    assert not (tmp_path / "w" / "deep").exists()  # nothing was trained there
    (tmp_path / "kept").mkdir()
    for trouble in (KeyboardInterrupt, ValueError, SystemExit):
        with pytest.raises(trouble), lock.held(epath.Path(tmp_path / "kept")):
            raise trouble
        assert not list((tmp_path / "kept").iterdir())


def test_a_second_trainer_is_refused_in_one_line(tmp_path):
    with lock.held(epath.Path(tmp_path)):
        with pytest.raises(UserError) as error:
            taken(tmp_path)
        assert taken(tmp_path / "other")
    message = str(error.value)
    assert f"pid {os.getpid()}" in message and "\n" not in message and "delete" not in message
    assert taken(tmp_path)


def test_the_lock_of_another_host_is_refused_with_the_way_out(tmp_path):
    other(tmp_path, host="elsewhere")
    with pytest.raises(UserError, match="on host elsewhere, .*if that has ended, delete .*lock"):
        taken(tmp_path)
    assert json.loads((tmp_path / lock.NAME).read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("variable", ["MASKGIT_SR_JOB", "SLURM_JOB_ID"])
def test_a_job_that_was_started_again_elsewhere_takes_its_own_lock(tmp_path, monkeypatch, variable):
    other(tmp_path, host="elsewhere", job="7")
    monkeypatch.setenv(variable, "8")
    with pytest.raises(UserError, match="elsewhere"):
        taken(tmp_path)
    monkeypatch.setenv(variable, "7")
    assert taken(tmp_path) == os.getpid()


def test_locks_of_processes_that_are_gone_are_taken_over(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    other(tmp_path, pid=ended.pid)
    assert taken(tmp_path) == os.getpid()
    other(tmp_path, started=lock._started(os.getpid()) - 60)  # its number is used again
    assert taken(tmp_path) == os.getpid()
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    other(tmp_path, pid=zombie.pid)
    assert taken(tmp_path) == os.getpid()
    zombie.wait()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "\x00" * 50])
def test_a_lock_that_names_nobody_is_not_taken(tmp_path, text, monkeypatch):
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: None)
    (tmp_path / lock.NAME).write_text(text)
    with pytest.raises(UserError, match="train.lock: names no owner; delete it if no trainer"):
        taken(tmp_path)
    assert (tmp_path / lock.NAME).read_text() == text


def test_of_many_that_come_at_once_one_gets_it(tmp_path):
    other(tmp_path, started=0.0)  # stale: all try to take it over
    gate, done, got = threading.Barrier(8), threading.Event(), []

    def come():
        gate.wait()
        try:
            with lock.held(epath.Path(tmp_path)):
                got.append(1)
                done.wait(20)
        except UserError:
            got.append(0)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(got) < 8:
        pass
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(got) == [0] * 7 + [1] and not list(tmp_path.iterdir())


def test_a_lock_that_someone_has_deleted_and_another_taken_is_left_alone(tmp_path):
    with lock.held(epath.Path(tmp_path)):
        owner = other(tmp_path, host="elsewhere")
    assert json.loads((tmp_path / lock.NAME).read_text()) == owner


def test_a_workdir_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file.* cannot be written"):
        taken(tmp_path / "file" / "w")

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UserError, match="train.lock: cannot be written .No space left on device"):
        taken(tmp_path / "full")
    assert not (tmp_path / "full" / lock.NAME).exists()
