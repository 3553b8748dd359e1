"""The `maskgit-sr` command, run in this process, and a model that only enlarges."""

import dataclasses
import re
import types

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from maskgit_sr import cli, images
from maskgit_sr.errors import UserError
from maskgit_sr.inference.upscaler import Upscaler


def run(*args, code=0):
    """The result of a command with that exit code; a defect of the program is raised."""
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refuses(message, *args):
    """The result of a command that ends in one line for a mistake."""
    result = run(*args, code=2)
    assert result.stderr.startswith("maskgit-sr: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    return result


def told(result):
    """(lines, counts): stderr between the announcement of a batch and its counts, and these."""
    first, *lines, counts = result.stderr.splitlines()
    assert re.fullmatch(r"maskgit-sr: \d+ images, .* megapixels, on cpu", first), first
    return lines, counts.removeprefix("maskgit-sr: ")


def picture(name, size=(8, 6), mode="RGB", **options):
    Image.new(mode, size).save(name, **options)
    return name


class FakeUpscaler(Upscaler):
    """RealSRT's options, and output of repeated pixels; fails as a picture's size tells it to."""

    def __init__(self, method):
        self.method = method
        self.loaded = []
        self.calls = []
        self.compiled = []
        self.device = types.SimpleNamespace(platform="cpu")

    def load(self, name, **options):
        self.loaded.append((name, options))
        if name == "nonsense":
            raise UserError("model: expected another name, found 'nonsense'")
        return self

    def compile(self, side, options):
        self.compiled.append(side)

    def restore(self, picture, *, scale, progress, confidence, **options):
        self.calls.append({"scale": scale, "confidence": confidence, **options})
        scale = self.scale(scale)
        height, width = picture.color.shape[:2]
        trouble = {
            13: UserError("expected a luckier picture"),
            14: OSError(28, "No space left on device", "tiles.tmp"),
            15: RuntimeError("a defect"),
            16: KeyboardInterrupt(),
        }.get(width)
        if trouble:
            raise trouble
        progress(1, 2)
        progress(2, 2)
        size = round(height * scale), round(width * scale)
        alpha = None if picture.alpha is None else images.resize(picture.alpha, *size)
        large = dataclasses.replace(picture, color=images.resize(picture.color, *size), alpha=alpha)
        sure = np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)
        return types.SimpleNamespace(
            picture=large,
            confidence=sure if confidence else None,
            tokens=np.zeros(4, np.int32),
            consistency=None,
        )
