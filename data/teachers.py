"""Teachers: networks of others, or of ours, whose output a small network learns to give.

    ncnn:FOLDER/NAME    ncnn files NAME.param and NAME.bin (pip install ncnn), blobs data and output
    bundle:MODEL        a bundle, or the name of a model that ships
    command:TEXT        a shell command that restores a folder, with {input} and {output} in it

The teacher `hr` is the HR crop itself: what a clean reduction lost has nearly one answer.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data.operations import to_bytes
from data.records import encode
from data.sources import ImageFolder, check_scale
from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.images.samples import unit

Teacher = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Restores uint8 [H, W, 3] images, each as float32 [scale·H, scale·W, 3] in [0, 1]."""

_KINDS = ("ncnn", "bundle", "command")


def open_teacher(text: str, threads: int = 2) -> Teacher:
    """Returns the teacher that a text names (see the head of this module).

    Args:
      threads: of ncnn.

    Raises:
      UserError: another kind, missing or unreadable files, or a command without the two places.
    """
    kind, _, name = text.partition(":")
    if kind not in _KINDS or not name:
        kinds = ", ".join(f"{kind}:…" for kind in _KINDS)
        raise UserError(f"teacher {text!r}: expected {kinds}, or hr alone")
    if kind == "ncnn":
        path = Path(name)
        network = ncnn_network(path.parent, path.name, threads)
        return lambda images: [network(image) for image in images]
    if kind == "bundle":
        run = shlex.join([sys.executable, "-m", "maskgit_sr", "upscale"])
        name = f"{run} {{input}} --output {{output}} --model {shlex.quote(name)}"
    if "{input}" not in name or "{output}" not in name:
        raise UserError(f"teacher {text!r}: expected {{input}} and {{output}} in the command")
    return lambda images: _run(name, images)


def mean(teachers: Sequence[Teacher], scale: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Returns a function that gives the mean output of all teachers, uint8 [scale·H, scale·W, 3].

    It raises `UserError` if a teacher answers with another size.
    """

    def run(images: list[np.ndarray]) -> list[np.ndarray]:
        answers = [teacher(images) for teacher in teachers]
        for found in answers:
            for image, output in zip(images, found, strict=True):
                check_scale(output.shape, image.shape, scale, "teacher", "output")
        means = (np.mean(outputs, axis=0) for outputs in zip(*answers, strict=True))
        return [to_bytes(output) for output in means]

    return run


def ncnn_network(folder: Path, name: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a network of ncnn files on the CPU: uint8 [H, W, 3] → float32 [sH, sW, 3].

    Raises:
      UserError: ncnn is not installed, or the files are missing or unreadable.
    """
    try:
        import ncnn
    except ImportError as error:
        raise UserError("ncnn networks need ncnn: pip install ncnn") from error
    net = ncnn.Net()
    net.opt.num_threads = threads
    for kind, load in ((".param", net.load_param), (".bin", net.load_model)):
        path = folder / f"{name}{kind}"
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        if load(str(path)):
            raise UserError(f"{path}: ncnn cannot read it")

    def run(lr: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(unit(lr).transpose(2, 0, 1))
        extractor = net.create_extractor()
        # A Mat borrows the array's memory: of a temporary array it would read freed memory.
        code = extractor.input("data", ncnn.Mat(planes).clone())
        failed, output = extractor.extract("output")
        if code := code or failed:
            raise UserError(f"{name}: ncnn ended with code {code}")
        # A copy, since the array borrows the Mat's memory in turn.
        return np.array(output, np.float32).transpose(1, 2, 0)

    return run


def _run(command: str, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the outputs of a command that restores a folder of PNG files."""
    with tempfile.TemporaryDirectory() as folder:
        places = {kind: Path(folder) / kind for kind in ("input", "output")}
        for place in places.values():
            place.mkdir()
        for i, image in enumerate(images):
            paths.write(places["input"] / f"{i:06}.png", encode(image))
        text = command
        for kind, place in places.items():  # not `format`: a command may have other braces
            text = text.replace(f"{{{kind}}}", shlex.quote(str(place)))
        done = subprocess.run(
            text, shell=True, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"teacher's command ended with code {done.returncode}: {last}")
        found = ImageFolder(places["output"]) if any(places["output"].iterdir()) else None
        if found is None or len(found) != len(images):
            raise UserError(
                f"teacher's command: expected {len(images)} pictures in {{output}}, "
                f"found {len(found) if found else 0}"
            )
        return [unit(found[i]["image"]) for i in range(len(found))]
