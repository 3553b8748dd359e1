"""Training checkpoints (Orbax): state and data iterator, atomic and asynchronous.

A checkpoint that cannot be read is never deleted. What Orbax removes are those that `keep` does not
name, once a newer one is whole, and half-written ones, which have another name until they are.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from maskgit_sr import paths
from maskgit_sr.errors import UserError, printable
from maskgit_sr.training import watch
from maskgit_sr.training.state import TrainState

_LOG = logging.getLogger(__name__)
_BLOCK = 2**24  # bytes of one reading
# What storage says when it is busy, away or closed to us: the checkpoint may be as good as ever.
_AWAY = re.compile(
    r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED)\b"
)
_OS_CODE = re.compile(r"os_error_code='?(\d+)")
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}  # of a folder that lacks files: damage


class _Unusable(UserError):
    """A checkpoint that is not damaged and yet cannot be restored here and now."""


class Differs(_Unusable):
    """A checkpoint of a state with other arrays than this run's."""


class _Quiet(logging.Filter):
    """Drops the tracebacks of Orbax's threads and tasks: their failure is raised in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        task = record.name == "asyncio" and "never retrieved" in record.getMessage()
        return not (task or (record.exc_info and "orbax" in record.pathname))


_QUIET = _Quiet()  # one, since a logger takes the same filter once only


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
        # That of asyncio stays: a task complains when it is collected, at any time.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_QUIET)
        try:
            self._manager = ocp.CheckpointManager(folder, options=options)
        except Exception as error:  # a file of that name, a read-only disk, a bucket out of reach
            raise UserError(f"{folder}: cannot be read and written ({_reason(error)})") from error
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
            "there is no whole one"
            if self._good is None
            else f"the last whole one is of step {self._good}"
        )
        return UserError(f"{self._folder}: cannot write a checkpoint ({_reason(error)}); {last}")

    def restore(self, like: TrainState, iterator: Any) -> TrainState | None:
        """Returns the newest readable checkpoint, sharded as ``like``; None if there is none.

        Sets ``iterator`` to its saved position. A checkpoint that any host finds damaged is passed
        over with a warning to the one before; once that is read, the damaged ones are renamed to
        ``damaged-STEP``, as Orbax would neither write their steps again nor any step before them.

        Raises:
            Differs: a checkpoint has other arrays than ``like``.
            UserError: one cannot be read for the time being (a mount that is away, no permission),
                or there are some and all are damaged. All are left as they are.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        # Orbax does not count what it cannot look into. (A bucket has no empty folders.)
        entries = self._folder.iterdir() if self._folder.exists() else ()
        names = (path for path in entries if path.name.isdigit())
        away = next((path for path in names if not path.is_dir()), None)
        if watch.highest(away is not None):
            raise _Unusable(f"{away or self._folder}: cannot be reached now; nothing is changed")
        steps = sorted(self._manager.all_steps(), reverse=True)
        for place, step in enumerate(steps):
            state, trouble = self._read(step, abstract, iterator)
            # Agreed on by all: hosts that went on from different steps would never meet again.
            if not watch.any_host(state is None):
                if place:
                    self._set_aside(steps[:place])
                self._good = step
                return state
            if watch.highest(isinstance(trouble, _Unusable)):
                known = trouble if isinstance(trouble, _Unusable) else None
                raise known or UserError(f"{self._folder / str(step)}: another host cannot read it")
            reason = _reason(trouble) if trouble else "another host cannot read it"
            _LOG.warning("checkpoint %d cannot be read, trying the one before: %s", step, reason)
        if steps:
            raise UserError(
                f"{self._folder}: none of its checkpoints ({', '.join(map(str, steps))}) can be "
                "read; they are damaged or of another configuration. Move the folder away to begin "
                "anew"
            )
        return None

    def _read(
        self, step: int, abstract: TrainState, iterator: Any
    ) -> tuple[TrainState | None, Exception | None]:
        """Returns (state, None), or (None, the trouble), which is `_Unusable` unless damage."""
        folder = self._folder / str(step)
        trouble: Exception | None = None
        # Beforehand, because Orbax's own readings go on, and fail one by one, after the first did.
        if not paths.is_remote(folder) and (unreadable := _unreadable(folder, False)):
            return None, unreadable
        if difference := _difference(folder, abstract):
            return None, Differs(f"{folder}: is of another configuration: {difference}")
        for _ in range(2):  # again: a mount that was away may be back
            try:
                state = self._reader.restore(
                    folder, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                )["state"]
                # Last: of a checkpoint without a readable state the position is not taken either.
                _set_position(folder / "data", iterator)
                return state, None
            except Exception as error:  # Orbax raises many kinds
                trouble = _unusable(folder, error) or error
            if isinstance(trouble, _Unusable):
                break
        return None, trouble

    def _set_aside(self, steps: list[int]) -> None:
        trouble = ""
        if jax.process_index() == 0:
            for step in steps:
                names = (f"damaged-{step}{more}" for more in ("", *(f"-{n}" for n in range(2, 99))))
                free = next(n for n in names if not (self._folder / n).exists())
                try:
                    _move(self._folder / str(step), self._folder / free)
                except Exception as error:  # each kind of bucket has its own
                    trouble = f"{self._folder / str(step)}: cannot be renamed ({_reason(error)})"
                    break
                _LOG.warning("checkpoint %d is kept as %s", step, self._folder / free)
        if watch.highest(bool(trouble)):
            raise UserError(trouble or f"{self._folder}: the first host cannot rename in it")
        self._manager.reload()

    def close(self) -> None:
        """Waits for the pending save and releases Orbax's threads.

        Raises:
            UserError: the save failed.
        """
        try:
            self._wait()
        finally:
            self._reader.close()
            with contextlib.suppress(Exception):  # it raises the failure of the save once more
                self._manager.close()
            logging.getLogger("absl").removeFilter(_QUIET)


