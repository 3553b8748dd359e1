"""launch.xm: what it says it would run, what it hands to XManager, and its one-line mistakes."""

import asyncio
import os
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from configs import hardware
from launch import plan, xm
from maskgit_sr.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BASE = "configs/realsrt.py:nano"
DATA = ["--config.data.root", "tfds:div2k"]


def run(*arguments, before=""):
    """launch.xm in a process of its own."""
    program = f"{before}import sys, runpy; sys.argv = {['launch.xm', *arguments]!r}; "
    program += "runpy.run_module('launch.xm', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_dry_run_prints_what_would_run():
    done = run(
        *(f"--config={BASE}", "--workdir=gs://bucket/w", "--executor=vertex"),
        *("--accelerator=v5e-8", "--sweep=config.seed=0,1", "--dry-run", "--", *DATA),
        "--config.init=a b'c",
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "launch.train --" in line]
    assert [shlex.split(line)[3:] for line in lines] == [
        [
            *("--config", "configs/realsrt.py:nano,hardware=v5e-8"),
            *("--workdir", f"gs://bucket/w/seed={seed}", "--config.data.root=tfds:div2k"),
            *("--config.init=a b'c", f"--config.seed={seed}"),
        ]
        for seed in (0, 1)
    ]


def test_sweeps_are_multiplied_and_have_a_folder_each():
    sweeps = ["config.data.margin=8,16", "config.seed=0,1,2"]
    found = plan.make_plan(BASE, "gs://b/w/", DATA, "vertex", "h100x8", sweeps=sweeps)
    assert len({run.workdir for run in found.runs}) == len(found.runs) == 6
    first, last = found.runs[0], found.runs[-1]
    assert first.workdir == "gs://b/w/margin=8,seed=0"
    assert last.arguments == (
        "--config.data.root=tfds:div2k",
        "--config.data.margin=16",
        "--config.seed=2",
    )


def test_names_of_runs():
    assert plan.run_name({}) == ""
    assert plan.run_name({"config.a.x": "1", "config.b.x": "2"}) == "a.x=1,b.x=2"
    assert plan.run_name({"config.a": "(1, 2)", "config.b": "p/q"}) == "a=_1__2_,b=p_q"
    assert plan.sweep_values("config.a=(1,2),(3,4),5") == ("config.a", ["(1,2)", "(3,4)", "5"])


def test_accelerators_are_the_configs_machines():
    assert set(plan.ACCELERATORS) - {"cpu"} == set(hardware.HARDWARE)
    cpu = plan.make_plan(BASE, "w", DATA)
    assert cpu.config == BASE and cpu.runs[0].workdir == os.path.abspath("w")
    given = plan.make_plan(f"{BASE},hardware=h100x1", "w", DATA, "local", "h100x8")
    assert given.config == f"{BASE},hardware=h100x1"


def test_only_the_sources_are_packed(tmp_path):
    xm.copy_sources(tmp_path / "maskgit-sr")
    names = {path.name for path in (tmp_path / "maskgit-sr").iterdir()}
    assert names == {*xm._SOURCES, *xm._PACKAGES}
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "v5p-128", "executor": "vertex"}, "Vertex AI has no v5p-128; use launch/"),
        ({"executor": "vertex", "workdir": "w"}, "--workdir: expected gs://BUCKET/FOLDER"),
        ({"accelerator": "v5e-8"}, "--accelerator: a local container reaches no TPU"),
        ({"config": "configs/none.py"}, "--config: no such file: 'configs/none.py'"),
        ({"config": f"{BASE},stage=gan"}, "--config .*: stage: expected one of tokenizer"),
        ({"config": "configs/realsrt.py:huge"}, "--config .*: size: expected one of base"),
        ({"sweeps": ["config.rate=1"]}, "--config.rate: no such field"),
        ({"sweeps": ["seed=1"]}, "--sweep: expected config.KEY=VALUE,VALUE…, found 'seed=1'"),
        ({"sweeps": ["config.seed="]}, "--sweep: expected config.KEY=VALUE"),
        ({"sweeps": ["config.seed=1,1"]}, "each key and each value may be given once"),
        ({"arguments": ["x", *DATA]}, "unexpected argument 'x'"),
        ({"arguments": []}, "--config.data.root: expected a data set, found nothing"),
    ],
)
def test_a_mistake_is_said_before_anything_is_built(changes, message):
    given = {"config": BASE, "workdir": "gs://b/w", "arguments": DATA, **changes}
    with pytest.raises(UserError, match=message):
        plan.make_plan(**given)


def test_without_xmanager_one_line_and_exit_code_2():
    absent = "import sys; sys.modules['xmanager'] = None; "
    done = run(f"--config={BASE}", "--workdir=w", "--", *DATA, before=absent)
    assert (done.returncode, done.stdout) == (2, "")
    message = "launch.xm: xmanager is not installed: pip install '.[xm]' (or --dry-run)\n"
    assert done.stderr == message


@pytest.fixture
def xmanager(monkeypatch):
    """Mocks of the package's two modules, of its ``vertex``, and of an experiment."""
    parts, vertex, platform, experiment = (mock.MagicMock() for _ in range(4))
    for name in ("JobRequirements", "Job", "python_container"):
        getattr(parts.xm, name).side_effect = dict
    parts.xm.ShellSafeArg.side_effect = str
    parts.xm_local.DockerOptions.side_effect = dict
    platform.AcceleratorType = {"NVIDIA_H100_80GB": 13}
    parts.xm_local.create_experiment.return_value.__aenter__.return_value = experiment
    experiment.add = mock.AsyncMock()

    def package(containers):
        assert Path(containers[0]["path"], "maskgit_sr").is_dir()  # still there when it is built
        return ["executable"]

    experiment.package.side_effect = package
    for name, module in {
        "xmanager": parts,
        "xmanager.cloud": mock.MagicMock(vertex=vertex),
        "google.cloud": mock.MagicMock(aiplatform_v1=platform),
        "google.cloud.aiplatform_v1": platform,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return parts.xm_local, vertex, experiment


@pytest.mark.parametrize(
    ("executor", "accelerator", "needs"),
    [("vertex", "h100x8", {"h100": 8}), ("local", "h100x1", {"local_gpu": 1})],
)
def test_every_run_of_a_sweep_is_a_job(xmanager, tmp_path, executor, accelerator, needs):
    kinds, vertex, experiment = xmanager
    workdir = "gs://b/w" if executor == "vertex" else str(tmp_path / "w")
    sweeps, mounts = ["config.seed=0,1"], ["/photos"]
    found = plan.make_plan(BASE, workdir, DATA, executor, accelerator, sweeps, mounts)
    asyncio.run(xm._launch(found))
    jobs = [call.args[0] for call in experiment.add.await_args_list]
    assert [job["args"] for job in jobs] == [found.arguments(run) for run in found.runs]
    [container] = experiment.package.call_args.args[0]
    assert container["docker_instructions"] == found.instructions()
    waits = experiment.add.return_value.wait_until_complete
    if executor == "vertex":
        assert kinds.Vertex.call_args == mock.call(needs) and not waits.called
        machine = {"machine_type": "a3-highgpu-8g", "accelerator_type": 13, "accelerator_count": 8}
        assert vertex.get_machine_spec(None) == machine
    else:
        volumes = {path: path for path in ("/dev/shm", "/photos", *(r.workdir for r in found.runs))}
        assert kinds.Local.call_args == mock.call(needs, docker_options={"volumes": volumes})
        assert waits.await_count == 2 and (tmp_path / "w/seed=1").is_dir()
