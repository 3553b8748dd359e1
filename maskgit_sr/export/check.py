"""Comparison of an artifact, run in its own process, with the upscaler it was made from."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr.errors import UserError
from maskgit_sr.export.program import Program
from maskgit_sr.inference.mosaic import Mosaic

LOADER = Path(__file__).with_name("loader.py")  # run, never imported: it imports TensorFlow
# the smallest image, one with odd sides, and one of several windows of 64 pixels
SIZES = ((1, 1), (33, 57), (128, 128))
# batch, height, width of images that an ONNX model takes whole
WHOLES = ((1, 1, 1), (3, 7, 40), (1, 65, 50))
SEED = 7  # not the default, 0: a seed that is ignored would go unnoticed
# Compilers round differently, which decides between tokens of nearly equal likelihood. bfloat16
# has more of them.
LEAST = {"float32": (0.999, 0.999), "bfloat16": (0.9, 0.9)}
"""Least shares of samples within 1/255 and of equal tokens, by the network's dtype."""
_FARTHEST = 1e-4  # of images in [0, 1] that went through the network whole


def check(program: Program, format: str, folder: Path) -> dict[str, Any]:
    """Restores images by the artifact, which needs its `maskgit_sr.json`, and by the upscaler.

    Returns:
        Shares of samples within 1/255 and of equal tokens, by image size.

    Raises:
        UserError: the artifact does not load, or its images are not the upscaler's.
    """
    images = {f"{height}x{width}": picture(height, width) for height, width in SIZES}
    seed = [str(SEED)] if program.stochastic else []
    with tempfile.TemporaryDirectory() as name:
        given, made = Path(name, "given.npz"), Path(name, "made.npz")
        if format == "savedmodel":
            np.savez(given, **images)  # type: ignore[arg-type]
            without = "jax", "jaxlib", "maskgit_sr"
            run(without, LOADER, str(folder), str(given), str(made), *seed)
        else:
            mosaics = {name: _mosaic(program, image) for name, image in images.items()}
            tiles = {name: mosaic.cut(range(mosaic.count)) for name, mosaic in mosaics.items()}
            if format == "onnx":
                wholes = {"x".join(map(str, size)): batch(*size) for size in WHOLES}
                np.savez(given, **tiles, **wholes)  # type: ignore[arg-type]
                run(("jax", "flax", "maskgit_sr"), folder / "run.py", str(given), str(made))
            else:
                for name, mosaic in mosaics.items():
                    tiles[f"{name}/places"] = mosaic.places(range(mosaic.count))
                np.savez(given, **tiles)  # type: ignore[arg-type]
                without = "flax", "tensorflow", "maskgit_sr"
                run(without, folder / "run.py", str(given), str(made), "1", *seed)
        with np.load(made) as file:
            found = dict(file)
    shares = {}
    if format == "onnx":
        shares = _compare_wholes(program, wholes, found)
    if format != "savedmodel":
        found = _assembled(program, mosaics, found)
    return shares | _compare(program, images, found)


def picture(height: int, width: int) -> np.ndarray:
    """Returns an image with gradients, edges and texture; uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width] / 64
    rng = np.random.default_rng(height * 1000 + width)
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y - 2 * x), np.sign(np.sin(9 * x) * np.sin(6 * y))]
    noise = rng.normal(0, 6, (height, width, 3))
    return np.clip(np.stack(waves, -1) * 70 + 128 + noise, 0, 255).astype(np.uint8)


def batch(count: int, height: int, width: int) -> np.ndarray:
    """Returns images in [0, 1], each another one; float32 [B, H, W, 3]."""
    image = picture(count * height, width) / np.float32(255)
    return image.reshape(count, height, width, 3)


def run(without: tuple[str, ...], script: Path, *arguments: str) -> None:
    """Runs a script in a process that cannot import the packages `without`.

    Raises:
        UserError: the script fails; the message gives its reason.
    """
    # a module that is None in sys.modules cannot be imported
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(',')));"
        " sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    # -P and a folder of its own, or the script could import modules from where this process runs
    command = [sys.executable, "-P", "-c", code, ",".join(without), str(script.resolve())]
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run(
            [*command, *arguments], cwd=name, capture_output=True, text=True, errors="replace"
        )
    if done.returncode:
        reason = _reason(done.stderr) or f"exit code {done.returncode}"
        raise UserError(f"export: the artifact does not run in another process: {reason}")


def _reason(text: str) -> str:
    """Returns the message of a traceback's exception, or the last line of other text."""
    _, frame, message = text.rstrip().rpartition('\n  File "')
    lines = message.splitlines() or [""]
    if not frame:
        return lines[-1]
    # The place in the code and its lines come first, indented.
    return " ".join(line.strip() for line in lines[1:] if line[:1] not in ("", " "))[:600]


