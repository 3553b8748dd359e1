"""The artifact for JAX: the programs, their parameters, a runner and a card."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from maskgit_sr.export import runner
from maskgit_sr.export.program import Program

_CARD = """\
# {model}, {method} ×{scale}, as StableHLO

Restores tiles of {sizes} pixels ×{scale}, any number at a time, computed in {dtype}. Options of
the method: {options}. Licence of the weights: {licence}.

    pip install 'jax>={jax}' flatbuffers
    python run.py tiles.npy restored.npz

| file | content |
|---|---|
| `tiles_SIDE.jax_export` | the program, for {platforms}; `jax.export.deserialize` reads it |
| `params.npz` | its parameters, float32 arrays by name, the first argument |
| `run.py` | reads both, restores the tiles of a file; a start for your own code |
| `maskgit_sr.json` | where the artifact comes from and how it was checked |

`call(params, tiles{more})` takes float32 [b, side, side, 3] in [0, 1] and gives by name:
{outputs}.{drawn} Each b is compiled once.

## Which versions of JAX run it

It was made by jaxlib {jaxlib}. JAX promises that an export runs on releases up to six months newer
than the one it was made by, and up to three weeks older; what counts is when jaxlib was released
([jax.export](https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees)). Outside
of that window it may run; export again from the bundle rather than rely on it. The only custom call
in it is the check of shapes that JAX makes itself.
"""
_OUTPUTS = {
    "image": "`image` float32 [b, {scale}·side, {scale}·side, 3], not clipped",
    "confidence": "`confidence` float32 [b, h, w] in [0, 1], a cell for side/h × side/w pixels",
    "tokens": "`tokens` int32 [b, h, w]",
}
_DRAWN = """
`seed` is a uint32 scalar, `places` int32 [b, 3]: index of each tile in its image, row by row, and
row and column of its first pixel there, negative in padding."""


def write(program: Program, folder: Path) -> None:
    """Writes the files and adds the calling convention to the program's info."""
    info, sides = program.info, program.exported
    for side, exported in sides.items():
        (folder / f"tiles_{side}.jax_export").write_bytes(exported.serialize())
        info["calling_convention"] = exported.calling_convention_version
    np.savez(folder / "params.npz", **program.params)  # type: ignore[arg-type]
    # a copy of our module, which is why that imports nothing of this package
    shutil.copyfile(runner.__file__, folder / "run.py")
    values = {
        **info,
        **info["versions"],
        "sizes": " or ".join(f"{side}×{side}" for side in sides),
        "options": ", ".join(f"{name} {value}" for name, value in info["options"].items()),
        "platforms": ", ".join(info["platforms"]),
        "outputs": ",\n".join(_OUTPUTS[name] for name in info["outputs"]).format_map(info),
        "more": ", seed, places" if program.stochastic else "",
        "drawn": _DRAWN if program.stochastic else "",
    }
    (folder / "README.md").write_text(_CARD.format(**values), encoding="utf-8")
