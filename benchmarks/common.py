"""Shared parts of the benchmarks: options, an image, timing, memory and tables."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


def parser(text: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose help is ``text``, a module's docstring."""
    how = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=text, formatter_class=how)


def positive(text: str) -> int:
    """Returns the value of an option that is a count.

    Raises:
        ArgumentTypeError: a value below 1.
    """
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {number}")
    return number


def photograph(side: int) -> np.ndarray:
    """Returns a smooth image with some noise, uint8 [side, side, 3], always the same."""
    y, x = np.mgrid[:side, :side] / side
    rng = np.random.default_rng(0)
    base = np.stack([x, y, (x + y) / 2], -1) * 200 + rng.normal(0, 12, (side, side, 3))
    return np.clip(base + 20, 0, 255).astype(np.uint8)


class Timed(NamedTuple):
    """Result of a call, its seconds, and its CPU seconds over all threads."""

    wall: float
    cpu: float
    result: Any


def timed(call: Callable[..., Any], *arguments: Any) -> Timed:
    """Times a call whose result is on the host: what JAX has only started is not waited for."""
    began, used = time.perf_counter(), time.process_time()
    result = call(*arguments)
    return Timed(time.perf_counter() - began, time.process_time() - used, result)


def seconds(call: Callable[[], Any], repeats: int, least: float = 0.02) -> float:
    """Returns the median seconds of a call whose results stay on the device, without compilation.

    A call shorter than ``least`` seconds is started repeatedly to fill them and waited for once, so
    that the host's time to start a call does not count while the device is busy.
    """
    import jax

    jax.block_until_ready(call())

    def several(many: int) -> float:
        # A device runs its calls in order: once the last has ended, all have.
        return timed(lambda: jax.block_until_ready([call() for _ in range(many)][-1])).wall / many

    once = several(1)
    many = max(1, math.ceil(least / once))
    taken = [once] if many == 1 else []
    while len(taken) < repeats:
        taken.append(several(many))
    return statistics.median(taken)


def alone() -> ProcessPoolExecutor:
    """Returns an executor of one new process, which has imported and compiled nothing yet."""
    # spawn: a fork would have this process's imports, programs and memory.
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def resident(process: int | str = "self") -> float:
    """Returns the resident memory of a process in MiB (Linux only)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def table(head: str, rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table with its first column left-aligned; None becomes a dash.

    Args:
        head: names of the columns, separated by ``|``.
    """
    names = head.split("|")
    lines = ["| " + " | ".join(names) + " |", "|---" + "|--:" * (len(names) - 1) + "|"]
    return "\n".join(lines + [line(*row) for row in rows])


def line(*cells: object) -> str:
    """Returns a row of a Markdown table."""
    return "| " + " | ".join("–" if cell is None else str(cell) for cell in cells) + " |"
