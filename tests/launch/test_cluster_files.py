"""Shell scripts parse, the Dockerfile and the Slurm job say what the rest of the tree expects."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from configs import realsrt

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
BATCH = LAUNCH / "slurm/train.sbatch"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_the_first_error(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ") and "\nset -euo pipefail\n" in text
    assert os.access(path, os.X_OK)
    assert max(map(len, text.splitlines())) <= 100 and len(text.splitlines()) < 400


def test_scripts_are_there():
    names = {path.relative_to(LAUNCH).as_posix() for path in SCRIPTS}
    assert {"tpu_pod.sh", "slurm/train.sbatch", "gcp/train_stages.sh", "gcp/worker.sh"} <= names
    pod = (LAUNCH / "tpu_pod.sh").read_text()
    for name in set(re.findall(r"launch/gcp/\w+\.sh", pod)):
        assert (ROOT / name).is_file(), name
    for text in (pod, (LAUNCH / "gcp/train_stages.sh").read_text(), BATCH.read_text()):
        assert ",".join(realsrt.STAGES) in text


DOCKERFILES = {"Dockerfile": ["launch.train"], "serve/Dockerfile": ["launch.serve", "0.0.0.0"]}


def instructions(name):
    text = re.sub(r"\\\n", " ", (LAUNCH / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile(name):
    found = instructions(name)
    assert found[0] == ("FROM", "python:3.12-slim")
    assert ("ARG", "EXTRA=cpu") in found
    entry = json.loads(found[-1][1])  # no shell, so that signals reach python
    assert found[-1][0] == "ENTRYPOINT" and entry[:2] == ["python", "-m"]
    assert set(DOCKERFILES[name]) <= set(entry)
    names = [name for name, _ in found]
    assert found[names.index("USER")] == ("USER", "maskgit")
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    [choice] = [words for name, words in found if name == "RUN" and "EXTRA" in words]
    for extra in ("cpu)", "cuda)", "tpu)"):
        assert extra in choice
    order = [words for _, words in found]
    copied = next(i for i, words in enumerate(order) if words.startswith("maskgit_sr "))
    assert order.index(choice) < copied  # a change of the code must not install everything again


def test_dockerfiles_copy_what_the_builder_gets():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for path in DOCKERFILES
        for name, words in instructions(path)
        if name == "COPY"
        for source in words.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_slurm_header():
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in BATCH.read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert options["signal"] == "TERM@120" and "requeue" in options
    assert options["ntasks-per-node"] == options["gpus-per-node"] == "8"
    assert options["open-mode"] == "append"  # a requeued job goes on in its log
    text = BATCH.read_text()
    first = next(i for i, line in enumerate(text.splitlines()) if line and line[0] != "#")
    last = max(i for i, line in enumerate(text.splitlines()) if line.startswith("#SBATCH"))
    assert last < first  # sbatch reads no option after the first command
    for variable in set(re.findall(r"\$\{([A-Z]+):?-", text)) - {"PYTHON"}:
        assert re.search(rf"^#   {variable} ", text, re.MULTILINE), variable


@pytest.fixture
def slurm(tmp_path):
    """train.sbatch in a job that is none: srun notes its words and ends as it is told."""
    for name, body in {
        "srun": 'printf "%s\\n" "JAX=${JAX_LOCAL_DEVICE_IDS:-}" "$@" >>"$NOTES"; exit "$CODE"',
        "scontrol": 'echo scontrol "$@" >>"$NOTES"',
        "bin/python": "exit 1",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    notes = tmp_path / "notes"

    def call(code=0, **variables):
        notes.write_text("")
        settings = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "NOTES": str(notes),
            "CODE": str(code),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "7",
            "SLURM_CPUS_PER_TASK": "12",
            "SLURM_NTASKS_PER_NODE": "8",
            "VENV": str(tmp_path),
            **variables,
        }
        done = subprocess.run(["bash", str(BATCH)], env=settings, capture_output=True, text=True)
        return done, notes.read_text().splitlines()

    return call


def test_slurm_starts_the_stages(slurm):
    done, words = slurm(DATA="/photos", WORKDIR="/runs/w", ARGS="--config.seed=1 --max_seconds=60")
    assert done.returncode == 0, done.stderr
    assert words[0] == "JAX="  # jax gives each process the GPU of its rank
    joined = shlex.join(words)
    assert "launch/gcp/train_stages.sh --config configs/realsrt.py:base,hardware=h100x8" in joined
    assert joined.endswith(
        "-- --config.data.root /photos --config.data.workers 10 --config.seed=1 --max_seconds=60"
    )


def test_slurm_with_one_process_a_node(slurm):
    _, words = slurm(
        DATA="d", WORKDIR="w", SLURM_NTASKS_PER_NODE="1", SLURM_GPUS_ON_NODE="4", STAGES="critic"
    )
    assert words[0] == "JAX=0,1,2,3" and "critic" in words


def test_slurm_requeues_what_was_saved_and_not_what_failed(slurm):
    done, words = slurm(code=75, DATA="d", WORKDIR="w")
    assert done.returncode == 0 and words[-1] == "scontrol requeue 7"
    done, words = slurm(code=2, DATA="d", WORKDIR="w")
    assert done.returncode == 2 and words[-1] != "scontrol requeue 7"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "train.sbatch: DATA is missing"),
        ({"DATA": "d"}, "train.sbatch: WORKDIR is missing"),
        ({"DATA": "d", "WORKDIR": "w", "VENV": "/none"}, "train.sbatch: VENV: no Python at /none"),
        ({"DATA": "d", "WORKDIR": "w", "SLURM_SUBMIT_DIR": "/"}, "train.sbatch: submit from"),
    ],
)
def test_slurm_mistakes_are_one_line(slurm, variables, message):
    done, words = slurm(**variables)
    assert done.returncode == 2 and not words
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


@pytest.fixture
def stages(tmp_path):
    """train_stages.sh with a trainer of our own: body → running process."""
    trainer = tmp_path / "python"

    def start(body, *arguments):
        trainer.write_text(f"#!/bin/bash\n{body}\n")
        trainer.chmod(0o755)
        return subprocess.Popen(
            ["bash", str(LAUNCH / "gcp/train_stages.sh"), *arguments],
            env={**os.environ, "PYTHON": str(trainer), "NOTES": str(tmp_path / "notes")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    start.notes = tmp_path / "notes"
    return start


GIVEN = ("--config", "c.py", "--workdir=w", "--stages", "a,b")


def test_stages_without_options_of_the_config(stages):
    process = stages('echo "$4"', *GIVEN)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert [line for line in output.splitlines() if ".py" in line] == [
        "c.py:stage=a",
        "c.py:stage=b",
    ]


@pytest.mark.parametrize(("save", "code"), [("exit 0", 75), ("exit 3", 3)])
def test_a_signal_waits_for_the_trainer(stages, save, code):
    # twice, as Slurm signals both processes: the second must not cut the saving short
    body = (
        f"trap 'sleep 0.3; echo saved >>\"$NOTES\"; {save}' TERM\n"
        "echo up\nwhile :; do sleep 0.02; done"
    )
    process = stages(body, *GIVEN)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "up":
        pass
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == code and "train_stages: b" not in output
    assert stages.notes.read_text() == "saved\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config is missing"),
        (("--config", "c"), "--workdir is missing"),
        (("--config",), "--config: expected a value, found nothing"),
        (("x",), "unexpected argument 'x'"),
    ],
)
def test_stages_mistakes_are_one_line(stages, arguments, message):
    process = stages("exit 1", *arguments)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2 and errors.startswith(f"train_stages: {message}")
    assert errors.count("\n") == 1
