"""benchmarks.steps and benchmarks.scaling: counts of a tiny step, and the arithmetic on them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import scaling, steps
from configs import hardware, realsrt
from maskgit_sr.arrays import Execution
from maskgit_sr.models.functional import count
from maskgit_sr.training import watch


@pytest.fixture
def step(tiny_sizes):
    return lambda stage, **more: steps.abstract(
        realsrt.get_config("base"), stage, Execution(jnp.float32, **more)
    )


def test_counts_are_of_an_example_and_of_all_phases(step):
    tokenizer, generator = step("tokenizer"), step("generator")
    assert tokenizer.stage.trains == ("tokenizer", "discriminator")
    assert set(tokenizer.batch(2)) == {"hr"} and set(generator.batch(2)) == {"hr", "lr"}
    with steps.accelerator():
        compiled = generator.jitted().lower(generator.state, generator.frozen, generator.batch(8))
        found = compiled.cost_analysis()
    flops, moved = generator.cost
    # there are no loops in this step, which XLA would count once
    assert 8 * flops == pytest.approx(found["flops"], rel=0.05)
    assert 0 < 8 * moved < found["bytes accessed"]


def test_remat_keeps_less_and_the_state_is_what_it_was(step):
    plain, again = step("generator"), step("generator", remat=True)
    assert 0 < again.kept_bytes < plain.kept_bytes
    trained = count(plain.state.params)
    assert steps.leaves_bytes(plain.state) == pytest.approx(16 * trained, abs=100)
    assert steps.leaves_bytes(plain.state) == steps.leaves_bytes(again.state)


@pytest.fixture
def step_of(monkeypatch):
    """Steps of base that take so much: FLOPs and bytes of an example, parameters."""

    def put(flops, moved, parameters, kept=1.0):
        params = jax.ShapeDtypeStruct((parameters,), jnp.float32)
        made = types.SimpleNamespace(
            cost=np.array([flops, moved]),
            kept_bytes=kept,
            state=types.SimpleNamespace(params=params),
            frozen={},
        )
        monkeypatch.setattr(scaling, "step", lambda *rest, **more: made)
        sizes = {id(params): 4 * parameters, id(made.state): 16 * parameters, id(made.frozen): 0}
        monkeypatch.setattr(scaling, "leaves_bytes", lambda tree: sizes[id(tree)])

    return put


def test_a_step_takes_as_long_as_its_products_or_its_memory(step_of):
    step_of(989e12 * 0.4 / 64, 0.0, 0)  # an example: 1/64 s of one H100
    assert scaling.seconds("h100x1", "generator") == pytest.approx(1.0)
    assert scaling.seconds("h100x8", "generator") == pytest.approx(1 / 8)
    *stages, total = scaling.hours("h100x8")
    assert stages == pytest.approx([43e3 / 8 / 3600, 1e5 / 3600, 1e5 / 3600, 8e4 / 64 / 3600])
    assert total == pytest.approx(sum(stages))
    step_of(0.0, 3.35e12 / 64, 3_350_000)  # and an optimizer that moves 36 bytes a parameter
    assert scaling.seconds("h100x1", "critic") == pytest.approx(1.0 + 36e-6)
    assert scaling.seconds("h100x1", "critic", fused=True) == 0


def test_room_is_what_state_and_gradients_leave(step_of):
    step_of(0.0, 0.0, 10**9, kept=10e9)  # 20 GB of a card's 80
    assert scaling.fits("generator", 80e9, remat=False) == 5
    assert scaling.fits("generator", 1e9, remat=False) == 0


def test_machines_are_of_known_devices():
    for name, machine in hardware.HARDWARE.items():
        peak, bandwidth, link = scaling.rates(name)
        assert peak == machine.peak * 1e12 and peak > bandwidth > link > 0
    kinds = {kind for kind, _, _ in scaling.DEVICES.values()}
    assert all(watch.of_kind(watch.PEAK_TFLOPS, kind) for kind in kinds)
