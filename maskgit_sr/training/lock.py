"""One trainer for each workdir: a lock file that names its owner.

The file says on which host and in which process the owner runs, and when that process started, so
that the lock of a process that is gone (kill -9, power failure) is recognised, also when its number
is used again. A process on another host cannot be looked at: its lock is respected, unless both
belong to the same job (`_JOBS`) of a scheduler, which starts a job again only after its end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import psutil
from etils import epath

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.training import watch

NAME = "train.lock"
_JOBS = ("MASKGIT_SR_JOB", "SLURM_JOB_ID", "CLOUD_ML_JOB_ID")
_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def held(workdir: epath.Path) -> Iterator[None]:
    """Holds the lock of a workdir, which is made if it is missing. Collective.

    Of several hosts the first takes the lock, for all.

    Raises:
        UserError: another trainer holds it, or the workdir cannot be written; on every host.
    """
    path, made = workdir / NAME, False
    mine, trouble = "", ""
    try:
        if jax.process_index() == 0:
            made = not workdir.exists()
            try:
                mine = _take(path)
            except UserError as error:
                trouble = str(error)
        # All give up together: the others would wait for the first one's collectives.
        if watch.any_host(bool(trouble)):
            raise UserError(trouble or f"{path}: the first host could not take it")
        yield
    finally:
        if mine:
            _release(path, mine, made)


def _take(path: epath.Path) -> str:
    """Creates the lock file and returns its text.

    Raises:
        UserError: it has an owner that is not known to be gone.
    """
    owner = _this_process()
    text = json.dumps(owner)
    for _ in range(20):
        if _created(path, text):
            return text
        found = _read(path)
        known = _parsed(found)
        if found is None:  # released since
            continue
        if not known:  # created, and not written yet
            time.sleep(0.1)
        elif not _gone(known, owner):
            raise UserError(_refusal(path, known, owner))
        elif _taken_away(path, found):
            _LOG.info("%s: of process %s, which has ended; taken over", path, known["pid"])
    raise UserError(f"{path}: names no owner; delete it if no trainer runs in this workdir")


def _this_process() -> dict[str, Any]:
    """Returns the content of a lock of this process."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "job": next((os.environ[name] for name in _JOBS if os.environ.get(name)), ""),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "token": secrets.token_hex(8),  # a process may take the same lock twice
    }


def _created(path: epath.Path, text: str) -> bool:
    """Writes the file unless it is there; returns True if it was written."""
    if paths.is_remote(path):  # no exclusive creation through epath; of two the last one wins
        if path.exists():
            return False
        path.write_text(text)
        return _read(path) == text
    with paths.naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(file, text.encode())
        except OSError:  # a full disk: an empty lock would name no owner
            os.unlink(path)
            raise
        finally:
            os.close(file)
    return True


def _read(path: epath.Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _parsed(text: str | None) -> dict[str, Any]:
    """Returns the owner that a lock's text names; {} where it names none."""
    try:
        found = json.loads(text or "")
        return {**found, "pid": int(found["pid"]), "started": float(found["started"])}
    except (ValueError, TypeError, KeyError):
        return {}


def _gone(owner: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Returns True if a lock's owner certainly runs no more."""
    if owner.get("host") != mine["host"]:
        return bool(mine["job"]) and owner.get("job") == mine["job"]
    started = _started(owner["pid"])
    # Two seconds, since the system rounds; NaN, of a process that may not be looked at, is there.
    return started is None or abs(started - owner["started"]) > 2


def _started(pid: int) -> float | None:
    """Returns seconds from the system's start to the process's; None: there is no such process.

    Not the time of day, which a clock that is set changes for a process that runs.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return math.nan


def _taken_away(path: epath.Path, found: str) -> bool:
    """Removes a stale lock; returns True if it was still the one that was read."""
    if paths.is_remote(path):
        path.unlink(missing_ok=True)
        return True
    # By renaming, which one of two that found it stale can do; the other may catch a fresh lock.
    aside = path.with_name(f".{NAME}.{secrets.token_hex(4)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{path}: is stale and cannot be removed ({error.strerror})") from error
    if aside.read_text() != found:
        aside.rename(path)
        return False
    aside.unlink()
    return True


def _refusal(path: epath.Path, owner: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    line = (
        f"--workdir {path.parent}: a trainer runs there already, on host {owner.get('host')}, "
        f"pid {owner['pid']}, since {owner.get('since')}"
    )
    if owner.get("host") == mine["host"]:
        return line
    return f"{line}; if that has ended, delete {path}"


def _release(path: epath.Path, mine: str, made: bool) -> None:
    try:
        if _read(path) == mine:  # else someone has deleted it, and another trainer runs
            path.unlink()
        if made and not paths.is_remote(path) and not any(path.parent.iterdir()):
            path.parent.rmdir()  # a refused run leaves nothing
    except (UserError, OSError) as error:
        _LOG.warning("%s: could not be removed (%s)", path, error)
