"""Joins the stages of a workdir into one bundle.

python -m launch.export_bundle --workdir W --output FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ml_dtypes
import numpy as np
from etils import epath

from maskgit_sr import bundles, paths
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.inference import load
from maskgit_sr.methods import registry
from maskgit_sr.models.functional import count
from maskgit_sr.training import weights

_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def export(
    workdir: paths.PathLike,
    output: paths.PathLike,
    dtype: str,
    licence: str,
    about: dict[str, object],
    init: paths.PathLike = "",
    name: str | None = None,
) -> int:
    """Writes the bundle and returns its number of parameters.

    Args:
        dtype: ``float32`` or ``bfloat16``, in which arrays outside the method's ``exact`` are kept.
        about: further facts for the metadata: data, hardware, and scores under ``scores``.
        init: bundle of the groups that no stage here has trained; "": the stages have them all.
        name: method of the bundle, which may share the first stages of the one that was trained;
            None: that one.

    Raises:
        weights.MissingGroups: a stage is missing.
        UserError: no stage at all, the stages disagree on the configuration, unwritable output.
    """
    folder = paths.absolute(workdir)
    found = list(folder.glob("*/groups.safetensors"))
    if not found:
        raise UserError(f"{workdir}: no trained stage (no */groups.safetensors)")
    first = bundles.read_metadata(found[0])
    stages = registry.build(name or first.method, first.config).stages
    files = {name: weights.stage_file(folder, name) for name in stages}
    heads = {name: bundles.read_metadata(path) for name, path in files.items() if path in found}
    if not heads:
        raise UserError(f"{workdir}: no folder of a stage among {', '.join(stages)}")
    newest = list(heads.values())[-1]  # heads are in training order
    method = registry.build(name or newest.method, newest.config)
    described = method.describe()
    for name, head in heads.items():  # the bundle has one description: the last stage's
        config = registry.build(head.method, head.config).describe()
        groups = {path.partition("/")[0] for path in (*stages[name].needs, *stages[name].trains)}
        for part in sorted({"tile", *groups} & described.keys()):
            if config[part] != described[part]:
                raise UserError(f"{workdir}: the {part} of stage {name} differs from the last one")
    # Latest stage first: `collect` takes each group from the first file that has it.
    sources = [*reversed(files.values()), *([paths.absolute(init)] if init else [])]
    params, facts = weights.collect(sources, method.groups)
    weights.require(params, method.groups, folder)
    scores = about.pop("scores", {})
    metadata = bundles.Metadata(
        method.name,
        described,
        method.scale,
        licence,
        {**facts, **about},
        scores,  # type: ignore[arg-type]
    )
    bundles.write(output, params, metadata, _DTYPES[dtype], method.exact)
    bundles.read(output, method.shapes())  # raises here, not for whoever downloads it
    return count(params)


def main() -> None:
    """Runs the command; a user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--output", type=epath.Path, required=True)
    parser.add_argument("--dtype", choices=sorted(_DTYPES), default="bfloat16")
    parser.add_argument("--licence", default="Apache-2.0")
    parser.add_argument("--method", help="another method whose stages the workdir has")
    parser.add_argument("--init", default="", help="bundle of groups that no stage here trained")
    parser.add_argument("--about", type=Path, help="JSON object with more facts, such as scores")
    arguments = parser.parse_args()
    with one_line("launch.export_bundle", {ValueError: 2, OSError: 2}):
        about = json.loads(arguments.about.read_text()) if arguments.about else {}
        given = arguments
        number = export(
            given.workdir,
            given.output,
            given.dtype,
            given.licence,
            about,
            load.resolve(given.init) if given.init else "",
            given.method,
        )
    size = arguments.output.stat().length
    print(f"{arguments.output}: {number:,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
