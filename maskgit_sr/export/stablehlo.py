"""The artifact for JAX: the program, its parameters, a runner and a card."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from maskgit_sr.export import runner as export_runner
from maskgit_sr.export.program import Program

_CARD = """\
# {model}, {method} ×{scale}, as StableHLO

Restores tiles of {size}×{size} pixels ×{scale}, any number at a time. {steps} decoding steps,
temperature 0, colours matched by {color_fix}, computed in {dtype}. Licence of the weights:
{licence}.

    pip install 'jax>={jax}' flatbuffers
    python run.py tiles.npy restored.npz

| file | content |
|---|---|
| `tiles.jax_export` | the program, for {platforms}; `jax.export.deserialize` reads it |
| `params.npz` | its parameters, float32 arrays by name, the first argument |
| `run.py` | reads both, restores the tiles of a file; a start for your own code |
| `maskgit_sr.json` | where the artifact comes from and how it was checked |

`call(params, tiles)` takes float32 [b, {size}, {size}, 3] in [0, 1]. It gives an image float32
[b, {large}, {large}, 3], not clipped, confidence [b, h, w] in [0, 1], a cell of which is
{cell}×{cell} input pixels, and tokens int32 [b, h, w]. Each b is compiled once.

## Which versions of JAX run it

It was made by jaxlib {jaxlib}. JAX promises that an export runs on releases up to six months newer
than the one it was made by, and up to three weeks older; what counts is when jaxlib was released
([jax.export](https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees)). Outside
of that window it may run; export again from the bundle rather than rely on it. The only custom call
in it is the check of shapes that JAX makes itself.
"""


def write(program: Program, folder: Path) -> None:
    """Writes the files and completes the program's info."""
    info = program.info
    (folder / "tiles.jax_export").write_bytes(program.exported.serialize())
    np.savez(folder / "params.npz", **program.params)  # type: ignore[arg-type]
    shutil.copyfile(export_runner.__file__, folder / "run.py")
    info["calling_convention"] = program.exported.calling_convention_version
    size = info["tile"]["size"]
    values = {
        **info,
        **info["versions"],
        "size": size,
        "large": size * info["scale"],
        "cell": info["tile"]["cell"],
        "platforms": ", ".join(info["platforms"]),
    }
    (folder / "README.md").write_text(_CARD.format(**values), encoding="utf-8")
