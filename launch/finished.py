"""Tells the launchers whether a run is done: ``python -m launch.finished WORKDIR``.

`launch.train` ends with 0 after the last step, and also when it has saved because of a signal. Exit
code 0 here: every stage is finished. 75: not yet, the same command of `launch.train` goes on.
"""

from __future__ import annotations

import json
import sys

from maskgit_sr import paths

CODE = 75  # EX_TEMPFAIL: try again later


def finished(workdir: paths.PathLike) -> bool:
    """Returns True if ``train.json`` of the workdir holds stages and all of them are finished."""
    path = paths.absolute(workdir) / "train.json"
    stages = json.loads(path.read_text())["stages"] if path.exists() else {}
    return bool(stages) and all(stage["finished"] for stage in stages.values())


if __name__ == "__main__":
    sys.exit(0 if finished(sys.argv[1]) else CODE)
