"""training.watch: broken steps in a row, the wish to stop, utilization."""

import os
import signal
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.training import watch


def feed(broken, counters, first=1):
    for step, counter in enumerate(counters, first):
        batch = {"hr": np.zeros(2), "index": np.array([step, 10 * step])}
        broken.add(step, batch, jnp.int32(counter))


def test_broken_steps_name_the_examples_of_the_last_run_of_them():
    broken = watch.BrokenSteps(3)
    feed(broken, [1, 2, 0, 1, 0, 1, 2])
    with pytest.raises(watch.TrainingStopped) as error:
        feed(broken, [3], first=8)
        broken.finish()
    assert str(error.value) == (
        "3 steps in a row were not finite; examples (index) of step 6: 6, 60; step 7: 7, 70; "
        "step 8: 8, 80"
    )


def test_broken_steps_below_the_limit_pass():
    broken = watch.BrokenSteps(3)
    feed(broken, [1, 2, 0] * 20)
    broken.finish()
    feed(broken, [1, 2])
    broken.finish()
    assert not broken._waiting


def test_outcomes_are_looked_at_late_but_in_time():
    broken, looked = watch.BrokenSteps(1), []

    class Counter:
        def __init__(self, step):
            self.step = step

        def __int__(self):
            looked.append(self.step)
            return 0

    for step in range(10):
        broken.add(step, {}, Counter(step))
        assert len(looked) == max(0, step + 1 - watch._LAG)
    broken.finish()
    assert looked == list(range(10))


def test_batches_without_ids_are_told_of_as_unknown():
    broken = watch.BrokenSteps(1)
    broken.add(7, {"hr": np.zeros(1)}, jnp.int32(1))
    with pytest.raises(watch.TrainingStopped, match="step 7: unknown"):
        broken.finish()


def test_sigterm_is_a_wish_within_and_what_it_was_without():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("outer"))
    try:
        with watch.StopSignal() as stop:
            assert not stop.asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked() and not seen
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["outer"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_leave_signals_alone():
    found = []

    def inside():
        with watch.StopSignal() as stop:
            found.append(stop.asked())

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [False] and signal.getsignal(signal.SIGTERM) is before


def test_one_host_decides_alone():
    assert watch.any_host(True) and not watch.any_host(False)


def test_utilization_knows_peaks_by_the_name_of_the_device(monkeypatch):
    assert watch.utilization(3e12, 1.5) == {"tflops_per_device": 2.0}  # a CPU has no peak here

    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

        def memory_stats(self):
            return {"bytes_in_use": 2**30, "peak_bytes_in_use": 3 * 2**30, "num_allocs": 4}

    monkeypatch.setattr(watch.jax, "local_devices", lambda: [Device()])
    assert watch.utilization(989e12, 2.0) == {"tflops_per_device": 494.5, "mfu": 0.5}
    assert watch.device_memory() == {"memory_gib": 1.0, "peak_memory_gib": 3.0}
    kinds = {"TPU v5 lite": 197, "TPU v5p": 459, "TPU v5": 459, "NVIDIA A100-SXM4-40GB": 312}
    for kind, peak in kinds.items():
        Device.device_kind = kind
        assert watch.utilization(peak * 1e12, 1.0)["mfu"] == 1.0
