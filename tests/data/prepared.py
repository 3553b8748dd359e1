"""Runs data.prepare on pictures made here, and reads what it leaves."""

import json

import cv2
import numpy as np
from PIL import Image

from data import operations, prepare

SMALL = ("--crop", "48", "--stride", "32", "--least", "32", "--sharpness", "3")


def scene(height, width, seed=0):
    """Nine by nine soft blobs with some texture: alike at any size, unlike those of other seeds."""
    rng = np.random.default_rng(seed)
    blobs = rng.uniform(0.1, 0.9, (9, 9, 3)).astype(np.float32)
    image = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
    return operations.to_bytes(image + rng.normal(0, 0.03, image.shape).astype(np.float32))


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def command(*inputs, output, more=()):
    return prepare.main(["--input", *map(str, inputs), "--output", str(output), *SMALL, *more])


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def examples(folder):
    return [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
