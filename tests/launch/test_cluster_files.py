"""Shell scripts parse, the Slurm job trains, goes back into the queue, and names mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import finished

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
BATCH = LAUNCH / "slurm/train.sbatch"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_the_first_error(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "\nset -euo pipefail\n" in path.read_text() and os.access(path, os.X_OK)


WHERE = "--project p --zone z --name n"
RUN = f"{WHERE} --workdir=gs://b/w --data=gs://b/p"
JOB = "--project p --region=r --image r/i --input gs://b/in --output gs://b/out"


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("tpu_pod", "start", "expected a command (create, setup, train, logs, watch, delete, all)"),
        ("tpu_pod", "create", "--project is missing"),
        ("tpu_pod", "create --project p", "--zone is missing"),
        ("tpu_pod", "delete --project p --zone z", "--name is missing"),
        ("tpu_pod", f"train {WHERE}", "--workdir is missing"),
        (
            "tpu_pod",
            f"all {WHERE} --workdir w",
            "--workdir: expected gs://BUCKET/FOLDER, found 'w'",
        ),
        ("tpu_pod", f"all {WHERE} --workdir=gs://b/w", "--data is missing"),
        ("tpu_pod", f"all {RUN} --accelerator=v4-8", "--config is missing: only v5e-8 and v5p-128"),
        ("tpu_pod", f"all {RUN} --poll soon", "--poll: expected a whole number, found 'soon'"),
        ("tpu_pod", f"all {RUN} --zones z", "unknown option '--zones'"),
        ("tpu_pod", "create --project", "--project: expected a value, found nothing"),
        ("gcp/dataflow", "", "expected a command (build, run, all), found ''"),
        ("gcp/dataflow", "build", "--image is missing"),
        ("gcp/dataflow", "run --project=p --region=r --image=i", "--input is missing"),
        ("gcp/dataflow", f"run {JOB} --output out", "--output: expected gs://…, found 'out'"),
        ("gcp/dataflow", f"run {JOB} --workers 0", "--workers: expected a number, found '0'"),
    ],
)
def test_a_mistake_is_one_line(script, words, message):
    command = ["bash", str(LAUNCH / f"{script}.sh"), *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert f": {message}" in done.stderr and done.stderr.count("\n") == 1


def write(workdir, **stages):
    found = {name: {"step": 1, "steps": 1, "finished": done} for name, done in stages.items()}
    (workdir / "train.json").write_text(json.dumps({"order": ["a", "b"], "stages": found}))


def test_a_run_is_finished_when_all_its_stages_are(tmp_path):
    assert not finished.finished(tmp_path)
    for b, done in (({"b": True}, True), ({"b": False}, False), ({}, False)):
        write(tmp_path, a=True, other=False, **b)  # of another command
        assert finished.finished(str(tmp_path)) is done


@pytest.fixture
def slurm(tmp_path):
    """train.sbatch in a job that is none: srun notes its words and ends as it is told."""
    for name, body in {
        "srun": 'printf "%s\\n" "JAX=${JAX_LOCAL_DEVICE_IDS:-}" "$@" >>"$NOTES"\n'
        'trap \'sleep 0.3; echo saved >>"$NOTES"; exit "$CODE"\' TERM\n'
        '[[ -z "${SIGNALS:-}" ]] || for i in {1..500}; do sleep 0.01; done\n'
        'exit "$CODE"',
        "scontrol": 'echo scontrol "$@" >>"$NOTES"',
        "bin/python": f'exec {sys.executable} "$@"',
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
            "VENV": str(tmp_path),
            "SIGNALS": "",
            **variables,
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(["bash", str(BATCH)], env=settings, **pipes) as job:
            for _ in range(int(settings["SIGNALS"] or 0)):
                while not notes.read_text():
                    time.sleep(0.02)
                time.sleep(0.1)
                job.send_signal(signal.SIGTERM)
            _, errors = job.communicate(timeout=20)
        return job.returncode, errors, notes.read_text().splitlines()

    return call


def test_slurm_trains_a_process_a_gpu_or_a_process_a_node(slurm, tmp_path):
    write(tmp_path, a=True, b=True)
    given = {"DATA": "/photos", "WORKDIR": str(tmp_path), "ARGS": "--config.seed=1 --x=2"}
    code, errors, words = slurm(**given)
    assert code == 0, errors
    assert words[0] == "JAX="  # jax gives each process the GPU of its rank
    assert words[words.index("-m") + 1 :] == [
        *("launch.train", "--config", "configs/realsrt.py:base,hardware=h100x8"),
        *("--workdir", str(tmp_path), "--config.data.root", "/photos"),
        *("--config.data.workers", "10", "--config.seed=1", "--x=2"),
    ]
    alone = {"SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "4", "CONFIG": "c.py:base"}
    _, _, words = slurm(**given, **alone)
    assert words[0] == "JAX=0,1,2,3" and "c.py:base" in words


@pytest.mark.parametrize(
    ("code", "done", "signals", "ends", "requeued"),
    [
        (0, True, 0, 0, False),
        (0, False, 0, 0, True),
        (143, False, 0, 0, True),  # the signal came before the trainer listened
        (2, False, 0, 2, False),
        # twice, as Slurm may: the second signal must not cut the saving short
        (0, False, 2, 0, True),
        (3, False, 2, 3, False),
    ],
)
def test_slurm_requeues_what_was_saved(slurm, tmp_path, code, done, signals, ends, requeued):
    write(tmp_path, a=True, b=done)
    found, _, words = slurm(code, DATA="d", WORKDIR=str(tmp_path), SIGNALS=str(signals or ""))
    assert found == ends and ("saved" in words) is bool(signals)
    assert (words[-1] == "scontrol requeue 7") is requeued


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
    code, errors, words = slurm(**variables)
    assert code == 2 and not words
    assert errors.startswith(message) and errors.count("\n") == 1
