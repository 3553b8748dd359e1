"""Random weights for published networks whose sizes were reduced, and what PyTorch made of them.

`published_reference.json` lists names and shapes in the public PyTorch code (torchvision and
pytorch-fid's Inception, OpenAI's CLIP, DISTS, MUSIQ in IQA-PyTorch) after its widths were reduced,
and its outputs for `weights` and `image` below; MUSIQ's names are those of the official checkpoint.
"""

import json
import math
from pathlib import Path

import numpy as np

REFERENCE = json.loads((Path(__file__).parent / "published_reference.json").read_text())


def weights(listing, seed=0):
    """Arrays of the given shapes by name; the same ones wherever they are drawn."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in listing.items():
        last = name.replace("/", ".").rpartition(".")[2]
        if last == "logit_scale":
            value = np.array(1.5)
        elif last in ("running_var", "scale") or (last == "weight" and len(shape) == 1):
            value = rng.uniform(0.5, 1.5, shape)
        elif last in ("alpha", "beta"):
            value = rng.uniform(0, 1, shape)
        elif len(shape) == 1:
            value = rng.normal(0, 0.1, shape)
        else:
            inputs = math.prod(shape[:-1] if last == "kernel" else shape[1:])
            value = rng.normal(0, inputs**-0.5, shape)
        arrays[name] = value.astype(np.float32)
    return arrays


def image(height, width, batch=2, seed=0):
    """[B,H,W,3] in [0,1]: coarse squares and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.2, 0.8, (batch, height // 8 + 1, width // 8 + 1, 3))
    x = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    return np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1).astype(np.float32)


def close(found, expected):
    """Asserts equality up to float32 rounding of networks of this size."""
    np.testing.assert_allclose(found, expected, atol=3e-6)
