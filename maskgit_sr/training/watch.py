"""Run monitoring: non-finite steps, shutdown requests, throughput and device memory."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Mapping
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

PEAK_TFLOPS = {
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "V100": 125,
    "TPU v6": 918,
    "TPU v5p": 459,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,  # a v5p in some versions of JAX; after the longer names, which it would match
    "TPU v4": 275,
}
"""Dense bfloat16 (V100: float16) TFLOP/s of a device, from data sheets, by a substring of its
``device_kind``; the first match counts."""

ASK_EVERY = 8  # steps between two collectives on whether to stop, where there are several hosts
_LAG = 4  # steps that the device may be ahead of the host's check, which would wait for it


class TrainingStopped(RuntimeError):
    """Raised when training cannot continue by itself; the message tells a person why."""


class BrokenSteps:
    """Stops a run after ``limit`` non-finite steps in a row.

    A step's outcome is read a few steps later, so that the host never waits for the device.

    Args:
        limit: number of non-finite steps in a row that ends the run.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._waiting: deque[tuple[int, Mapping[str, np.ndarray], jax.Array]] = deque()
        self._examples: deque[str] = deque(maxlen=limit)

    def add(self, step: int, batch: Mapping[str, np.ndarray], in_a_row: jax.Array) -> None:
        """Records a step that was started, and reads the outcome of an earlier one.

        Args:
            batch: holds ``index`` and ``source`` of its examples, where the data has them.
            in_a_row: `TrainState.in_a_row` after the step.

        Raises:
            TrainingStopped: the limit is reached; names the examples of each step.
        """
        ids = {name: batch[name] for name in ("source", "index") if name in batch}
        self._waiting.append((step, ids, in_a_row))
        while len(self._waiting) > _LAG:
            self._look()

    def finish(self) -> None:
        """Reads the outcomes of all steps that were started; raises as :meth:`add` does."""
        while self._waiting:
            self._look()

    def _look(self) -> None:
        step, ids, counter = self._waiting.popleft()
        count = int(counter)  # waits until the device has done that step
        if not count:
            self._examples.clear()
            return
        names = zip(*(np.asarray(value).tolist() for value in ids.values()), strict=True)
        what = ", ".join("/".join(map(str, name)) for name in names) or "unknown"
        self._examples.append(f"step {step}: {what}")
        if count >= self._limit:
            raise TrainingStopped(
                f"{count} steps in a row were not finite; examples ({'/'.join(ids)}) of "
                + "; ".join(self._examples)
            )


class Interrupted(BaseException):
    """Raised where SIGTERM or Ctrl-C ends a run that has nothing more to save.

    Not an `Exception`, so that no code that goes on after a failure goes on after a signal.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopSignal:
    """Context in which SIGTERM and Ctrl-C request a shutdown instead of ending the process.

    A second Ctrl-C ends the process at once.

    Args:
        at_once: raises `Interrupted` wherever the signal comes, for work that leaves nothing to
            save. Otherwise the signal is only noted, and the work asks for it.

    Attributes:
        number: the signal that came; 0: none.
    """

    def __init__(self, at_once: bool = False):
        self._at_once, self.number = at_once, 0

    def __enter__(self) -> StopSignal:
        self._before: dict[int, Any] = {}
        self._pipe = -1
        if threading.current_thread() is not threading.main_thread():
            return self  # Python sets handlers there only
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        read, write = os.pipe()
        os.set_blocking(write, False)
        outer = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if outer >= 0:  # of a context around this one, which counts for both
            signal.set_wakeup_fd(outer)
            for end in (read, write):
                os.close(end)
        else:
            self._pipe = write
            threading.Thread(target=_end_at_second, args=(read,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe >= 0:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe)  # ends the thread

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Else only noted: the state can be saved between steps, within one it is donated.
        self.number = number
        if self._at_once:
            raise Interrupted(number)

    def asked(self) -> bool:
        """Returns True if this process has received SIGTERM or SIGINT."""
        return bool(self.number)


def _end_at_second(pipe: int) -> None:
    """Ends the process at the second SIGINT that the system reports through a pipe.

    In a thread, because Python runs handlers only after a call such as XLA's compiler, of minutes.
    """
    count = 0
    while number := os.read(pipe, 1):
        count += number[0] == signal.SIGINT
        if count > 1:
            os.write(2, b"interrupted twice: ended at once, the last checkpoint is whole\n")
            os._exit(130)
    os.close(pipe)


def any_host(flag: bool) -> bool:
    """Returns the logical OR of `flag` over all hosts. Collective: every host must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def highest(value: int) -> int:
    """Returns the highest `value` of all hosts. Collective: every host must call it."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.array(value))))


def from_first_host(value: float) -> float:
    """Returns the first host's `value` on every host. Collective: every host must call it."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float64(value)))


def of_kind(table: Mapping[str, float], kind: str) -> float | None:
    """Returns the entry of a table such as ``PEAK_TFLOPS`` for a ``device_kind``, or None."""
    return next((value for name, value in table.items() if name in kind), None)


def utilization(flops: float, seconds: float) -> dict[str, float]:
    """Returns TFLOP/s of a device and, if its peak is known, its MFU.

    Args:
        flops: FLOPs of a step on one device.
        seconds: time of a step.
    """
    rate = flops / seconds / 1e12
    peak = of_kind(PEAK_TFLOPS, jax.local_devices()[0].device_kind)
    found = {"tflops_per_device": rate}
    return found if peak is None else {**found, "mfu": rate / peak}


def device_memory() -> dict[str, float]:
    """Returns GiB in use and at the peak of this host's first device; {} if it reports none."""
    stats: dict[str, Any] = jax.local_devices()[0].memory_stats() or {}
    names = {"bytes_in_use": "memory_gib", "peak_bytes_in_use": "peak_memory_gib"}
    return {names[key]: stats[key] / 2**30 for key in names if key in stats}
