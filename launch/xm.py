"""Launches training through XManager: on this machine in a container, or on Vertex AI.

    python -m launch.xm --config=configs/realsrt.py:base --workdir=gs://BUCKET/W \\
        --executor=vertex --accelerator=h100x8 \\
        --sweep=config.stages.generator.optimizer.learning_rate=1e-4,2e-4 --sweep=config.seed=0,1 \\
        -- --config.data.root=tfds:div2k

Words after ``--`` go to ``launch.train`` unchanged. Each run is one job that trains all stages (or
that of ``stage=`` in the config), so no launcher has to stay awake between them; each run of a
sweep (the product of all ``--sweep``) has its own folder in the workdir. ``--dry-run`` prints the
plan and needs no xmanager; ``pip install '.[xm]'`` installs it.

Vertex AI needs ``GOOGLE_CLOUD_PROJECT``, ``GOOGLE_CLOUD_BUCKET_NAME`` and a login of gcloud, and
has no v5p: launch/tpu_pod.sh does pods.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags

from launch.plan import ACCELERATORS, FOLDER, IMAGE, ROOT, TRAIN, Plan, make_plan
from maskgit_sr.errors import UserError, one_line

_SOURCES = ("requirements.txt", "pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE")
_PACKAGES = ("maskgit_sr", "configs", "data", "launch")


def copy_sources(target: Path) -> None:
    """Copies the image's sources alone: XManager would pack the whole folder with its .git."""
    for name in _SOURCES:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    for name in _PACKAGES:
        shutil.copytree(
            ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )


async def _launch(plan: Plan) -> None:
    from xmanager import xm, xm_local

    kind = ACCELERATORS[plan.accelerator]
    if plan.executor == "vertex":
        _teach_vertex(kind.machine)
        executor: Any = xm_local.Vertex(xm.JobRequirements(**kind.requirements))
    else:
        for run in plan.runs:
            if not run.workdir.startswith("gs://"):
                Path(run.workdir).mkdir(parents=True, exist_ok=True)
        gpus = {"local_gpu": kind.gpus} if kind.gpus else {}
        executor = xm_local.Local(
            xm.JobRequirements(**gpus),
            docker_options=xm_local.DockerOptions(volumes=plan.volumes()),
        )
    async with xm_local.create_experiment(experiment_title=plan.title) as experiment:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / FOLDER
            copy_sources(folder)
            [executable] = experiment.package(
                [
                    xm.python_container(
                        executor_spec=executor.Spec(),
                        entrypoint=xm.CommandList([f'exec {TRAIN} "$@"']),
                        path=str(folder),
                        base_image=plan.image,
                        docker_instructions=plan.instructions(),
                    )
                ]
            )
        for run in plan.runs:
            # no shell parses a container's arguments: XManager's quotes would stay in them
            words = [xm.ShellSafeArg(word) for word in plan.arguments(run)]
            job = xm.Job(executable=executable, executor=executor, args=words)
            unit = await experiment.add(job)
            if plan.executor == "local":  # one after another: all runs share this machine's device
                await unit.wait_until_complete()


def _teach_vertex(machine: dict[str, int | str]) -> None:
    """Makes XManager use ``machine``: its 0.8 knows machine types up to A100 and TPU v3 only."""
    import google.cloud.aiplatform_v1 as aiplatform_v1
    from xmanager.cloud import vertex

    fields: dict[str, Any] = dict(machine)
    if "accelerator_type" in fields:
        fields["accelerator_type"] = aiplatform_v1.AcceleratorType[fields["accelerator_type"]]
    vertex.get_machine_spec = lambda job: dict(fields)


def define_flags() -> None:
    """Defines the flags, not at import, since ``launch.train`` has a ``--config`` of its own."""
    flags.DEFINE_string("config", None, "Config file with options, such as FILE:base.")
    flags.DEFINE_string("workdir", None, "Folder of the run; gs://… for Vertex AI.")
    flags.DEFINE_enum("executor", "local", ["local", "vertex"], "Where it runs.")
    flags.DEFINE_enum("accelerator", "cpu", list(ACCELERATORS), "On what; sets hardware= as well.")
    flags.DEFINE_multi_string("sweep", [], "config.KEY=VALUE,VALUE…; all are multiplied.")
    flags.DEFINE_multi_string("mount", [], "Folder that a local container sees, such as the data.")
    flags.DEFINE_string("base_image", IMAGE, "Image to build on; Python 3.11 or newer.")
    flags.DEFINE_boolean("dry-run", False, "Print what would run, and run nothing.")
    flags.DEFINE_alias("dry_run", "dry-run")
    flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Runs the command; a user's mistake is one line and exit code 2."""
    given = flags.FLAGS
    with one_line("launch.xm"):
        machine = given.executor, given.accelerator
        more = given.sweep, given.mount, given.base_image
        plan = make_plan(given.config, given.workdir, argv[1:], *machine, *more)
        if given["dry-run"].value:
            print("\n".join(plan.lines()))
            return
        try:
            from xmanager import xm
        except ImportError:
            raise UserError(
                "xmanager is not installed: pip install '.[xm]' (or --dry-run)"
            ) from None
    xm.run_in_asyncio_loop(_launch)(plan)


if __name__ == "__main__":
    define_flags()
    with contextlib.suppress(ImportError):
        importlib.import_module("xmanager.xm_flags")  # defines --xm_…, which must be parsed as well
    app.run(main)
