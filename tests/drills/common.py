"""What the drills share: photographs, a small run of `launch.train`, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
EVERY = 3
"""Steps between two checkpoints."""


class Failed(Exception):
    """What a drill found wrong, for a person."""


@dataclasses.dataclass
class Ground:
    """A folder in which drills run; they share its photographs and its compiled programs.

    Args:
        steps: how long each run is.
        quick: less of everything, to try the drills themselves.
        kills: how many kill -9 there are.
    """

    folder: Path
    steps: int
    quick: bool
    kills: int
    seed: int
    runs: list[Run] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        photographs(self.folder / "photos")
        self.random = random.Random(self.seed)

    def start(
        self,
        workdir: str,
        log: str = "log.txt",
        steps: int | None = None,
        config: Sequence[str] = (),
        **environment: str,
    ) -> Run:
        """A process that trains, or goes on training, in a folder of that name.

        Args:
            steps: of the small tokenizer.
            config: options of another run than that.
        """
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        path = self.folder / workdir
        path.mkdir(exist_ok=True)
        with (path / log).open("wb") as file:  # a pipe that nobody reads would block
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "launch.train", "--workdir", str(path)),
                    *(config or tokenizer(steps or self.steps)),
                    f"--config.data.root={self.folder / 'photos'}",
                ],
                cwd=ROOT,
                env={**os.environ, **cache, **environment},
                stdout=file,
                stderr=file,
            )
        self.runs.append(Run(process, path, path / log))
        return self.runs[-1]

    @functools.cached_property
    def whole(self) -> Path:
        """Workdir of a run that nothing disturbs."""
        return self.start("whole").finish().workdir

    def close(self) -> None:
        """Ends what a drill that failed has left running."""
        for run in self.runs:
            run.process.kill()
            run.process.wait()


@dataclasses.dataclass
class Run:
    """One training process."""

    process: subprocess.Popen[bytes]
    workdir: Path
    log: Path

    def said(self) -> str:
        """What it has written to standard output and error."""
        return self.log.read_text(errors="replace")

    def until(self, ready: Callable[[], bool], seconds: float = 600, pause: float = 0.02) -> bool:
        """Waits for what must be ready; False when it ended or the time was over before."""
        end = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(pause)
        return True

    def reached(self, step: int) -> bool:
        """Whether this process has logged the step."""
        return f"tokenizer {step}/" in self.said()

    def began(self) -> int:
        """The step that it went on from.

        Raises:
            Failed: it has not come as far as to say so.
        """
        _, found, rest = self.said().partition("stage tokenizer: step ")
        if not found:
            raise self.failed("did not start")
        return int(rest.split()[0])

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self, seconds: float = 600, expected: int = 0) -> Run:
        """Waits for its end, with that exit code.

        Raises:
            Failed: it takes longer, or ended badly.
        """
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failed(f"has not ended after {seconds:.0f} s") from None
        if code != expected:
            raise self.failed(f"exit code {code}")
        if "Traceback" in self.said():
            raise self.failed("more than one line")
        return self

    def failed(self, what: str) -> Failed:
        """The error to raise, with the end of the log."""
        return Failed(f"{self.log}: {what}\n{self.said()[-3000:]}")


def photographs(folder: Path, count: int = 12) -> None:
    """Waves with an edge, each of its own direction."""
    folder.mkdir()
    y, x = np.mgrid[:96, :96]
    for i in range(count):
        image = np.sin(0.1 * x * (i + 1) / 4 + 0.07 * y)[..., None] * [60, 90, 40] + 128
        image[20 + i : 60, 30:70] = [200, 180, 20 * i]
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8))


def tokenizer(steps: int) -> list[str]:
    """Options of a RealSRT tokenizer with its GAN, small enough for some steps a second."""
    small = {
        "model.tokenizer.channels": "(8,16)",
        "model.tokenizer.code_width": 8,
        "model.generator.code_width": 8,
        "model.critic.code_width": 8,
        "losses.discriminator.filters": 8,
        "losses.adversarial_weight": 0.5,
        "losses.perceptual_weight": 0.0,
        "losses.perceptual": "none",
        "stages.tokenizer.steps": steps,
        "stages.tokenizer.batch": 4,
        "stages.tokenizer.crop": 32,
        "log_every": 1,
        "checkpoint_every": EVERY,
    }
    return [
        *("--config", "configs/realsrt.py:nano,stage=tokenizer"),
        *(f"--config.{name}={value}" for name, value in small.items()),
    ]


def losses(workdir: Path, stage: str = "tokenizer") -> dict[int, dict[str, float]]:
    """What each step that was logged has measured.

    Raises:
        Failed: a step that was taken twice did not measure the same twice.
    """
    timed = ("examples_per_second", "input_wait_share", "tflops_per_device")
    found: dict[int, dict[str, float]] = {}
    path = workdir / stage / "scalars.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
        except ValueError:  # cut short by a kill
            continue
        values = {k: v for k, v in values.items() if k not in timed}
        before = found.setdefault(values["step"], values)
        if before != values:
            raise Failed(f"{path}: step {values['step']} measured {before} and then {values}")
    return found


def last(workdir: Path, stage: str = "tokenizer") -> int:
    """The last step that was logged, by whatever process."""
    return max(losses(workdir, stage), default=0)


def checkpoints(workdir: Path) -> list[int]:
    """Steps of the checkpoints that have their final name."""
    folder = workdir / "tokenizer" / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def saving(workdir: Path) -> int | None:
    """The step of a save under way, which Orbax writes under another name; None: there is none."""
    found = (workdir / "tokenizer" / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    return next((int(path.name.split(".")[0]) for path in found), None)


def weights(workdir: Path) -> dict[str, np.ndarray]:
    """What the stage leaves to the next one."""
    return load_file(workdir / "tokenizer" / "groups.safetensors")


def same(one: Path, other: Path) -> None:
    """Raises :class:`Failed` unless both runs measured and left the same, bit for bit."""
    measured, again = losses(one), losses(other)
    for step in sorted(measured.keys() | again.keys()):
        if measured.get(step) != again.get(step):
            raise Failed(f"step {step}: {one} {measured.get(step)}, {other} {again.get(step)}")
    left, right = weights(one), weights(other)
    for name in sorted(left.keys() | right.keys()):
        if left[name].tobytes() != right[name].tobytes():
            raise Failed(f"{other}: other final weights than {one}: {name}")
