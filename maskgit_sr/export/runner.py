"""Restores tiles with this artifact; needs only jax, flatbuffers and numpy.

    python run.py TILES RESTORED.npz [BATCH [SEED]]

TILES is a .npy file of float32 in [0, 1] or uint8, [N, side, side, 3], of a side that
`maskgit_sr.json` lists. RESTORED has image float32 [N, scale·side, scale·side, 3], not clipped,
and, if the method has them, confidence [N, h, w] in [0, 1] and tokens [N, h, w].
TILES may be a .npz file of several such arrays; the outputs of NAME are then NAME/image and so on.
SEED is for stochastic methods. The k-th tile of an array gets the samples of the k-th tile of an
image; methods whose samples belong to places in an image take those from NAME/places, int32 [N, 3]:
index, and row and column of the first pixel. Without it, every tile is the one at the corner.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export


def load(folder: Path) -> Callable[..., dict[str, Any]]:
    """Returns a function from tiles [n, side, side, 3] to outputs by name.

    It compiles once for each shape. If `maskgit_sr.json` says stochastic, it takes two more
    arguments: a seed, uint32 scalar, and int32 [n, 3]: index, row and column of each tile in its
    own image.
    """
    info = json.loads((folder / "maskgit_sr.json").read_text())
    calls = {}
    for side in info["tile"]["sides"]:
        program = bytearray((folder / f"tiles_{side}.jax_export").read_bytes())
        calls[side] = jax.jit(export.deserialize(program).call)
    with np.load(folder / "params.npz") as file:
        # put there once, or every call would copy them
        params = jax.device_put({name: file[name] for name in file.files})
    return lambda tiles, *drawn: calls[tiles.shape[1]](params, tiles, *drawn)


def main(source: str, target: str, batch: str = "1", seed: str = "0") -> None:
    """Restores the tiles of a file, `batch` at a time."""
    folder, given = Path(__file__).parent, np.load(source)
    stochastic = json.loads((folder / "maskgit_sr.json").read_text())["stochastic"]
    restore = load(folder)
    found: dict[str, Any] = {}
    whole = isinstance(given, np.ndarray)
    named = {"": given} if whole else {f"{k}/": given[k] for k in given}
    known = {k: named.pop(k) for k in list(named) if k.endswith("/places/")}
    for prefix, tiles in named.items():
        tiles = tiles / np.float32(255) if tiles.dtype == np.uint8 else tiles.astype(np.float32)
        indices, parts = np.arange(len(tiles), dtype=np.int32), []
        places = known.get(f"{prefix}places/", np.pad(indices[:, None], ((0, 0), (0, 2))))
        for cut in np.split(indices, range(int(batch), len(tiles), int(batch))):
            drawn = (np.uint32(seed), places[cut]) if stochastic else ()
            parts.append(jax.device_get(restore(tiles[cut], *drawn)))
        for name in parts[0]:
            found[prefix + name] = np.concatenate([part[name] for part in parts])
    np.savez(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
