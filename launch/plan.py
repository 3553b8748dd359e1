"""What launch.xm would run: accelerators, images, command lines, sweeps, and their checks."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch import settings
from maskgit_sr.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "python:3.12-slim"
FOLDER = "maskgit-sr"
"""Of the sources in the build context; becomes the name of the image."""
TRAIN = "python -m launch.train"
_BUCKETS = "gcsfs>=2026.6,<2027"


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """What a job asks for.

    Attributes:
        requirements: keywords of ``xm.JobRequirements`` on Vertex AI.
        machine: fields of Vertex AI's MachineSpec; empty where Vertex AI has no such machine.
        package: of JAX for it, which pip installs beside requirements.txt; "" for the CPU's.
    """

    requirements: dict[str, int | str]
    machine: dict[str, int | str]
    package: str = ""

    @property
    def gpus(self) -> int:
        """Number of GPUs that a local container gets."""
        return int(self.machine.get("accelerator_count", 0))


def _h100(count: int) -> Accelerator:
    kind = {"machine_type": f"a3-highgpu-{count}g", "accelerator_type": "NVIDIA_H100_80GB"}
    return Accelerator({"h100": count}, {**kind, "accelerator_count": count}, "jax[cuda12]")


_V5E = {"machine_type": "ct5lp-hightpu-8t", "tpu_topology": "2x4"}
ACCELERATORS = {
    "cpu": Accelerator({}, {"machine_type": "n1-standard-16"}),
    "h100x1": _h100(1),
    "h100x8": _h100(8),
    "v5e-8": Accelerator({"tpu_v5e": "2x4"}, {**_V5E}, "jax[tpu]"),
    "v5p-128": Accelerator({"tpu_v5p": "4x4x4"}, {}, "jax[tpu]"),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of the sweep; ``name`` is "" without one."""

    name: str
    workdir: str
    arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that would run."""

    title: str
    executor: str
    accelerator: str
    config: str
    runs: tuple[Run, ...]
    image: str = IMAGE
    mounts: tuple[str, ...] = ()

    def arguments(self, run: Run) -> list[str]:
        """Returns what the container gets: arguments of `launch.train`."""
        return ["--config", self.config, "--workdir", run.workdir, *run.arguments]

    def instructions(self) -> list[str]:
        """Dockerfile instructions of the image."""
        package = ACCELERATORS[self.accelerator].package
        packages = f"'{package}' '{_BUCKETS}'" if package else f"'{_BUCKETS}'"
        return [
            "WORKDIR /app",
            f"COPY {FOLDER}/requirements.txt ./",
            f"RUN pip install --no-cache-dir -r requirements.txt {packages}",
            f"COPY {FOLDER}/ ./",
            "RUN pip install --no-cache-dir --no-deps .",
        ]

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        kind = ACCELERATORS[self.accelerator]
        machine = ", ".join(f"{key}={value}" for key, value in kind.machine.items())
        if self.executor == "local":
            machine = f"local_gpu={kind.gpus}" if kind.gpus else "no accelerator"
        yield f"experiment: {self.title}, runs: {len(self.runs)}"
        yield f"executor: {self.executor}"
        yield f"accelerator: {self.accelerator} ({machine})"
        yield f"docker image: FROM {self.image}"
        yield from (f"  {line}" for line in self.instructions())
        yield f'  ENTRYPOINT {TRAIN} "$@"'
        if self.executor == "local":
            yield f"mounts: {', '.join(self.volumes())}"
        for index, run in enumerate(self.runs, 1):
            yield f"run {index} of {len(self.runs)}{': ' if run.name else ''}{run.name}"
            yield f"  {TRAIN} {shlex.join(self.arguments(run))}"

    def volumes(self) -> dict[str, str]:
        """Folders of this machine that a local container sees, under the same paths.

        Data workers hand batches over in shared memory, of which Docker gives a container 64 MB.
        """
        found = ["/dev/shm", *self.mounts, *(run.workdir for run in self.runs)]
        return {path: path for path in dict.fromkeys(found) if not path.startswith("gs://")}


def pairs(words: Sequence[str]) -> tuple[str, ...]:
    """``--a 1 --b=2 --c`` → ("--a=1", "--b=2", "--c").

    Raises:
        UserError: a word that belongs to no flag.
    """
    found: list[str] = []
    for word in words:
        if word.startswith("--"):
            found.append(word)
        elif found and "=" not in found[-1]:
            found[-1] += f"={word}"
        else:
            raise UserError(f"unexpected argument {word!r}")
    return tuple(found)


def sweep_values(text: str) -> tuple[str, list[str]]:
    """``"config.a.b=1,(2,3)"`` → ("config.a.b", ["1", "(2,3)"]).

    Raises:
        UserError: no key of the config, or no value.
    """
    key, _, values = text.removeprefix("--").partition("=")
    found = re.findall(r"(?:\([^)]*\)|\[[^]]*\]|[^,(\[])+", values)
    if not key.startswith("config.") or not found:
        raise UserError(f"--sweep: expected config.KEY=VALUE,VALUE…, found {text!r}")
    return key, found


def points(sweeps: Sequence[str]) -> list[dict[str, str]]:
    """The product of all sweeps; one empty point without any.

    Raises:
        UserError: a malformed sweep, or a key or a value twice.
    """
    axes: dict[str, list[str]] = {}
    for text in sweeps:
        key, values = sweep_values(text)
        if key in axes or len(set(values)) < len(values):
            raise UserError(f"--sweep: {key}: each key and each value may be given once")
        axes[key] = values
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def run_name(point: dict[str, str]) -> str:
    """``learning_rate=1e-4,seed=0``: a folder name; of a key as much as tells it apart."""
    parts = []
    for key, value in point.items():
        words, short = key.split("."), ""
        while not short or sum(f".{other}".endswith(f".{short}") for other in point) > 1:
            short = f"{words.pop()}.{short}".rstrip(".")
        parts.append(re.sub(r"[^\w.=+-]", "_", f"{short}={value}"))
    return ",".join(parts)


def check(config: str, arguments: Sequence[str]) -> None:
    """Builds the config and looks the overrides up in it, before anything costs money.

    Raises:
        UserError: no such config, a useless option of it, an unknown field, no data root.
    """
    found = settings.load(config)
    settings.check_paths(arguments, found)
    if not found.data.root and not any(w.startswith("--config.data.root=") for w in arguments):
        raise UserError("--config.data.root: expected a data set, found nothing (after --)")


def make_plan(
    config: str,
    workdir: str,
    arguments: Sequence[str] = (),
    executor: str = "local",
    accelerator: str = "cpu",
    sweeps: Sequence[str] = (),
    mounts: Sequence[str] = (),
    image: str = IMAGE,
) -> Plan:
    """Checks everything that can be checked here and says what would run.

    Raises:
        UserError: a mistake, in one line.
    """
    machine = ACCELERATORS[accelerator]
    if executor == "vertex" and not machine.machine:
        raise UserError(f"--accelerator: Vertex AI has no {accelerator}; use launch/tpu_pod.sh")
    if executor == "vertex" and not workdir.startswith("gs://"):
        raise UserError(f"--workdir: expected gs://BUCKET/FOLDER for Vertex AI, found {workdir!r}")
    if executor == "local" and machine.package == "jax[tpu]":
        raise UserError("--accelerator: a local container reaches no TPU; use launch/tpu_pod.sh")
    if machine.requirements and "hardware=" not in config:
        config += f"{',' if ':' in config else ':'}hardware={accelerator}"
    if not workdir.startswith("gs://"):
        workdir = os.path.abspath(workdir)
    runs = []
    for point in points(sweeps):
        name = run_name(point)
        overrides = tuple(f"--{key}={value}" for key, value in point.items())
        folder = f"{workdir.rstrip('/')}/{name}" if name else workdir
        runs.append(Run(name, folder, (*pairs(arguments), *overrides)))
    check(config, runs[0].arguments)
    title = Path(config.partition(":")[0]).stem
    absolute = tuple(os.path.abspath(path) for path in mounts)
    return Plan(title, executor, accelerator, config, tuple(runs), image, mounts=absolute)
