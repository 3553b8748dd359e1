"""Files of the perceptual nets with random weights, for tests that have not the published ones."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ALEX_CONVS = {
    0: (3, 64, 11),
    3: (64, 192, 5),
    6: (192, 384, 3),
    8: (384, 256, 3),
    10: (256, 256, 3),
}
ALEX_LINS = (64, 192, 384, 256, 256)
SQUEEZE_FIRES = {  # index: (channels in, squeezed, out of each of two expansions)
    3: (64, 16, 64),
    4: (128, 16, 64),
    6: (128, 32, 128),
    7: (256, 32, 128),
    9: (256, 48, 192),
    10: (384, 48, 192),
    11: (384, 64, 256),
    12: (512, 64, 256),
}
SQUEEZE_LINS = (64, 128, 256, 384, 384, 512, 512)
VGG_WIDTHS = {1: (64, 2), 2: (128, 2), 3: (256, 4), 4: (512, 4), 5: (512, 4)}


def torch_conv(rng, tensors, name, cin, cout, size):
    weight = rng.normal(0, (2 / (cin * size * size)) ** 0.5, (cout, cin, size, size))
    tensors[f"{name}.weight"] = weight.astype(np.float32)
    tensors[f"{name}.bias"] = rng.normal(0, 0.05, cout).astype(np.float32)


def alex_tensors():
    rng, tensors = np.random.default_rng(0), {}
    for index, shape in ALEX_CONVS.items():
        torch_conv(rng, tensors, f"features.{index}", *shape)
    for i, width in enumerate(ALEX_LINS):
        tensors[f"lin{i}.weight"] = rng.uniform(0, 1, (1, width, 1, 1)).astype(np.float32)
    return tensors


def squeeze_tensors():
    rng, tensors = np.random.default_rng(1), {}
    torch_conv(rng, tensors, "features.0", 3, 64, 3)
    for index, (cin, mid, out) in SQUEEZE_FIRES.items():
        torch_conv(rng, tensors, f"features.{index}.squeeze", cin, mid, 1)
        torch_conv(rng, tensors, f"features.{index}.expand1x1", mid, out, 1)
        torch_conv(rng, tensors, f"features.{index}.expand3x3", mid, out, 3)
    for i, width in enumerate(SQUEEZE_LINS):
        tensors[f"lin{i}.weight"] = rng.uniform(0, 1, (1, width, 1, 1)).astype(np.float32)
    return tensors


def vgg_codes():
    rng, codes, cin = np.random.default_rng(2), {}, 3
    for block, (width, depth) in VGG_WIDTHS.items():
        for i in range(1, depth + 1):
            name = f"conv{block}_{i}"
            codes[f"{name}/kernel"] = rng.integers(0, 256, (3, 3, cin, width), np.uint8)
            reach = (6 / (9 * cin)) ** 0.5
            codes[f"{name}/kernel/affine"] = np.array([2 * reach / 255, -reach], np.float32)
            codes[f"{name}/bias"] = rng.integers(0, 256, width, np.uint8)
            codes[f"{name}/bias/affine"] = np.array([0.01, -1], np.float32)
            cin = width
    return codes


def write(folder: Path) -> None:
    """All three files, by the names that they are looked for."""
    save_file(alex_tensors(), folder / "lpips_alex.safetensors")
    save_file(squeeze_tensors(), folder / "lpips_squeeze.safetensors")
    np.savez(folder / "vgg19_uint8.npz", **vgg_codes())
