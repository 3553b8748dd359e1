"""launch/tpu_pod.sh and what it starts on the workers, against a gcloud that only takes notes."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch/tpu_pod.sh"
WHERE = ["--project", "p", "--zone", "z", "--name", "n"]
RUN = [*WHERE, "--workdir", "gs://b/w", "--data", "gs://b/photos"]

GCLOUD = r"""#!/bin/bash
# the next line of $here/NAME, and its last one for ever
here="$(dirname "$0")"
answer() {
  head -n 1 "$here/$1"
  [[ "$(wc -l <"$here/$1")" == 1 ]] || sed -i 1d "$here/$1"
}
echo "${*//$'\n'/ }" >>"$here/calls"
case "$*" in
  *"queued-resources describe"*)
    found="$(answer states)"
    case "$found" in
      NOT_FOUND | OFFLINE) echo "ERROR: $found: no answer" >&2; exit 1 ;;
      *) echo "$found" ;;
    esac
    ;;
  *"tpu-vm describe"*) answer nodes ;;
  *"worker.sh status"*)
    found="$(answer progress)"
    [[ "$found" != UNREACHABLE ]] || exit 255
    echo "Using ssh batch size of 16."
    printf '%s\n' "${found//,/$'\n'}" | sed 's/^/maskgit_sr-status: /'
    ;;
  *"tpu-vm scp"*) [[ "$(answer scp)" == ok ]] ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    """tpu_pod.sh on a script of answers: (arguments, answers) → (result, calls by kind)."""
    for name, text in {"gcloud": GCLOUD, "tar": "#!/bin/sh\n"}.items():  # packing takes its time
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def call(*arguments, **answers):
        defaults = {"states": ["ACTIVE"], "nodes": ["READY"], "progress": ["done"], "scp": ["ok"]}
        for name, lines in (defaults | answers).items():
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        calls = tmp_path / "calls"
        calls.write_text("")
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, Counter(map(kind, calls.read_text().splitlines()))

    return call


def kind(line):
    """One word for a call of gcloud; "ssh" is the installation."""
    return re.findall(r"(?:queued-resources|tpu-vm|worker\.sh) (\w+)", line)[-1]


def test_dry_run_prints_every_command_and_runs_none(cloud):
    done, calls = cloud("all", *RUN, "--dry-run", "--", "--config.data.small", "a b'c")
    assert done.returncode == 0 and not calls, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("gcloud")]
    kinds = {"create", "describe", "scp", "ssh", "start", "status", "log", "delete"}
    assert set(map(kind, lines)) == kinds
    [started] = {shlex.split(line)[-1] for line in lines if "worker.sh start" in line}
    assert "~/data" in started  # for the workers' shells to expand
    assert shlex.split(started.removeprefix("--command=")) == [
        *("bash", "maskgit_sr/launch/gcp/worker.sh", "start", "gs://b/w"),
        *("--config", "configs/realsrt.py:base,hardware=v5p-128", "--config.data.root", "~/data"),
        *("--config.data.small", "a b'c"),
    ]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([], ["--project=p", "--zone=z", "--node-id=n", "--accelerator-type=v5p-128", "--spot"]),
        (["--accelerator", "v5e-8"], ["--accelerator-type=v5litepod-8", "--spot"]),
        (["--accelerator=v4-8", "--runtime=x"], ["--accelerator-type=v4-8", "--runtime-version=x"]),
        (["--service-account=a@b", "--network=net"], ["--service-account=a@b", "--network=net"]),
    ],
)
def test_types_and_capacity(cloud, extra, words):
    done, _ = cloud("create", *WHERE, *extra, "--dry-run")
    assert set(words) <= set(done.stdout.split())
    assert "--spot" not in cloud("create", *WHERE, "--on-demand", "--dry-run")[0].stdout


def test_all_to_the_end(cloud):
    done, calls = cloud(
        *("all", *RUN, "--poll", "0"),
        states=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
        progress=["running,running", "done,running", "done,done"],
    )
    assert done.returncode == 0, done.stderr
    assert [calls[name] for name in ("create", "ssh", "start", "delete")] == [1] * 4
    assert calls["status"] == 3  # until all workers are done
    assert "training is done: gs://b/w" in done.stderr


@pytest.mark.parametrize(
    ("answers", "lost"),
    [
        ({"states": ["ACTIVE", "ACTIVE", "SUSPENDED", "ACTIVE"]}, "n is SUSPENDED"),
        ({"states": ["ACTIVE", "SUSPENDED", "ACTIVE"], "scp": ["lost", "ok"]}, "while it was set"),
        ({"nodes": ["PREEMPTED"], "progress": ["UNREACHABLE", "done"]}, "n is PREEMPTED"),
    ],
    ids=["while it trains", "while it is set up", "before its request says so"],
)
def test_a_preempted_slice_is_created_again_and_trains(cloud, answers, lost):
    done, calls = cloud("all", *RUN, "--poll=0", **{"progress": ["running", "done"], **answers})
    assert done.returncode == 0, done.stderr
    assert calls["create"] == calls["delete"] == 2  # the lost one, and at the end
    assert calls["start"] >= 1 and lost in done.stderr and "restart 1 of 100" in done.stderr
    assert "training is done" in done.stderr


def test_a_network_that_is_lost_is_no_lost_slice(cloud):
    done, calls = cloud(
        *("watch", *RUN, "--poll=0"),
        states=["OFFLINE", "ACTIVE"],
        progress=["UNREACHABLE", "UNREACHABLE", "done"],
    )
    assert done.returncode == 0, done.stderr
    assert not calls["create"] and not calls["delete"] and not calls["start"]


