"""Plan of an XManager launch: accelerators, images, command lines, sweeps, and their checks."""

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
"""Folder of the sources in the build context, after which XManager names the image."""
TRAIN = "python -m launch.train"
_BUCKETS = "gcsfs>=2026.6,<2027"


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Hardware that a job requests.

    Attributes:
        requirements: keywords of ``xm.JobRequirements`` on Vertex AI.
        machine: fields of Vertex AI's MachineSpec; empty if Vertex AI has no such machine.
        package: JAX's package for it, installed beside requirements.txt; "" on CPU.
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
    """One point of the sweep; ``name`` is "" without a sweep."""

    name: str
    workdir: str
    arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked launch: all that its image and its runs depend on."""

    title: str
    executor: str
    accelerator: str
    config: str
    runs: tuple[Run, ...]
    image: str = IMAGE
    mounts: tuple[str, ...] = ()

    def arguments(self, run: Run) -> list[str]:
        """Returns the container's arguments, which are those of `launch.train`."""
        return ["--config", self.config, "--workdir", run.workdir, *run.arguments]

    def instructions(self) -> list[str]:
        """Returns the Dockerfile instructions of the image."""
        package = ACCELERATORS[self.accelerator].package
        packages = f"'{package}' '{_BUCKETS}'" if package else f"'{_BUCKETS}'"
        return [
            "WORKDIR /app",
            f"COPY {FOLDER}/requirements.txt ./",
            # before the sources: a change of the code does not install the packages again
            f"RUN pip install --no-cache-dir -r requirements.txt {packages}",
            f"COPY {FOLDER}/ ./",
            "RUN pip install --no-cache-dir --no-deps .",
        ]

    def lines(self) -> Iterator[str]:
        """Yields the lines of a description of the plan."""
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
        """Returns this machine's folders that a local container mounts, under the same paths.

        /dev/shm is among them: data workers hand batches over in shared memory, of which Docker
        gives a container only 64 MB.
        """
        found = ["/dev/shm", *self.mounts, *(run.workdir for run in self.runs)]
        return {path: path for path in dict.fromkeys(found) if not path.startswith("gs://")}


def pairs(words: Sequence[str]) -> tuple[str, ...]:
    """Returns words with flag and value joined: ``--a 1 --b`` → ("--a=1", "--b").

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
    """Returns key and values of a sweep: "config.a=1,(2,3)" → ("config.a", ["1", "(2,3)"]).

    Raises:
        UserError: a key outside the config, or no value.
    """
    key, _, values = text.removeprefix("--").partition("=")
    found = re.findall(r"(?:\([^)]*\)|\[[^]]*\]|[^,(\[])+", values)  # commas in brackets stay
    if not key.startswith("config.") or not found:
        raise UserError(f"--sweep: expected config.KEY=VALUE,VALUE…, found {text!r}")
    return key, found


def points(sweeps: Sequence[str]) -> list[dict[str, str]]:
    """Returns the points of the product of all sweeps; without any, one empty point.

    Raises:
        UserError: a malformed sweep, or a key or value given twice.
    """
    axes: dict[str, list[str]] = {}
    for text in sweeps:
        key, values = sweep_values(text)
        if key in axes or len(set(values)) < len(values):
            raise UserError(f"--sweep: {key}: each key and each value may be given once")
        axes[key] = values
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def run_name(point: dict[str, str]) -> str:
    """Returns a folder name such as ``learning_rate=1e-4,seed=0``, of the shortest unique keys."""
    parts = []
    for key, value in point.items():
        words, short = key.split("."), ""
        while not short or sum(f".{other}".endswith(f".{short}") for other in point) > 1:
            short = f"{words.pop()}.{short}".rstrip(".")
        parts.append(re.sub(r"[^\w.=+-]", "_", f"{short}={value}"))
    return ",".join(parts)


def check(config: str, arguments: Sequence[str]) -> None:
    """Builds the config and checks the overrides against it, before anything costs money.

    Raises:
        UserError: no such config, an unknown option or field, or no data root.
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
    """Returns the plan of a launch after all checks that need neither image nor network.

    Args:
        arguments: words for ``launch.train``, the same in every run.
        sweeps: ``config.KEY=VALUE,VALUE…`` each.
        mounts: folders for a local container beside the workdirs.

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
    check(config, runs[0].arguments)  # one stands for all: the runs override the same fields
    title = Path(config.partition(":")[0]).stem
    absolute = tuple(os.path.abspath(path) for path in mounts)
    return Plan(title, executor, accelerator, config, tuple(runs), image, mounts=absolute)
