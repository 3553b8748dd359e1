"""Restores tiles by this artifact; needs only jax, flatbuffers and numpy.

    python run.py TILES.npy RESTORED.npz [BATCH]

TILES is float32 in [0, 1] or uint8, [N, size, size, 3]. RESTORED has image float32
[N, scale·size, scale·size, 3], not clipped, confidence [N, h, w] in [0, 1] and tokens [N, h, w].
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export


def load(folder: Path) -> Callable[[Any], Any]:
    """tiles [n, size, size, 3] → (image, confidence, tokens); compiled once for each n."""
    exported = export.deserialize(bytearray((folder / "tiles.jax_export").read_bytes()))
    with np.load(folder / "params.npz") as file:
        params = jax.device_put({name: file[name] for name in file.files})
    call = jax.jit(exported.call)
    return lambda tiles: call(params, tiles)


def main(source: str, target: str, batch: str = "1") -> None:
    """Restores the tiles of a file, `batch` at a time."""
    tiles, restore = np.load(source), load(Path(__file__).parent)
    tiles = tiles / np.float32(255) if tiles.dtype == np.uint8 else tiles.astype(np.float32)
    cuts = range(int(batch), len(tiles), int(batch))
    parts = [jax.device_get(restore(part)) for part in np.split(tiles, cuts)]
    image, confidence, tokens = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    np.savez(target, image=image, confidence=confidence, tokens=tokens)


if __name__ == "__main__":
    main(*sys.argv[1:])
