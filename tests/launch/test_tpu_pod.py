"""launch/tpu_pod.sh and what it starts on the workers, against a gcloud that only takes notes."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch/tpu_pod.sh"
WHERE = ["--project", "p", "--zone", "z", "--name", "n"]
RUN = [*WHERE, "--workdir", "gs://b/w", "--data", "gs://b/photos"]
STATUS = "bash maskgit_sr/launch/gcp/worker.sh status"

GCLOUD = r"""#!/bin/bash
# the next line of $here/NAME, and its last one for ever
here="$(dirname "$0")"
answer() {
  head -n 1 "$here/$1"
  [[ "$(wc -l <"$here/$1")" == 1 ]] || sed -i 1d "$here/$1"
}
printf '%s\n' "$(printf '%q ' "$@")" >>"$here/calls"
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
    """tpu_pod.sh on a script of answers: (arguments, answers) → (result, kinds of calls)."""
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
        return done, [kind(shlex.split(line)) for line in calls.read_text().splitlines()]

    return call


def kind(words):
    """One word for a call of gcloud."""
    line = " ".join(words)
    for name, part in {
        "create": "queued-resources create",
        "delete": "queued-resources delete",
        "state": "queued-resources describe",
        "node": "tpu-vm describe",
        "copy": "tpu-vm scp",
        "install": "setup_worker.sh",
        "start": "worker.sh start",
        "stop": "worker.sh stop",
        "status": "worker.sh status",
        "log": "worker.sh log",
    }.items():
        if part in line:
            return name
    raise AssertionError(f"unexpected call of gcloud: {line}")


UP = ["create", "state", "copy", "install", "start"]


def test_dry_run_prints_every_command_and_runs_none(cloud):
    done, calls = cloud("all", *RUN, "--dry-run", "--", "--config.data.small", "a b'c")
    assert done.returncode == 0 and calls == [], done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    commands = [kind(line) for line in lines if line[0] == "gcloud"]
    assert commands == [*UP, "state", "status", "delete", *UP, "log", "delete"]
    create = lines[0]
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "n"]
    for word in (
        *("--project=p", "--zone=z", "--node-id=n", "--accelerator-type=v5p-128"),
        *("--runtime-version=v2-alpha-tpuv5", "--spot"),
    ):
        assert word in create
    [started] = {line[-1] for line in lines if kind_of(line) == "start"}
    assert "~/data" in started  # for the workers' shells to expand
    assert shlex.split(started.removeprefix("--command=")) == [
        *("bash", "maskgit_sr/launch/gcp/worker.sh", "start", "gs://b/w/logs"),
        *("--config", "configs/realsrt.py:base,hardware=v5p-128", "--workdir", "gs://b/w"),
        *("--stages", "tokenizer,generator,critic,control", "--", "--config.data.root", "~/data"),
        *("--config.data.small", "a b'c"),
    ]


def kind_of(line):
    return kind(line) if line[0] == "gcloud" else ""


