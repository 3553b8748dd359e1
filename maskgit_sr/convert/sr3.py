"""Converts checkpoints of SR3's public re-implementation (``I640000_E37_gen.pth``) to a bundle.

Janspiry/Image-Super-Resolution-via-Iterative-Refinement. Only `read_state` needs PyTorch. Each of
our parameters names the entry it comes from; an entry that none names is an error.
"""

from __future__ import annotations

import functools
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
from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.sr3 import SR3
from maskgit_sr.methods.sr3_base import SR3Config
from maskgit_sr.models.functional import flatten, unflatten
from maskgit_sr.models.sr3_unet import UNetConfig

State = Mapping[str, np.ndarray]

_PREFIX = "denoise_fn."
# The diffusion's buffers: functions of the schedule, which we compute in float64.
_BUFFERS = {
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod"),
    *("sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod"),
    *("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance"),
    *("posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
}

# Our names → theirs, applied in order. Theirs count the first convolution among the downs.
_NAMES = (
    (r"^level_in/", r"noise_level_mlp/1/"),
    (r"^level_out/", r"noise_level_mlp/3/"),
    (r"^conv_in/", r"downs/0/"),
    (r"^middle/", r"mid/"),
    (r"^norm_out/", r"final_conv/block/0/"),
    (r"^conv_out/", r"final_conv/block/3/"),
    (r"/attention/", r"/attn/"),
    (r"^(\w+/\d+)/norm([12])/", r"\1/res_block/block\2/block/0/"),
    (r"^(\w+/\d+)/conv([12])/", r"\1/res_block/block\2/block/3/"),
    (r"^(\w+/\d+)/level/", r"\1/res_block/noise_func/noise_func/0/"),
    (r"^(\w+/\d+)/shortcut/", r"\1/res_block/res_conv/"),
    (r"/(scale|kernel)$", r"/weight"),
)

PUBLISHED = {
    "16_128": SR3Config(unet=UNetConfig(level_scale=1.0)),
    "64_512": SR3Config(
        tile=TileSpec((64,), 16, 0.0),
        unet=UNetConfig(64, (1, 2, 4, 8, 16), 1, (), True, 16, 0.0, level_scale=1.0),
    ),
}
"""Configurations of the published checkpoints, by the name of their JSON file."""


@functools.lru_cache(maxsize=2)
def entries(config: UNetConfig) -> Mapping[str, Entry]:
    """Returns the checkpoint's entry of each of our parameters, by our name ("downs/0/…")."""
    flat = flatten(SR3(SR3Config(scale=config.factor, unet=config)).shapes()["unet"])
    return {name: _entry(name, tuple(leaf.shape)) for name, leaf in flat.items()}


def _entry(name: str, shape: tuple[int, ...]) -> Entry:
    theirs = re.sub(r"^downs/(\d+)/", lambda found: f"downs/{int(found[1]) + 1}/", name)
    for pattern, replacement in _NAMES:
        theirs = re.sub(pattern, replacement, theirs)
    theirs = _PREFIX + theirs.replace("/", ".")
    return Entry.of(theirs, shape, kernel=name.endswith("/kernel"))


def map_state(state: State, config: SR3Config, where: str = "checkpoint") -> Params:
    """Converts arrays of the PyTorch network to parameters of `SR3` with `config`.

    Raises:
        UserError: entries are missing, unknown or of another shape, of which the first few are
            named; or the checkpoint was trained for another noise schedule.
    """
    table = entries(config.unet)
    found = {name: array for name, array in state.items() if name not in _BUFFERS}
    expected = {e.name: jax.ShapeDtypeStruct(e.shape, np.float32) for e in table.values()}
    bundles.check(found, expected, where)
    trained, ours = state.get("alphas_cumprod"), config.schedule.gammas[1:]
    # To float32's rounding of numbers up to 1.
    if trained is not None and not (
        trained.shape == ours.shape and np.allclose(trained, ours, rtol=0, atol=1e-5)
    ):
        raise UserError(
            f"{where}: alphas_cumprod: expected the schedule of {len(ours)} steps that ends at"
            f" {ours[-1]:.3g}, found {trained.size} steps"
        )
    return {"unet": unflatten({name: entry.read(state) for name, entry in table.items()})}


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
    config: SR3Config = PUBLISHED["16_128"],
) -> dict[str, Any]:
    """Writes the bundle of a checkpoint of the re-implementation.

    Args:
        source: a ``…_gen.pth`` file.
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
    public = "converted from Janspiry/Image-Super-Resolution-via-Iterative-Refinement"
    training = {"source": public, **origin(source)}
    return write_bundle(target, SR3(config), params, licence="Apache-2.0", training=training)