def _mosaic(program: Program, image: np.ndarray) -> Mosaic:
    method = program.upscaler.method
    confidence = "confidence" in program.info["outputs"]
    return Mosaic(image, method.tile, method.scale, confidence=confidence)


def _assembled(
    program: Program, mosaics: dict[str, Mosaic], found: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the images blended from the tiles that a StableHLO artifact restored."""
    images: dict[str, np.ndarray] = {}
    for name, mosaic in mosaics.items():
        parts = {key: found[f"{name}/{key}"] for key in program.info["outputs"]}
        for index in range(mosaic.count):
            mosaic.add(**{key: part[index] for key, part in parts.items()})
        whole = {"image": mosaic.color, "confidence": mosaic.confidence, "tokens": mosaic.tokens}
        images |= {f"{name}/{key}": part for key, part in whole.items() if part is not None}
    return images


def _compare(
    program: Program, images: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> dict[str, Any]:
    def require(right: Any, message: str) -> None:
        if not right:
            raise UserError(f"export: {message}")

    shares = {}
    least_close, least_equal = LEAST[program.info["dtype"]]
    for name, image in images.items():
        wanted = program.upscaler(image, seed=SEED, **program.options)
        for key in ("image", "tokens"):
            parts = getattr(wanted, key), found.get(f"{name}/{key}")
            shape, other = (np.asarray(part).shape for part in parts)  # () where there is none
            require(shape == other, f"{name}: expected {key} {shape}, found {other}")
        got = found[f"{name}/image"]
        share = shares[name] = {"within_1": within_one(got, np.asarray(wanted.image))}
        told = f"{share['within_1']:.2%} of samples within 1/255"
        if wanted.tokens is not None:
            share["tokens"] = float((found[f"{name}/tokens"] == wanted.tokens).mean())
            told += f", {share['tokens']:.2%} of tokens equal"
        if wanted.confidence is not None:
            sure = found[f"{name}/confidence"]
            share["confidence"] = float(np.abs(sure - wanted.confidence).max())
        require(
            share["within_1"] >= least_close and share.get("tokens", 1) >= least_equal,
            f"the artifact gives another image of {name} pixels than the upscaler: {told}",
        )
        # PNG is lossless, so the signature for encoded images must give the same samples
        again = np.array_equal(found.get(f"{name}/encoded", got), got)
        require(again, f"{name}: serving_default and image give different images")
    if "errors" in found:
        # an entry that is no image must not fail the others of its batch
        *fine, broken = found["errors"]
        right = not any(fine) and broken and found["empty"] == 0
        require(right, f"serving_default says {list(found['errors'])}")
    return shares


def _compare_wholes(
    program: Program, given: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Compares images that went through the network whole with the method's."""
    method, params = program.upscaler.method, program.upscaler.params
    options, shares = program.upscaler.options(**program.options), {}
    for name, images in given.items():
        keys = jax.random.split(jax.random.key(SEED), len(images))
        # without jit: each size would compile a program of its own
        restored = method.restore(params, jnp.asarray(images), keys, options)
        wanted, got = np.asarray(restored.image), found[f"{name}/image"]
        if got.shape != wanted.shape:
            raise UserError(f"export: {name}: expected image {wanted.shape}, found {got.shape}")
        far = np.abs(got - wanted)
        shares[name] = {"within_1": float((far <= 1 / 255).mean()), "largest": float(far.max())}
        if not far.max() <= _FARTHEST:  # NaN, too
            raise UserError(
                f"export: the artifact gives another image of {name} than the method: they are "
                f"up to {far.max():.2g} apart"
            )
    return shares


def within_one(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the share of uint8 samples that differ by at most one level."""
    # differences of uint8 would wrap around
    return float((np.abs(found.astype(int) - wanted.astype(int)) <= 1).mean())