def test_types_and_capacity():
    for extra, words in (
        (["--accelerator", "v5e-8"], ["v5litepod-8", "v2-alpha-tpuv5-lite", "--spot"]),
        (["--accelerator=v4-8", "--runtime=x"], ["--accelerator-type=v4-8", "--runtime-version=x"]),
        (["--service-account=a@b", "--network=net"], ["--service-account=a@b", "--network=net"]),
    ):
        done = subprocess.run(
            ["bash", str(SCRIPT), "create", *WHERE, *extra, "--dry-run"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert all(word in done.stdout for word in words)
    done = subprocess.run(
        ["bash", str(SCRIPT), "create", *WHERE, "--on-demand", "--dry-run"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--spot" not in done.stdout


def test_all_to_the_end(cloud):
    done, calls = cloud(
        *("all", *RUN, "--poll", "0"),
        states=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
        progress=["running,running", "done,running", "done,done"],
    )
    assert done.returncode == 0, done.stderr
    states = ["create", "state", "state", "state", "copy", "install", "start"]
    assert calls == [*states, *["state", "status"] * 3, "log", "delete"]
    assert "training is done: gs://b/w" in done.stderr


def test_a_preempted_slice_is_created_again(cloud):
    done, calls = cloud(
        *("all", *RUN, "--poll=0"),
        states=["ACTIVE", "ACTIVE", "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE"],
        progress=["running", "done"],
    )
    assert done.returncode == 0, done.stderr
    again = ["delete", "create", "state", "state", "copy", "install", "start"]
    assert calls == [*UP, "state", "status", "state", *again, "state", "status", "log", "delete"]
    assert "n is SUSPENDED; restart 1 of 100" in done.stderr


def test_preempted_while_it_is_set_up(cloud):
    done, calls = cloud(
        *("all", *RUN, "--poll=0"),
        states=["ACTIVE", "SUSPENDING", "SUSPENDED", "ACTIVE"],
        scp=["lost", "ok"],
    )
    assert done.returncode == 0, done.stderr
    first = ["create", "state", "copy", "state"]  # the copy fails: is the slice gone? it is
    lost = ["delete", "create", "state"]  # and once more before it was there
    assert calls == [*first, *lost, "delete", *UP, "state", "status", "log", "delete"]
    assert "restart 2 of 100" in done.stderr


def test_a_lost_node_counts_and_a_lost_network_does_not(cloud):
    done, calls = cloud(
        *("watch", *RUN, "--poll=0"),
        states=["OFFLINE", "ACTIVE"],
        nodes=["READY", "PREEMPTED"],
        progress=["UNREACHABLE", "UNREACHABLE", "done"],
    )
    assert done.returncode == 0, done.stderr
    assert calls[:6] == ["state", "state", "status", "node", "state", "status"]
    assert calls[6:] == ["node", "delete", *UP, "state", "status"]


def test_dead_processes_are_started_again_on_the_same_slice(cloud):
    done, calls = cloud("watch", *RUN, "--poll=0", progress=["running,dead", "done,done"])
    assert done.returncode == 0, done.stderr
    assert calls == ["state", "status", "stop", "start", "state", "status"]


def test_failed_training_ends_it_and_deletes_the_slice(cloud):
    done, calls = cloud("all", *RUN, "--poll=0", progress=["running,failed 2"])
    assert done.returncode == 1
    assert calls == [*UP, "state", "status", "log", "delete"]
    assert "training failed 2; see gs://b/w/logs" in done.stderr
    done, calls = cloud("all", *RUN, "--poll=0", "--keep", progress=["failed 2"])
    assert done.returncode == 1 and "delete" not in calls


def test_restarts_are_limited(cloud):
    done, calls = cloud("watch", *RUN, "--poll=0", "--restarts=2", states=["SUSPENDED"])
    assert done.returncode == 1 and calls.count("create") == 2
    assert done.stderr.strip().endswith("n was lost 2 times; --restarts allows no more")


def test_a_refused_request_is_not_repeated(cloud):
    done, calls = cloud("all", *RUN, "--poll=0", states=["FAILED"])
    assert done.returncode == 1 and calls == ["create", "state"]
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
    assert done.returncode == 2 and calls == [] and not done.stdout
    assert done.stderr.startswith(f"tpu_pod: {message}") and done.stderr.count("\n") == 1


# ---------------------------------------------------------------- on a worker


@pytest.fixture
def worker(tmp_path):
    """worker.sh in a home of its own, with a trainer that sleeps until it is told to stop."""
    trainer = tmp_path / "python"
    trainer.write_text(
        "#!/bin/bash\n"
        'echo "$@" >>"$HOME/ran"\n'
        "trap 'echo saved >>\"$HOME/ran\"; exit 0' TERM\n"
        '[[ ! -f "$HOME/code" ]] || exit "$(<"$HOME/code")"\n'
        'while [[ -f "$HOME/wait" ]]; do sleep 0.02; done\n'
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
        return done.stdout.strip()

    call.home = tmp_path
    yield call
    pid = tmp_path / "run/pid"
    if pid.exists():
        call("stop")


def until(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.02)
    return False


START = ["--config", "c.py:base", "--workdir", "w", "--stages", "a,b", "--", "--x=1"]


def test_a_worker_goes_through_the_stages(worker):
    assert worker("status") == "maskgit_sr-status: absent"
    worker("start", str(worker.home / "logs"), *START)
    assert until(lambda: worker("status") == "maskgit_sr-status: done")
    assert (worker.home / "ran").read_text().splitlines() == [
        f"-m launch.train --config c.py:base,stage={stage} --workdir w --x=1" for stage in "ab"
    ]
    assert until(lambda: list(worker.home.glob("logs/*.log")))
    assert "train_stages: all done" in worker("log")


def test_a_failure_is_reported_and_ends_the_run(worker):
    (worker.home / "code").write_text("2")
    worker("start", str(worker.home / "logs"), *START)
    assert until(lambda: worker("status") == "maskgit_sr-status: failed 2")
    assert len((worker.home / "ran").read_text().splitlines()) == 1


def test_stopping_lets_the_trainer_save_and_begins_no_stage(worker):
    (worker.home / "wait").touch()
    worker("start", str(worker.home / "logs"), *START)
    assert until((worker.home / "ran").exists)
    assert worker("status") == "maskgit_sr-status: running"
    worker("start", str(worker.home / "logs"), *START)  # a second one is refused
    worker("stop")
    assert worker("status") == "maskgit_sr-status: stopped"
    first, second = (worker.home / "ran").read_text().splitlines()
    assert "stage=a" in first and second == "saved"


def test_a_killed_worker_is_dead(worker):
    (worker.home / "wait").touch()
    worker("start", str(worker.home / "logs"), *START)
    assert until((worker.home / "ran").exists)
    group = int((worker.home / "run/pid").read_text())
    os.killpg(group, signal.SIGKILL)
    assert until(lambda: worker("status") == "maskgit_sr-status: dead")
