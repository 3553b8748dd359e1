"""Training checkpoints (Orbax) and the hand-over of groups from one stage to the next."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from maskgit_sr import bundles
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError
from maskgit_sr.training.state import TrainState

_LOG = logging.getLogger(__name__)


class Checkpoints:
    """State and data iterator of one run, saved together, asynchronously and atomically."""

    def __init__(self, folder: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: TrainState, iterator: Any) -> None:
        """Starts a save; the next save or :meth:`close` waits for it."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(iterator)
            ),
        )

    def restore(self, like: TrainState, iterator: Any) -> TrainState | None:
        """The newest checkpoint that can be read, laid out as ``like``; None when there is none.

        ``iterator`` is moved to where it was. An unreadable checkpoint is passed over with a
        warning to the one before.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract),
                        data=grain.checkpoint.CheckpointRestore(iterator),
                    ),
                )
                return restored["state"]
            except Exception as error:  # Orbax raises many kinds for a damaged checkpoint
                _LOG.warning("checkpoint %d cannot be read, trying the one before: %s", step, error)
        return None

    def close(self) -> None:
        """Waits for the save under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def stage_file(workdir: Path, stage: str) -> Path:
    """Where a stage leaves its groups for the stages after it."""
    return workdir / stage / "groups.safetensors"


def collect(paths: Iterable[Path], groups: Iterable[str]) -> tuple[Params, dict[str, Any]]:
    """``groups`` from stage files or bundles, the first file that has a group giving it.

    Returns:
        (groups found, training facts of the files by stage).
    """
    found: Params = {}
    facts: dict[str, Any] = {}
    wanted = set(groups)
    for path in paths:
        if not path.exists():
            continue
        params, metadata = bundles.read(path)
        for group in wanted & params.keys() - found.keys():
            found[group] = params[group]
        facts = metadata.training | facts
    return found, facts


def require(found: Params, needed: Iterable[str], where: Path) -> None:
    """Raises :class:`UserError` naming groups that earlier stages have not produced."""
    missing = [group for group in needed if group not in found]
    if missing:
        raise UserError(
            f"{where}: needs trained {', '.join(missing)}: run the earlier stages in the same "
            "workdir or pass --config.init=BUNDLE"
        )