@pytest.mark.parametrize("ended", ["dead", "stopped"])
def test_ended_processes_are_started_again_on_the_same_slice(cloud, ended):
    done, calls = cloud("watch", *RUN, "--poll=0", progress=[f"done,{ended}", "done,done"])
    assert done.returncode == 0, done.stderr
    assert calls["stop"] == calls["start"] == 1 and not calls["create"]


def test_failed_training_ends_it_and_deletes_the_slice(cloud):
    done, calls = cloud("all", *RUN, "--poll=0", progress=["running,failed 2"])
    assert done.returncode == 1
    assert calls["start"] == calls["log"] == calls["delete"] == 1
    assert "training failed 2; see gs://b/w/logs" in done.stderr
    done, calls = cloud("all", *RUN, "--poll=0", "--keep", progress=["failed 2"])
    assert done.returncode == 1 and not calls["delete"]


def test_restarts_are_limited(cloud):
    done, calls = cloud("watch", *RUN, "--poll=0", "--restarts=2", states=["SUSPENDED"])
    assert done.returncode == 1 and calls["create"] == 2
    assert done.stderr.strip().endswith("n was lost 2 times; --restarts allows no more")


def test_a_refused_request_is_not_repeated(cloud):
    done, calls = cloud("all", *RUN, "--poll=0", states=["FAILED"])
    assert done.returncode == 1 and calls["create"] == 1 and not calls["start"]
    assert "the request for v5p-128 in z failed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a command (create, setup, train, logs, watch, delete, all), found ''"),
        (["start"], "expected a command"),
        (["create"], "--project is missing"),
        (["create", "--project", "p"], "--zone is missing"),
        (["delete", "--project", "p", "--zone", "z"], "--name is missing"),
        (["train", *WHERE], "--workdir is missing"),
        (["all", *WHERE, "--workdir", "w"], "--workdir: expected gs://BUCKET/FOLDER, found 'w'"),
        (["all", *WHERE, "--workdir=gs://b/w"], "--data is missing"),
        (["all", *RUN, "--accelerator=v4-8"], "--config is missing: only v5e-8 and v5p-128"),
        (["all", *RUN, "--poll", "soon"], "--poll: expected a whole number, found 'soon'"),
        (["all", *RUN, "--zones", "z"], "unknown option '--zones'"),
        (["create", "--project"], "--project: expected a value, found nothing"),
    ],
)
def test_a_mistake_is_one_line(cloud, arguments, message):
    done, calls = cloud(*arguments)
    assert done.returncode == 2 and not calls and not done.stdout
    assert done.stderr.startswith(f"tpu_pod: {message}") and done.stderr.count("\n") == 1


# ---------------------------------------------------------------- on a worker


@pytest.fixture
def worker(tmp_path):
    """worker.sh in a home of its own, with a trainer that saves when it is told to stop."""
    trainer = tmp_path / "python"
    trainer.write_text(
        f"#!/bin/bash\n"
        f'[[ "$2" != launch.finished ]] || exec {sys.executable} "$@"\n'
        """end() { echo '{"order": ["a"], "stages": {"a": {"finished": '"$1"'}}}' """
        """>"$HOME/w/train.json"; }\n"""
        'mkdir -p "$HOME/w" && echo "$@" >>"$HOME/ran"\n'
        "trap 'echo saved >>\"$HOME/ran\"; end false; exit 0' TERM\n"
        '[[ ! -f "$HOME/code" ]] || exit "$(<"$HOME/code")"\n'
        'while [[ -f "$HOME/wait" ]]; do sleep 0.02; done\n'
        "end true\n"
    )
    trainer.chmod(0o755)
    settings = {"HOME": str(tmp_path), "PYTHON": str(trainer), "MASKGIT_SR_LOG_SECONDS": "0.1"}

    def call(*arguments):
        done = subprocess.run(
            ["bash", str(ROOT / "launch/gcp/worker.sh"), *arguments],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return done.stdout.strip().removeprefix("maskgit_sr-status: ")

    def start():
        call("start", str(tmp_path / "w"), "--config", "c.py:base", "--x=a b")

    call.home, call.begin = tmp_path, start
    yield call
    if (tmp_path / "run/pid").exists():
        call("stop")


def until(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.02)
    return False


def ran(worker):
    path = worker.home / "ran"
    return path.read_text().splitlines() if path.exists() else []


def test_a_worker_trains_and_keeps_its_log(worker):
    assert worker("status") == "absent"
    worker.begin()
    assert until(lambda: worker("status") == "done")
    folder = worker.home / "w"
    assert ran(worker) == [f"-m launch.train --workdir {folder} --config c.py:base --x=a b"]
    assert until(lambda: list(folder.glob("logs/*.log")))


def test_a_failure_is_reported(worker):
    (worker.home / "code").write_text("2")
    worker.begin()
    assert until(lambda: worker("status") == "failed 2")


def test_stopping_lets_the_trainer_save(worker):
    (worker.home / "wait").touch()
    worker.begin()
    assert until(lambda: ran(worker))
    assert worker("status") == "running"
    worker.begin()  # a second one is refused
    worker("stop")
    assert worker("status") == "stopped"
    assert len(ran(worker)) == 2 and ran(worker)[-1] == "saved"


def test_a_killed_worker_is_dead(worker):
    (worker.home / "wait").touch()
    worker.begin()
    assert until(lambda: ran(worker))
    os.killpg(int((worker.home / "run/pid").read_text()), signal.SIGKILL)
    assert until(lambda: worker("status") == "dead")