def _set_position(folder: epath.Path, iterator: Any) -> None:
    """Sets the iterator to the state that was saved by this host.

    Of a run with another number of hosts, to that of its first: ours is that of all hosts together
    (`data.pipeline.Batches`).
    """
    index, count = jax.process_index(), jax.process_count()
    own = folder / f"process_{index}-of-{count}.json"
    others = sorted(folder.glob("process_0-of-*.json"))
    text = (own if own.exists() or not others else others[0]).read_text()
    if isinstance(iterator, grain.DatasetIterator):
        iterator.set_state(json.loads(text))
        iterator.start_prefetch()
    else:
        iterator.set_state(text.encode())


def _unusable(folder: epath.Path, error: Exception) -> _Unusable | None:
    """Returns why a checkpoint is not to be passed over after an error; None for a damaged one."""
    if unreadable := _unreadable(folder, True):
        return unreadable
    causes = _causes(error)
    codes = [cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno]
    codes += [int(code) for cause in causes for code in _OS_CODE.findall(str(cause))]
    if any(code not in _MISSING for code in codes) or any(
        isinstance(cause, MemoryError) or _AWAY.search(str(cause)) for cause in causes
    ):
        return _Unusable(f"{folder}: cannot be read now ({_reason(error)}); nothing is changed")
    return None


def _unreadable(folder: epath.Path, whole: bool) -> _Unusable | None:
    """Returns why the files below a folder cannot be read now; None: they can.

    Args:
        whole: reads all of them; else the first byte of each.
    """
    try:
        for file in _files(folder):
            with file.open("rb") as opened:
                while opened.read(_BLOCK if whole else 1) and whole:
                    pass
    except Exception as now:  # each kind of bucket has its own
        return _Unusable(f"{folder}: cannot be read now ({_reason(now)}); nothing is changed")
    return None


def _move(folder: epath.Path, target: epath.Path) -> None:
    """Renames a folder; in a bucket, which has none, every object is copied before any goes."""
    if not paths.is_remote(folder):
        folder.rename(target)
        return
    for file in _files(folder):
        file.copy(target / file.relative_to(folder).as_posix())
    folder.rmtree()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    """Yields all files below a folder.

    Raises:
        OSError: a folder cannot be listed.
    """
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _difference(folder: epath.Path, like: TrainState) -> str:
    """Returns the first array that a checkpoint and ``like`` do not have in common, or ""."""
    try:
        stored = ocp.StandardCheckpointHandler().metadata(folder / "state")
        before = _shapes(getattr(stored, "tree", stored))
    except Exception:  # damaged, or away: reading the arrays will say so
        return ""
    now = _shapes(like)
    for name in sorted(before.keys() | now.keys()):
        then, here = (tree.get(name, "not there") for tree in (before, now))
        if then != here:
            return f"{name} {then} then, {here} now"
    return ""


def _shapes(tree: Any) -> dict[str, str]:
    """Returns dtype and shape of every array by its path; keys of any kind as their texts."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype} {list(leaf.shape)}"
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def _causes(error: BaseException | None) -> list[BaseException]:
    """Returns an exception and those that it came from."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _reason(error: BaseException) -> str:
    """Returns what went wrong as one short line, for a failure of the system in its own words."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if code := _OS_CODE.search(str(cause)):
            return os.strerror(int(code[1]))
    lines = str(error).strip().splitlines() or [repr(error)]
    return printable(lines[0][:300])
