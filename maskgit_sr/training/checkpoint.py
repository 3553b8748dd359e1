"""Training checkpoints (Orbax): state and data iterator, atomic and asynchronous."""

from __future__ import annotations

import logging
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from maskgit_sr.errors import UserError
from maskgit_sr.training import watch
from maskgit_sr.training.state import TrainState

_LOG = logging.getLogger(__name__)


class Checkpoints:
    """Checkpoints of one run: state and data iterator together, asynchronous and atomic.

    Args:
        keep: number of newest checkpoints to keep.
        best: number of checkpoints of the lowest score to keep as well.
        every: keeps also the checkpoints of steps that this divides; 0: none.
    """

    def __init__(self, folder: epath.Path, keep: int = 2, best: int = 0, every: int = 0):
        policies: list[Any] = [preservation_policy.LatestN(keep)]
        if best:
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: -metrics["score"],  # Orbax keeps the highest
                    n=best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        if every:
            policies.append(preservation_policy.EveryNSteps(every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies), create=True
        )
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder, options=options)
        # Reads without waiting for other hosts: one that cannot read would leave them waiting.
        this = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
        self._reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(), multiprocessing_options=alone
        )
        self._good = self._manager.latest_step()

    def save(self, state: TrainState, iterator: Any, score: float | None = None) -> None:
        """Starts a save unless its step is there; the next save or :meth:`close` waits for it.

        Args:
            score: ranks the checkpoint for ``best``, lower being better; None: unranked.

        Raises:
            UserError: this or the last save failed, as on a full disk; earlier ones are whole.
        """
        step = int(state.step)
        # Orbax raises for a step that it has, and a last step is saved in the loop and at its end.
        if step in self._manager.all_steps():
            return
        # A failure of the save before is raised here, where it can still name the last whole one.
        self._wait()
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=grain.checkpoint.CheckpointSave(iterator),
                ),
                metrics=None if score is None else {"score": score},
            )
        except Exception as error:  # Orbax and TensorStore have many kinds
            raise self._failed(error) from error

    def _wait(self) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error
        self._good = self._manager.latest_step()

    def _failed(self, error: Exception) -> UserError:
        last = (
            "no whole one" if self._good is None else f"the last whole one is of step {self._good}"
        )
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        return UserError(f"{self._folder}: cannot write a checkpoint ({reason}); there is {last}")

    def restore(self, like: TrainState, iterator: Any) -> TrainState | None:
        """Returns the newest readable checkpoint, sharded as ``like``; None if there is none.

        Sets ``iterator`` to its saved position. A checkpoint that any host cannot read is passed
        over with a warning to the one before; once that is read, the unreadable ones are deleted,
        as Orbax would neither write their steps again nor any step before them.

        Raises:
            UserError: there are checkpoints, and none can be read; all are left as they are.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        steps = sorted(self._manager.all_steps(), reverse=True)
        for place, step in enumerate(steps):
            state, trouble = None, "another host cannot read it"
            try:
                state = self._reader.restore(
                    self._folder / str(step),
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract),
                        data=grain.checkpoint.CheckpointRestore(iterator),
                    ),
                )["state"]
            except Exception as error:  # Orbax raises many kinds for a damaged checkpoint
                trouble = str(error)
            # Agreed on by all: hosts that went on from different steps would never meet again.
            if not watch.any_host(state is None):
                for damaged in steps[:place]:
                    self._manager.delete(damaged)
                self._good = step
                return state
            _LOG.warning("checkpoint %d cannot be read, trying the one before: %s", step, trouble)
        if steps:
            raise UserError(
                f"{self._folder}: none of its checkpoints ({', '.join(map(str, steps))}) can be "
                "read; they are damaged or of another configuration. Move the folder away to begin "
                "anew"
            )
        return None

    def close(self) -> None:
        """Waits for the pending save and releases Orbax's threads.

        Raises:
            UserError: the save failed.
        """
        try:
            self._wait()
        finally:
            self._reader.close()
            self._manager.close()
