"""Reports to launchers if a run is finished: ``python -m launch.finished WORKDIR``.

`launch.train` exits with 0 after the last step, and also when it has saved after a signal. Here
exit code 0 means that every stage is finished, 75 that the same `launch.train` command must run
again.
"""

from __future__ import annotations

import json
import sys

from maskgit_sr import paths
from maskgit_sr.errors import UserError, one_line

CODE = 75  # EX_TEMPFAIL: try again later


def finished(workdir: paths.PathLike) -> bool:
    """Returns True if all stages of the last `launch.train` command are finished."""
    path = paths.absolute(workdir) / "train.json"
    if not path.exists():  # stopped before the end of its first stage
        return False
    try:
        found = json.loads(path.read_text())
        return all(found["stages"].get(name, {}).get("finished") for name in found["order"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


if __name__ == "__main__":
    with one_line("launch.finished"):
        sys.exit(0 if finished(sys.argv[1]) else CODE)
