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
NONE = "create=0 start=0 delete=0"
ONCE, TWICE, DONE = "create=1 start=1 delete=1", "create=2 delete=2", "training is done: gs://b/w"

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
        (["--accelerator", "v5e-8", "--on-demand"], ["--accelerator-type=v5litepod-8"]),
        (["--accelerator=v4-8", "--runtime=x"], ["--accelerator-type=v4-8", "--runtime-version=x"]),
        (["--service-account=a@b", "--network=net"], ["--service-account=a@b", "--network=net"]),
    ],
)
def test_types_and_capacity(cloud, extra, words):
    found = set(cloud("create", *WHERE, *extra, "--dry-run")[0].stdout.split())
    assert set(words) <= found and ("--spot" in found) is ("--on-demand" not in extra)


@pytest.mark.parametrize(
    ("words", "answers", "calls", "told"),
    [
        ("all", "states=WAITING/ACTIVE progress=running,done/done,done", ONCE, DONE),
        # preempted while it trains, while it is set up, and before its request says so
        ("all", "states=ACTIVE/ACTIVE/SUSPENDED/ACTIVE progress=running/done", TWICE, "SUSPENDED;"),
        ("all", "states=ACTIVE/SUSPENDED/ACTIVE scp=lost/ok", TWICE, "while it was set up;"),
        ("all", "nodes=PREEMPTED progress=UNREACHABLE/done", TWICE, "n is PREEMPTED; restart 1 of"),
        # neither the network nor the processes on a slice are the slice
        ("watch", "states=OFFLINE/ACTIVE progress=UNREACHABLE/done", NONE, DONE),
        ("watch", "progress=done,dead/done,done", "stop=1 start=1 create=0", "training is dead;"),
        ("watch", "progress=done,stopped/done", "stop=1 start=1 create=0", "is stopped; restart"),
        ("all", "progress=running/failed 2,done", f"log=1 {ONCE}", "failed 2; see gs://b/w/logs"),
        ("all --keep", "progress=failed 2", "create=1 delete=0", "training failed 2"),
        ("watch --restarts=2", "states=SUSPENDED", "create=2", "n was lost 2 times; --restarts"),
        ("all", "states=FAILED", "create=1 start=0", "the request for v5p-128 in z failed"),
    ],
)
def test_a_run_is_brought_to_its_end(cloud, words, answers, calls, told):
    """Through preemptions; what failed or cannot be had is not tried again for ever."""
    command, *options = words.split()
    given = re.findall(r"(\w+)=(.+?)(?= \w+=|$)", answers)
    answers = {name: lines.split("/") for name, lines in given}
    done, found = cloud(command, *RUN, "--poll=0", *options, **answers)
    for name, number in re.findall(r"(\w+)=(\d)", calls):
        assert found[name] == int(number), name
    ended = "failed" in done.stderr or "--restarts" in done.stderr
    assert told in done.stderr and done.returncode == ended
    assert ended or DONE in done.stderr


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
        '[[ "$(cat "$HOME/code" 2>&1)" != 2 ]] || exit 2\n'
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


def ends(worker, state):
    """Waits until the worker is in that state."""
    return any(worker("status") == state or time.sleep(0.02) for _ in range(500))


def ran(worker):
    """What the trainer has noted, at least one line."""
    path = worker.home / "ran"
    assert any(path.exists() or time.sleep(0.02) for _ in range(500))
    return path.read_text().splitlines()


@pytest.mark.parametrize(("code", "state"), [("0", "done"), ("2", "failed 2")])
def test_a_worker_trains_and_keeps_its_log(worker, code, state):
    assert worker("status") == "absent"
    (worker.home / "code").write_text(code)
    worker.begin()
    assert ends(worker, state)
    folder = worker.home / "w"
    assert ran(worker) == [f"-m launch.train --workdir {folder} --config c.py:base --x=a b"]
    assert any(list(folder.glob("logs/*.log")) or time.sleep(0.02) for _ in range(500))


def test_stopping_lets_the_trainer_save(worker):
    (worker.home / "wait").touch()
    worker.begin()
    assert ran(worker) and worker("status") == "running"
    worker.begin()  # a second one is refused
    worker("stop")
    assert worker("status") == "stopped"
    assert len(ran(worker)) == 2 and ran(worker)[-1] == "saved"


def test_a_killed_worker_is_dead(worker):
    (worker.home / "wait").touch()
    worker.begin()
    assert ran(worker)
    os.killpg(int((worker.home / "run/pid").read_text()), signal.SIGKILL)
    assert ends(worker, "dead")
