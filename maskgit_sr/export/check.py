"""An artifact in a process of its own against the upscaler it was made of."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_sr.errors import UserError
from maskgit_sr.export.program import Program
from maskgit_sr.inference.mosaic import Mosaic

LOADER = Path(__file__).with_name("export_load.py")  # imports TensorFlow
SIZES = ((1, 1), (33, 57), (128, 128))
# Compilers round differently, which decides tokens that are all but equally likely. bfloat16 has
# more of them.
LEAST = {"float32": (0.999, 0.999), "bfloat16": (0.9, 0.9)}
"""Shares of samples within 1/255 and of equal tokens, by the dtype of the network."""


def check(program: Program, format: str, folder: Path) -> dict[str, Any]:
    """Restores pictures by both.

    Returns:
        Shares of samples within 1/255 and of equal tokens, by picture size.

    Raises:
        UserError: the artifact does not load or its images are others.
    """
    pictures = {f"{height}x{width}": picture(height, width) for height, width in SIZES}
    with tempfile.TemporaryDirectory() as name:
        made = Path(name, "made.npz")
        if format == "savedmodel":
            given = Path(name, "given.npz")
            np.savez(given, **pictures)  # type: ignore[arg-type]
            without = "jax", "jaxlib", "maskgit_sr"
            run(without, LOADER, str(folder), str(given), str(made))
            with np.load(made) as found:
                return _compare(program, pictures, dict(found))
        tiles = np.concatenate([_mosaic(program, image)[1] for image in pictures.values()])
        given = Path(name, "tiles.npy")
        np.save(given, tiles)
        without = "flax", "tensorflow", "maskgit_sr"
        run(without, folder / "run.py", str(given), str(made))
        with np.load(made) as found:
            return _compare(program, pictures, _assembled(program, pictures, dict(found)))


def picture(height: int, width: int) -> np.ndarray:
    """Gradients, edges and texture; uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width] / 64
    rng = np.random.default_rng(height * 1000 + width)
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y - 2 * x), np.sign(np.sin(9 * x) * np.sin(6 * y))]
    noise = rng.normal(0, 6, (height, width, 3))
    return np.clip(np.stack(waves, -1) * 70 + 128 + noise, 0, 255).astype(np.uint8)


def run(without: tuple[str, ...], script: Path, *arguments: str) -> None:
    """Runs a script as on a machine that lacks those packages.

    Raises:
        UserError: it fails, with the reason.
    """
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(',')));"
        " sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-P", "-c", code, ",".join(without), str(script.resolve())]
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run([*command, *arguments], cwd=name, capture_output=True, text=True)
    if done.returncode:
        reason = _reason(done.stderr) or f"exit code {done.returncode}"
        raise UserError(f"export: the artifact does not run in another process: {reason}")


def _reason(text: str) -> str:
    """What an exception says, or the last line where there is none."""
    _, frame, message = text.rstrip().rpartition('\n  File "')
    lines = message.splitlines() or [""]
    if not frame:
        return lines[-1]
    # The place in the code and its lines come first, indented.
    return " ".join(line.strip() for line in lines[1:] if line[:1] not in ("", " "))[:600]


def _mosaic(program: Program, image: np.ndarray) -> tuple[Mosaic, np.ndarray]:
    method = program.upscaler.method
    mosaic = Mosaic(image, method.tile, method.scale, score=True)
    return mosaic, mosaic.cut(range(mosaic.count))


def _assembled(
    program: Program, pictures: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Images of the tiles that a StableHLO artifact gave."""
    images = {}
    begin = 0
    for name, image in pictures.items():
        mosaic, tiles = _mosaic(program, image)
        for index in range(begin, begin + len(tiles)):
            mosaic.add(*(found[key][index] for key in ("image", "confidence", "tokens")))
        begin += len(tiles)
        assert mosaic.confidence is not None
        images[f"{name}/image"] = mosaic.color
        images[f"{name}/confidence"] = mosaic.confidence
        images[f"{name}/tokens"] = mosaic.tokens
    return images


def _compare(
    program: Program, pictures: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> dict[str, Any]:
    shares = {}
    for name, image in pictures.items():
        wanted = program.upscaler(image, steps=program.steps)
        assert wanted.confidence is not None and isinstance(wanted.image, np.ndarray)
        got, sure, codes = (found[f"{name}/{key}"] for key in ("image", "confidence", "tokens"))
        if got.shape != wanted.image.shape or codes.shape != wanted.tokens.shape:
            raise UserError(f"export: {name}: expected {wanted.image.shape}, found {got.shape}")
        close = within_one(got, wanted.image)
        equal = float((codes == wanted.tokens).mean())
        shares[name] = {
            "within_1": close,
            "tokens": equal,
            "confidence": float(np.abs(sure - wanted.confidence).max()),
        }
        least_close, least_equal = LEAST[program.info["dtype"]]
        if not (close >= least_close and equal >= least_equal):
            raise UserError(
                f"export: the artifact gives another image of {name} pixels than the upscaler:"
                f" {close:.2%} of samples within 1/255, {equal:.2%} of tokens equal"
            )
        again = found.get(f"{name}/encoded")
        if again is not None and not np.array_equal(again, got):
            raise UserError(f"export: {name}: serving_default and image give different images")
    if "errors" in found:
        *fine, broken = found["errors"]
        if any(fine) or not broken or found["empty"] != 0:
            raise UserError(f"export: serving_default says {list(found['errors'])}")
    return shares


def within_one(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of uint8 samples that differ by at most one level."""
    return float((np.abs(found.astype(int) - wanted.astype(int)) <= 1).mean())
