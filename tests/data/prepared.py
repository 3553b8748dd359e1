"""Pictures on disk, and what commands leave there; runs data.prepare."""

import contextlib
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from data import commands, operations, prepare, records

SMALL = ("--crop", "48", "--stride", "32", "--least", "32", "--sharpness", "3")


class Killed(Exception):
    """What stands for the end of the process."""


@contextlib.contextmanager
def killed(monkeypatch, module, function, dies):
    """Runs a command whose process ends at the first call for which `dies` says so."""
    real = getattr(module, function)

    def dying(*arguments):
        if dies(*arguments):
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, function, dying)
        yield


def scene(height, width, seed=0):
    """Nine by nine soft blobs with some texture: alike at any size, unlike those of other seeds."""
    rng = np.random.default_rng(seed)
    blobs = rng.uniform(0.1, 0.9, (9, 9, 3)).astype(np.float32)
    image = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
    return operations.to_bytes(image + rng.normal(0, 0.03, image.shape).astype(np.float32))


def save(path, image, **options):
    """Writes uint8, or floats in [0, 1]; the format is that of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if image.dtype == np.uint8 else operations.to_bytes(image)
    Image.fromarray(image).save(path, **options)
    return path


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def command(*inputs, output, more=()):
    return prepare.main(["--input", *map(str, inputs), "--output", str(output), *SMALL, *more])


def stops(capsys, module, *arguments):
    """The one line with which a mistake ends a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        commands.run(module.__name__, lambda _: module.main(list(map(str, arguments))))
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"{module.__name__}: ")
    return error


def write_shards(folder, *shards, version=records.PREPARED, **more):
    """Shards a, b, … of packed records, and their manifest, with `more` in it."""
    listed = []
    for letter, packed in zip("abc", shards, strict=False):
        size = records.write_shard(folder / f"{letter}.array_record", packed)
        listed.append({"file": f"{letter}.array_record", "examples": len(packed), "bytes": size})
    described = {"version": version, "shards": listed, **more}
    (folder / "manifest.json").write_text(json.dumps(described))


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def examples(folder):
    return [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
