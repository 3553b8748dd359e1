"""Converts generators of SRMAP's public code (``model_latest.pt``, ``ema_latest.pt``) to a bundle.

r-mohanty/Super-Rez. Only `read_state` needs PyTorch. Each of our parameters names the entries it
comes from; an entry that none names is an error, and so is a fixed one of another value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskgit_sr import bundles
from maskgit_sr.arrays import Params
from maskgit_sr.convert import check_target, float_arrays, origin, read_torch, write_bundle
from maskgit_sr.convert.realsrt import Entry
from maskgit_sr.errors import UserError
from maskgit_sr.methods.srmap import SRMAP, SRMAPConfig
from maskgit_sr.models.functional import flatten, unflatten
from maskgit_sr.models.srmap_generator import MEAN, GeneratorConfig

State = Mapping[str, np.ndarray]

# Our names → theirs, applied in order.
_NAMES = (
    (r"^stem/", r"Stem/LinearLayer/"),
    (r"^activation/", r"Stem/NonLinearity/"),
    (r"^out/", r"Stem/ToFeatures/"),
    (r"^features/", r"FeatureNonLinearity/"),
    (r"^stages/(\d+)/blocks/", r"Stages/\1/MainBlocks/"),
    (r"^stages/(\d+)/out/", r"Stages/\1/ToFeatures/"),
    (r"^upsamplers/", r"Upsamplers/"),
    (r"^to_rgb/", r"ToRGB/"),
    (r"/conv(\d)/", r"/LinearLayer\1/"),
    (r"/activation(\d)/", r"/NonLinearity\1/"),
    (r"/shortcut/", r"/ShortcutLayer/"),
    (r"/kernel$", r"/weight"),
    (r"/bias$", r"/Bias"),
)

PUBLISHED = {
    "x4": SRMAPConfig(),
    "x2": SRMAPConfig(generator=GeneratorConfig(features=(512, 256))),
}
"""Configurations of the public networks."""


def entries(config: SRMAPConfig) -> dict[str, Entry]:
    """Returns the entry of each of the generator's parameters, by our name; noise is apart."""
    found = {}
    for name, leaf in flatten(SRMAP(config).shapes()["generator"]).items():
        theirs = name
        for pattern, replacement in _NAMES:
            theirs = re.sub(pattern, replacement, theirs)
        entry = "Main." + theirs.replace("/", ".")
        found[name] = Entry.of(entry, tuple(leaf.shape), kernel=name.endswith("/kernel"))
    return found


def scales(config: SRMAPConfig) -> dict[str, list[list[str]]]:
    """Returns the entries of the noise scales by our name: rows of entries that are joined."""
    generator = config.generator
    found = {
        "stem": [["Main.Stem.NoiseLayer.Scale"]],
        "features": [["Main.FeatureNoiseLayer.Scale"]],
    }
    for stage, blocks in enumerate(generator.blocks):
        found[f"stages/{stage}"] = [
            [f"Main.Stages.{stage}.MainBlocks.{block}.NoiseLayer{i}.Scale" for i in (1, 2)]
            for block in range(blocks)
        ]
    for index in range(len(generator.features) - 1):
        layer = f"Main.Upsamplers.{index}.NoiseLayer"
        found[f"before/{index}"] = [[f"{layer}1.Scale"]]
        found[f"after/{index}"] = [[f"{layer}2.Scale", f"{layer}3.Scale"]]
    return found


def constants(config: SRMAPConfig) -> dict[str, np.ndarray]:
    """Returns the entries of fixed value, which we do not store: mean shifts and filters."""
    mean = 255 * np.asarray(MEAN, np.float32)
    found: dict[str, np.ndarray] = {}
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        found[f"{name}.weight"] = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
        found[f"{name}.bias"] = sign * mean
    taps = np.array([1, 2, 1], np.float32) / 4
    for index in range(len(config.generator.features) - 1):
        name = f"Main.Upsamplers.{index}.Resampler.Kernel"
        found[name] = np.asarray(np.outer(taps, taps), np.float32).reshape(1, 1, 3, 3)
    return found


def map_state(state: State, config: SRMAPConfig, where: str = "checkpoint") -> Params:
    """Converts arrays of the PyTorch generator to parameters of `SRMAP` with `config`.

    Those of the L1 net have no noise scales; ours are then 0.

    Raises:
        UserError: entries are missing, unknown or of another shape, of which the first few are
            named; or a fixed one has another value.
    """
    # The moving average is saved with its wrapper.
    state = {name.removeprefix("model."): array for name, array in state.items()}
    table, noise = entries(config), scales(config)
    shapes = flatten(SRMAP(config).shapes()["noise"])
    fixed = constants(config)
    expected = {e.name: jax.ShapeDtypeStruct(e.shape, np.float32) for e in table.values()}
    expected |= {n: jax.ShapeDtypeStruct(v.shape, np.float32) for n, v in fixed.items()}
    silent = not any(name.endswith(".Scale") for name in state)
    if not silent:
        expected |= _scale_shapes(config)
    bundles.check(state, expected, where)
    for name, value in fixed.items():
        if not np.allclose(state[name], value, rtol=1e-5, atol=1e-6):
            raise UserError(f"{where}: {name}: expected a fixed value, found another")

    def joined(name: str) -> np.ndarray:
        rows = [np.concatenate([state[entry] for entry in row]) for row in noise[name]]
        return np.stack(rows).reshape(shapes[name].shape).astype(np.float32)

    def zero(name: str) -> np.ndarray:
        return np.zeros(shapes[name].shape, np.float32)

    return {
        "generator": unflatten({name: entry.read(state) for name, entry in table.items()}),
        "noise": unflatten({name: (zero if silent else joined)(name) for name in shapes}),
    }


def _scale_shapes(config: SRMAPConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the entries of the noise scales."""
    shape = config.generator
    widths: dict[str, tuple[int, ...]] = {
        "stem": (shape.stem,),
        "features": (shape.features[0],),
    }
    inner = [width // shape.compression for width in shape.features]
    for stage in range(len(shape.blocks)):
        widths[f"stages/{stage}"] = (shape.stem // shape.compression, shape.stem)
    for index, out in enumerate(shape.features[1:]):
        widths[f"before/{index}"] = (inner[index],)
        widths[f"after/{index}"] = (inner[index], out)
    return {
        entry: jax.ShapeDtypeStruct((width,), np.float32)
        for name, rows in scales(config).items()
        for row in rows
        for entry, width in zip(row, widths[name], strict=True)
    }


def read_state(source: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a PyTorch checkpoint as float32; nothing in the file is executed.

    Raises:
        UserError: as `read_torch`, or the file holds something else.
    """
    return float_arrays(read_torch(source), source)


def convert(
    source: Path,
    target: Path,
    *,
    overwrite: bool = False,
    config: SRMAPConfig = PUBLISHED["x4"],
) -> dict[str, Any]:
    """Writes the bundle of a generator of the public code.

    Args:
        source: ``model_latest.pt`` or ``ema_latest.pt``, of which the second is its result.
        target: the bundle, ``.safetensors``; float32.
        overwrite: replace an existing target.
        config: what the checkpoint is of, one of `PUBLISHED`.

    Returns:
        ``{"parameters": total, "groups": {group: parameters}}``.

    Raises:
        UserError: as `read_state` and `map_state`, or the target exists or cannot be written.
    """
    check_target(target, overwrite)
    params = map_state(read_state(source), config, str(source))
    training = {"source": "converted from r-mohanty/Super-Rez", **origin(source)}
    # The public code has no licence.
    return write_bundle(target, SRMAP(config), params, licence="unknown", training=training)
