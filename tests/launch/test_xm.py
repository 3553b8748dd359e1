"""launch.xm: what it says it would run, what it hands to XManager, and its one-line mistakes."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from configs import hardware
from launch import plan, xm
from maskgit_sr.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BASE = "configs/realsrt.py:base"
DATA = ["--config.data.root", "tfds:div2k"]


def command_line(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.xm", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_dry_run_prints_what_would_run():
    done = command_line(
        f"--config={BASE}",
        "--workdir=gs://bucket/w",
        "--executor=vertex",
        "--accelerator=v5e-8",
        "--stages=tokenizer,control",
        "--sweep=config.stage.optimizer.learning_rate=1e-4,2e-4",
        "--dry-run",
        "--",
        *DATA,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "experiment: realsrt, runs: 2",
        "executor: vertex",
        "accelerator: v5e-8 (machine_type=ct5lp-hightpu-8t, tpu_topology=2x4)",
        "docker image: FROM python:3.12-slim",
    ]
    assert (
        "  RUN pip install --no-cache-dir -r requirements.txt 'jax[tpu]' 'gcsfs>=2026.6,<2027'"
        in lines
    )
    commands = [line.strip() for line in lines if "launch.train" in line]
    assert commands == [
        "python -m launch.train "
        f"--config configs/realsrt.py:base,hardware=v5e-8,stage={stage} "
        f"--workdir gs://bucket/w/learning_rate={rate} --config.data.root=tfds:div2k "
        f"--config.stage.optimizer.learning_rate={rate}"
        for rate in ("1e-4", "2e-4")
        for stage in ("tokenizer", "control")
    ]


@pytest.mark.parametrize("sweep", [(), ("config.seed=0,1",)])
def test_the_container_runs_the_printed_commands(sweep, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s|" python "$@"\necho\n')
    python.chmod(0o755)
    arguments = [*DATA, "--config.data.small=a b'c"]
    found = plan.make_plan("configs/realsrt.py:nano", str(tmp_path), arguments, sweeps=sweep)
    for run in found.runs:
        done = subprocess.run(
            ["bash", str(ROOT / plan.RUNNER), *found.arguments(run)],
            env={**os.environ, "PYTHON": str(python)},
            capture_output=True,
            text=True,
            check=True,
        )
        ran = [line[:-1].split("|") for line in done.stdout.splitlines() if "|" in line]
        assert ran == [plan.shlex.split(command) for command in found.commands(run)]


def test_sweeps_are_multiplied_and_have_a_folder_each():
    sweeps = ["config.stage.optimizer.learning_rate=1e-4,2e-4", "config.seed=0,1,2"]
    found = plan.make_plan(BASE, "gs://b/w/", DATA, "vertex", "h100x8", sweeps=sweeps)
    assert len({run.workdir for run in found.runs}) == len(found.runs) == 6
    first, last = found.runs[0], found.runs[-1]
    assert first.workdir == "gs://b/w/learning_rate=1e-4,seed=0"
    assert last.arguments == (
        "--config.data.root=tfds:div2k",
        "--config.stage.optimizer.learning_rate=2e-4",
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


def test_image_is_the_dockerfiles():
    written = (ROOT / "launch/Dockerfile").read_text()
    for name in plan.ACCELERATORS:
        found = plan.Plan("t", "local", name, BASE, (), ()).instructions()
        [install] = [line for line in found if "-r requirements.txt" in line]
        package = re.sub(r".*requirements\.txt", "pip install -r requirements.txt", install)
        assert f"{package} ;;" in written
    assert f"FROM {plan.IMAGE}\n" in written


def test_only_the_sources_are_packed(tmp_path):
    xm.copy_sources(tmp_path / "maskgit-sr")
    names = {path.name for path in (tmp_path / "maskgit-sr").iterdir()}
    assert names == {*xm._SOURCES, *xm._PACKAGES}
    assert not list(tmp_path.rglob("__pycache__"))
    assert (tmp_path / "maskgit-sr" / plan.RUNNER).is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "v5p-128", "executor": "vertex"}, "Vertex AI has no v5p-128; use launch/"),
        ({"executor": "vertex", "workdir": "w"}, "--workdir: expected gs://BUCKET/FOLDER"),
        ({"accelerator": "v5e-8"}, "--accelerator: a local container reaches no TPU"),
        ({"stages": ["gan"]}, "--stages: expected some of tokenizer, .*, found 'gan'"),
        ({"config": "configs/none.py"}, "--config: expected a file of .*, found 'configs/none.py'"),
        ({"config": f"{BASE},stage=critic"}, "--config: the stage is chosen by --stages"),
        ({"config": "configs/realsrt.py:huge"}, "--config: size: expected one of base"),
        ({"sweeps": ["config.stage.rate=1"]}, "--config.stage.rate: configs/realsrt.py has no"),
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
    arguments = ["launch.xm", f"--config={BASE}", "--workdir=w", "--", *DATA]
    program = (
        "import runpy, sys; sys.modules['xmanager'] = None; "
        f"sys.argv = {arguments!r}; runpy.run_module('launch.xm', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == (
        "launch.xm: xmanager is not installed: pip install '.[xm]' (or --dry-run)\n"
    )


class Recorder(types.ModuleType):
    """A module that notes every call of what is asked of it."""

    def __init__(self, name, calls):
        super().__init__(name)
        self.calls = calls

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments, **keywords):
            self.calls.append((name, arguments, keywords))
            return types.SimpleNamespace(kind=name, arguments=arguments, **keywords)

        call.Spec = "spec"
        return call


class Experiment:
    """Stands for the one that ``xm_local.create_experiment`` returns."""

    def __init__(self, log):
        self.log = log

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        self.log.append("closed")

    def package(self, packageables):
        [container] = packageables
        assert (Path(container.path) / "maskgit_sr").is_dir()  # still there when it is built
        self.log.append("packaged")
        return ["executable"]

    async def _waited(self):
        self.log.append("waited")

    async def add(self, job):
        self.log.append([word.arguments[0] for word in job.args])
        return types.SimpleNamespace(wait_until_complete=self._waited)


@pytest.fixture
def xmanager(monkeypatch):
    """A stand-in for the package, and what was asked of it."""
    log, calls = [], []
    parts = {name: Recorder(name, calls) for name in ("xm", "xm_local", "vertex")}

    def executor(kind):
        def make(requirements, **more):
            made = types.SimpleNamespace(requirements=requirements, Spec=lambda: kind, **more)
            calls.append((kind, (made,), {}))
            return made

        return make

    for kind in ("Vertex", "Local"):
        setattr(parts["xm_local"], kind, executor(kind))
    parts["xm_local"].create_experiment = lambda experiment_title: Experiment(log)
    package = types.ModuleType("xmanager")
    package.xm, package.xm_local = parts["xm"], parts["xm_local"]
    cloud = types.ModuleType("xmanager.cloud")
    cloud.vertex = parts["vertex"]
    platform = types.ModuleType("google.cloud.aiplatform_v1")
    platform.AcceleratorType = {"NVIDIA_H100_80GB": 13}
    google = types.ModuleType("google.cloud")
    google.aiplatform_v1 = platform
    for name, module in {
        "xmanager": package,
        "xmanager.cloud": cloud,
        "google.cloud": google,
        "google.cloud.aiplatform_v1": platform,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return log, calls, parts


def launch(found):
    coroutine = xm._launch(found)
    with pytest.raises(StopIteration):
        coroutine.send(None)  # nothing in it waits for anything outside


def test_vertex_gets_one_job_a_run(xmanager):
    log, calls, parts = xmanager
    sweeps = ["config.seed=0,1"]
    found = plan.make_plan(BASE, "gs://b/w", DATA, "vertex", "h100x8", sweeps=sweeps)
    launch(found)
    assert log == ["packaged", *(found.arguments(run) for run in found.runs), "closed"]
    requirements = [keywords for name, _, keywords in calls if name == "JobRequirements"]
    assert requirements == [{"h100": 8}]
    [container] = [keywords for name, _, keywords in calls if name == "python_container"]
    assert container["executor_spec"] == "Vertex" and container["base_image"] == plan.IMAGE
    assert parts["vertex"].get_machine_spec(None) == {
        "machine_type": "a3-highgpu-8g",
        "accelerator_type": 13,
        "accelerator_count": 8,
    }


def test_local_runs_wait_for_each_other(xmanager, tmp_path):
    log, calls, _ = xmanager
    sweeps = ["config.seed=0,1"]
    found = plan.make_plan(
        BASE, str(tmp_path / "w"), DATA, "local", "h100x1", sweeps=sweeps, mounts=["/photos"]
    )
    launch(found)
    first, second = (found.arguments(run) for run in found.runs)
    assert log == ["packaged", first, "waited", second, "waited", "closed"]
    assert (tmp_path / "w" / "seed=1").is_dir()
    [options] = [keywords for name, _, keywords in calls if name == "DockerOptions"]
    assert list(options["volumes"]) == ["/dev/shm", "/photos", *(run.workdir for run in found.runs)]
    assert [k for name, _, k in calls if name == "JobRequirements"] == [{"local_gpu": 1}]
