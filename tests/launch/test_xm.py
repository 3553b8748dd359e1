"""launch.xm: what it says it would run, what it hands to XManager, and its one-line mistakes."""

import os
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

from configs import hardware
from launch import plan, xm
from maskgit_sr.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BASE = "configs/realsrt.py:nano"
DATA = ["--config.data.root", "tfds:div2k"]


def test_dry_run_prints_what_would_run():
    arguments = [
        *(f"--config={BASE}", "--workdir=gs://bucket/w", "--executor=vertex"),
        *("--accelerator=v5e-8", "--sweep=config.seed=0,1", "--dry-run", "--", *DATA),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "launch.xm", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines() if "launch.train --" in line] == [
        f"python -m launch.train --config configs/realsrt.py:nano,hardware=v5e-8 "
        f"--workdir gs://bucket/w/seed={seed} --config.data.root=tfds:div2k --config.seed={seed}"
        for seed in (0, 1)
    ]


def test_words_are_quoted_for_a_shell(tmp_path):
    found = plan.make_plan(BASE, str(tmp_path), [*DATA, "--config.init=a b'c"])
    [line] = [line for line in found.lines() if "launch.train --" in line]
    assert shlex.split(line)[3:] == found.arguments(found.runs[0])


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


class Experiment:
    """Stands for the one that ``xm_local.create_experiment`` returns; notes its jobs."""

    def __init__(self, jobs):
        self.jobs = jobs

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    def package(self, packageables):
        [container] = packageables
        assert (Path(container["path"]) / "maskgit_sr").is_dir()  # still there when it is built
        self.container = container
        return ["executable"]

    async def add(self, job):
        entry = {"words": job["args"], "executor": job["executor"], "waited": False}
        self.jobs.append(entry | {"container": self.container})

        async def wait():
            self.jobs[-1]["waited"] = True

        return types.SimpleNamespace(wait_until_complete=wait)


@pytest.fixture
def xmanager(monkeypatch):
    """A stand-in for the package: (jobs as they were added, its module ``vertex``)."""
    jobs = []

    def executor(kind):
        return lambda requirements, **more: types.SimpleNamespace(
            requirements=requirements, Spec=lambda: kind, **more
        )

    parts = {
        "xm": {name: dict for name in ("JobRequirements", "Job", "python_container")}
        | {name: lambda word: word for name in ("ShellSafeArg", "CommandList")},
        "xm_local": {kind: executor(kind) for kind in ("Vertex", "Local")}
        | {"DockerOptions": dict, "create_experiment": lambda experiment_title: Experiment(jobs)},
    }
    package = types.SimpleNamespace(
        **{name: types.SimpleNamespace(**members) for name, members in parts.items()}
    )
    vertex = types.SimpleNamespace()
    platform = types.SimpleNamespace(AcceleratorType={"NVIDIA_H100_80GB": 13})
    for name, module in {
        "xmanager": package,
        "xmanager.cloud": types.SimpleNamespace(vertex=vertex),
        "google.cloud": types.SimpleNamespace(aiplatform_v1=platform),
        "google.cloud.aiplatform_v1": platform,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return jobs, vertex


def launch(found):
    with pytest.raises(StopIteration):
        xm._launch(found).send(None)  # nothing in it waits for anything outside


def test_vertex_gets_one_job_a_run(xmanager):
    jobs, vertex = xmanager
    found = plan.make_plan(BASE, "gs://b/w", DATA, "vertex", "h100x8", sweeps=["config.seed=0,1"])
    launch(found)
    assert [job["words"] for job in jobs] == [found.arguments(run) for run in found.runs]
    for job in jobs:
        assert not job["waited"] and job["executor"].requirements == {"h100": 8}
        assert job["container"]["executor_spec"] == "Vertex"
        assert job["container"]["entrypoint"] == ['exec python -m launch.train "$@"']
    assert vertex.get_machine_spec(None) == {
        "machine_type": "a3-highgpu-8g",
        "accelerator_type": 13,
        "accelerator_count": 8,
    }


def test_local_runs_wait_for_each_other(xmanager, tmp_path):
    jobs, _ = xmanager
    found = plan.make_plan(
        *(BASE, str(tmp_path / "w"), DATA, "local", "h100x1"),
        sweeps=["config.seed=0,1"],
        mounts=["/photos"],
    )
    launch(found)
    assert [job["words"] for job in jobs] == [found.arguments(run) for run in found.runs]
    assert all(job["waited"] for job in jobs)
    assert (tmp_path / "w" / "seed=1").is_dir()
    executor = jobs[0]["executor"]
    assert executor.requirements == {"local_gpu": 1}
    mounted = {"/dev/shm", "/photos", *(run.workdir for run in found.runs)}
    assert set(executor.docker_options["volumes"]) == mounted
