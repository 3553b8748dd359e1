"""Drill: a damaged newest checkpoint is passed over, kept, written again, and changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from common import EVERY, Ground, checkpoints, same


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def cut_short(newest: Path) -> Path:
    """Its largest file has half its length."""
    largest = max(_files(newest), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    return newest


def emptied(newest: Path) -> Path:
    """All its files have length 0."""
    for path in _files(newest):
        path.write_bytes(b"")
    return newest


def without_metadata(newest: Path) -> Path:
    """The files that say what it holds are missing."""
    (newest / "_CHECKPOINT_METADATA").unlink()
    (newest / "state" / "_METADATA").unlink()
    return newest


def only_a_name(newest: Path) -> Path:
    """Of a later checkpoint there is an empty folder and no more."""
    later = newest.with_name(str(int(newest.name) + 2 * EVERY))
    later.mkdir()
    return later


DAMAGES: tuple[Callable[[Path], Path], ...] = (cut_short, emptied, without_metadata, only_a_name)
"""Each takes the newest checkpoint and returns the one that is damaged then."""


def drill(ground: Ground) -> str:
    """Does each damage to a copy of the same stopped run.

    Raises:
        Failed: a start did anything else than what :func:`_repaired` says.
    """
    whole, stopped = ground.whole, ground.start("stopped")
    stopped.until(lambda: len(checkpoints(stopped.workdir)) > 1)
    stopped.kill()
    damages = DAMAGES[-2:] if ground.quick else DAMAGES
    for damage in damages:
        workdir = ground.folder / damage.__name__
        shutil.copytree(stopped.workdir, workdir)
        before, newest = checkpoints(workdir)[-2:]
        damaged = int(damage(workdir / "tokenizer" / "checkpoints" / str(newest)).name)
        _repaired(ground, damage.__name__, damaged, before if damaged == newest else newest)
        same(whole, workdir)
    names = ", ".join(damage.__name__ for damage in damages)
    return f"{names}: passed over and written again, same losses and weights"


def _repaired(ground: Ground, workdir: str, damaged: int, good: int) -> None:
    """A start goes on from ``good`` and is killed when it has saved; the next one knows no damage.

    Raises:
        Failed: it is otherwise.
    """
    first, again = ground.start(workdir), good + EVERY
    if not first.until(lambda: first.reached(again) and again in checkpoints(first.workdir)):
        raise first.failed(f"did not save step {again}")
    first.kill()
    if not (first.workdir / "tokenizer" / "checkpoints" / f"damaged-{damaged}").is_dir():
        raise first.failed(f"did not keep the damaged checkpoint {damaged}")
    if f"checkpoint {damaged} cannot be read, trying the one before" not in first.said():
        raise first.failed(f"no warning of the damaged checkpoint {damaged}")
    if first.began() != good:
        raise first.failed(f"went on from step {first.began()}, not from {good}")
    second = ground.start(workdir).finish()
    if second.began() < again or "cannot be read" in second.said():
        raise second.failed(f"went on from step {second.began()}, not from {again}")
