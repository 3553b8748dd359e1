"""Scores of several outputs for one input: the NTIRE 2021 challenge on learning the SR space.

Lugmayr et al. 2021, as the challenge's measure.py computes them, whose protocol has ten outputs an
image. Outputs are [B,N,H,W,3] in [0,1]; what is beyond the last multiple of 8 pixels is cut.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from maskgit_sr.arrays import Image
from maskgit_sr.metrics.lr import lr_psnr_ntire
from maskgit_sr.metrics.pixel import Score
from maskgit_sr.metrics.programs import by_size
from maskgit_sr.perceptual import distances

_SIDE = 32  # AlexNet takes 31, of which 24 would be left


def load(path: str | Path | None = None) -> Callable[[Image, Image], Score]:
    """Returns the diversity score ([B,N,H,W,3], [B,H,W,3]) -> [B] in percent; higher is better.

    100 (g - l) / g: g is the smallest LPIPS of an output, l the mean over pixels of the smallest
    LPIPS that any output has there. 0 for outputs that are alike, and where g is 0.

    Raises:
        UserError: the weights of LPIPS are absent; see `maskgit_sr.assets.find`.
    """
    params = distances.load_lpips("alex", path).params
    features = partial(distances.alex_features, precision="highest")
    apply = by_size(partial(distances.lpips_map, features))
    return lambda x, y: diversity(partial(apply, params), x, y)


def diversity(distance: Callable[[Image, Image], Image], x: Image, y: Image) -> Score:
    """Returns the diversity score of outputs x [B,N,H,W,3] by a map of distances to y [B,H,W,3].

    Args:
        distance: ([B,H,W,3], [B,H,W,3]) -> [B,H,W].

    Raises:
        ValueError: a side has fewer than 32 pixels.
    """
    height, width = (side // 8 * 8 for side in y.shape[1:3])
    if min(y.shape[1:3]) < _SIDE:
        raise ValueError(f"image of {y.shape[1]}x{y.shape[2]}: expected at least {_SIDE} pixels")
    x, y = x[:, :, :height, :width], y[:, :height, :width]
    # One output at a time: the features of ten would take gigabytes.
    smallest = jnp.asarray(distance(x[:, 0], y))
    best = smallest.mean((1, 2))
    for i in range(1, x.shape[1]):
        found = jnp.asarray(distance(x[:, i], y))
        smallest = jnp.minimum(smallest, found)
        best = jnp.minimum(best, found.mean((1, 2)))
    local = smallest.mean((1, 2))
    return jnp.where(best > 0, 100 * (best - local) / jnp.where(best > 0, best, 1), 0)


def lr_psnr_worst(x: Image, y: Image, lr: Image) -> Score:
    """Returns the smallest `lr_psnr_ntire` of the outputs, in dB: [B,N,H,W,3] -> [B].

    Raises:
        ValueError: as `lr_psnr_ntire`.
    """
    return jnp.stack([lr_psnr_ntire(x[:, i], y, lr) for i in range(np.shape(x)[1])]).min(0)
