"""Files of the perceptual nets with random weights, for tests that have not the published ones."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ALEX_LINS = (64, 192, 384, 256, 256)
SQUEEZE_LINS = (64, 128, 256, 384, 384, 512, 512)
VGG_WIDTHS = {1: (64, 2), 2: (128, 2), 3: (256, 4), 4: (512, 4), 5: (512, 4)}


def tensors(seed, convs, lins):
    """Convolutions by torchvision's names and (channels in, channels out, size); linear layers."""
    rng, found = np.random.default_rng(seed), {}
    for name, (cin, cout, size) in convs.items():
        weight = rng.normal(0, (2 / (cin * size * size)) ** 0.5, (cout, cin, size, size))
        found[f"features.{name}.weight"] = weight.astype(np.float32)
        found[f"features.{name}.bias"] = rng.normal(0, 0.05, cout).astype(np.float32)
    for i, width in enumerate(lins):
        found[f"lin{i}.weight"] = rng.uniform(0, 1, (1, width, 1, 1)).astype(np.float32)
    return found


def alex_tensors():
    wide = zip((0, 3, 6, 8, 10), (3, *ALEX_LINS), ALEX_LINS, (11, 5, 3, 3, 3), strict=False)
    return tensors(0, {index: sizes for index, *sizes in wide}, ALEX_LINS)


def squeeze_tensors():
    convs, cin = {"0": (3, 64, 3)}, 64
    squeezed = (16, 16, 32, 32, 48, 48, 64, 64)
    for index, mid in zip((3, 4, 6, 7, 9, 10, 11, 12), squeezed, strict=True):
        convs[f"{index}.squeeze"] = (cin, mid, 1)
        convs[f"{index}.expand1x1"] = (mid, 4 * mid, 1)
        convs[f"{index}.expand3x3"] = (mid, 4 * mid, 3)
        cin = 8 * mid
    return tensors(1, convs, SQUEEZE_LINS)


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
