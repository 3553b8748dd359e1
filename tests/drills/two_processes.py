"""Drill: two processes on this machine train as one process with two devices does.

The same steps in one process with two CPU devices and in two processes of one device each, which
find each other through JAX_COORDINATOR_ADDRESS. SIGTERM to one of the two stops both; of the newest
checkpoint, what only one of them reads is damaged; a second start of both goes on from the one
before. Losses and final weights may differ by 1e-5.
"""

from __future__ import annotations

import signal
import socket

import numpy as np
from common import Failed, Ground, Run, checkpoints, last, losses, weights

STEPS = 16
# XLA's CPU programs forget in which order their collectives run when they are read back from the
# cache, and two processes then wait for each other for ever; so each start compiles, and in haste.
PLAIN = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
HASTE = "--xla_backend_optimization_level=0"


def _pair(ground: Ground) -> list[Run]:
    """Two processes of one device each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": HASTE}
    return [
        ground.start("two", f"log{i}.txt", STEPS, JAX_PROCESS_ID=str(i), **shared, **PLAIN)
        for i in range(2)
    ]


def drill(ground: Ground) -> str:
    """Runs it.

    Raises:
        Failed: a process did not end well, or the difference is larger.
    """
    devices = f"{HASTE} --xla_force_host_platform_device_count=2"
    one = ground.start("one", steps=STEPS, XLA_FLAGS=devices, **PLAIN).finish().workdir
    runs, two = _pair(ground), ground.folder / "two"
    runs[0].until(lambda: last(two) >= 4)
    runs[1].process.send_signal(signal.SIGTERM)
    for run in runs:
        run.finish()
    stopped, found = last(two), checkpoints(two)
    if stopped >= STEPS or found[-1] != stopped:
        raise Failed(f"SIGTERM to one of two: step {stopped} of {STEPS}, checkpoints {found}")
    newest = two / "tokenizer" / "checkpoints" / str(stopped)
    (newest / "data" / "process_1-of-2.json").write_bytes(b"")
    for run in _pair(ground):
        if run.finish().began() != found[-2]:
            raise run.failed(f"went on from step {run.began()}, not from {found[-2]}")

    expected, measured = losses(one), losses(two)
    if measured.keys() != expected.keys():
        raise Failed(f"two processes took steps {[*measured]}, one took {[*expected]}")
    key, left, right = "tokenizer/reconstruction", weights(one), weights(two)
    apart = max(abs(expected[step][key] - measured[step][key]) for step in expected)
    worst = max(float(np.abs(left[name] - right[name]).max()) for name in left)
    if not max(apart, worst) <= 1e-5:
        raise Failed(f"weights differ by {worst:.1e}, the loss of a step by {apart:.1e}")
    return (
        f"SIGTERM to one stopped both at step {stopped}, damage seen by one made both go on from "
        f"{found[-2]}; "
        f"largest difference of weights {worst:.1e}, of a step's loss {apart:.1e}"
    )
