"""benchmarks.scaling: costs of partitioned programs against hand counts, and the predictions."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import flops, scaling, scaling_cases, scaling_hlo, scaling_model, scaling_report
from configs import common
from maskgit_sr.methods.base import LossResult, Phase
from maskgit_sr.training import sharding, state

DEVICES = 8
B, D, E, TURNS = 8, 16, 32, 3


def placed(mesh, shape, spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def costs(function, *arrays):
    lowered = jax.jit(function).lower(*arrays)
    return scaling_cases.compiled(lowered, DEVICES)[0]


def step(w, x):  # named as the trainer's: the program's file is found by it
    return jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w)


def test_a_data_parallel_gradient():
    mesh = sharding.make_mesh()
    found = costs(step, placed(mesh, (D, E), P()), placed(mesh, (B, D), P(("data", "fsdp"))))
    product = 2 * B * D * E / DEVICES
    assert found.flops == {"f32": 2 * product}  # forward, and backward to the weights
    assert found.wire == {"all-reduce": scaling_model.data_parallel_wire(4 * D * E, DEVICES)}
    assert (found.collectives, found.unknown_loops) == (1, 0)
    one = 4 * (B * D / DEVICES + D * E + B * E / DEVICES)
    assert found.bytes == 2 * one


def test_split_weights_are_gathered():
    mesh = sharding.make_mesh(1, DEVICES, 1)

    def step(w, x):
        return x @ w

    found = costs(step, placed(mesh, (D, E), P("fsdp")), placed(mesh, (B, D), P(("data", "fsdp"))))
    assert found.wire == {"all-gather": 4 * D * E * (DEVICES - 1) / DEVICES}
    assert found.total_flops == 2 * B * D * E / DEVICES


def test_loops_and_branches():
    mesh = sharding.make_mesh()

    def step(w, x):
        x = lax.fori_loop(0, TURNS, lambda _, x: x @ w, x)
        return lax.cond(x.sum() > 0, lambda: x @ w, lambda: x)

    arrays = placed(mesh, (D, D), P()), placed(mesh, (B, D), P(("data", "fsdp")))
    found = costs(step, *arrays)
    assert found.unknown_loops == 0
    assert found.total_flops == (TURNS + 1) * 2 * B * D * D / DEVICES


def test_precisions_are_told_apart():
    mesh = sharding.make_mesh()

    def step(w, x):
        return jnp.matmul(x, w, precision="highest"), x.astype(jnp.bfloat16) @ w.astype(
            jnp.bfloat16
        )

    found = costs(step, placed(mesh, (D, E), P()), placed(mesh, (B, D), P(("data", "fsdp"))))
    assert found.flops == dict.fromkeys(("f32_highest", "bf16"), 2 * B * D * E / DEVICES)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1},{2,3}}, x", 2),
        ("replica_groups=[2,4]<=[8], x", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b':(2)2}, x", 4),
        ("replica_groups={}, x", 8),
        ("source_target_pairs={{0,1}}", 8),
    ],
)
def test_group_sizes(groups, size):
    assert scaling_hlo.group_size(groups, 8) == size


def test_attention_scores_are_told_apart():
    n = scaling_hlo.SEQUENCE
    mesh = sharding.make_mesh()

    def step(q, k):
        return jnp.einsum("bnhd,bmhd->bhnm", q, k)

    spec = P(("data", "fsdp"))
    arrays = [placed(mesh, (DEVICES, n + null, 2, 8), spec) for null in (0, 1)]
    found = costs(step, *arrays)
    assert found.scores == 4 * 2 * n * (n + 1)
    assert found.bytes == found.scores + 4 * 2 * 8 * (n + n + 1)


def test_ring_bytes():
    assert scaling_hlo.wire_bytes("all-reduce", 100, 4) == 150
    assert scaling_hlo.wire_bytes("all-gather", 100, 4) == 75
    assert scaling_hlo.wire_bytes("reduce-scatter", 25, 4) == 75
    assert scaling_hlo.wire_bytes("all-to-all", 100, 4) == 75
    assert scaling_hlo.wire_bytes("collective-permute", 100, 4) == 100
    assert scaling_hlo.wire_bytes("all-reduce", 100, 1) == 0


@pytest.fixture(scope="module")
def made(method):
    """The generator alone, on pixels for code vectors: a stage that compiles in a few seconds."""

    def loss(params, stats, batch, key, step):
        vectors = batch["hr"].reshape(-1, 64, 192)[..., :16]
        logits = method.generator.apply(
            params["generator"], lambda m: m.decode(vectors, None, m.encode(vectors))
        )
        return jnp.mean(logits**2), LossResult({}, stats, {})

    stage = dataclasses.replace(
        method.stages["generator"], phases=(Phase("generator", loss),), needs=("generator",)
    )
    alone = types.SimpleNamespace(
        stages={"generator": stage}, shapes=method.shapes, init=method.init, scale=method.scale
    )
    config = common.stage(100, 4, common.optimizer(1e-3), crop=64)
    return scaling_cases.plan(alone, "generator", ml_collections.ConfigDict(dict(stage=config)))


def test_a_stage_on_a_mesh(made):
    """Each device does an eighth of the jaxpr's work and sends what the formula says."""
    found, executable = scaling_cases.compiled(
        scaling_cases.lower(made, sharding.make_mesh(), 8), DEVICES
    )
    traced = jax.make_jaxpr(state.make_step(made.stage, made.chosen, made.ema))
    with scaling_cases.accelerator():
        whole = flops.count(traced(made.state, made.frozen, made.batch(8)).jaxpr)
    assert found.total_flops == pytest.approx(whole / DEVICES, rel=1e-6)
    images = 4 * 1 * 3 * 64**2  # what the step does not use, such as "lr", is no argument
    arguments = executable.memory_analysis().argument_size_in_bytes
    held = scaling_cases.leaves_bytes(made.state) + images
    assert arguments == pytest.approx(held, rel=0.01)
    gradients = 4 * sum(leaf.size for leaf in jax.tree.leaves(made.state.params))
    formula = scaling_model.data_parallel_wire(gradients, DEVICES)
    assert found.wire["all-reduce"] == pytest.approx(formula, rel=0.02)


def test_gathered_parameters_leave_the_work_split_by_examples(made):
    def loss(params, stats, batch, key, step):
        vectors = batch["hr"].reshape(-1, 64, 192)[..., :16]
        y = vectors @ params["generator"]["decoder_in"]["kernel"]
        return jnp.mean(y**2), LossResult({}, stats, {})

    small = dataclasses.replace(made.stage, phases=(Phase("generator", loss),))
    mesh = sharding.make_mesh(1, DEVICES, 1)
    plan = dataclasses.replace(made, stage=small)
    found = scaling_cases.compiled(scaling_cases.lower(plan, mesh, 8, gather=True), DEVICES)[0]
    kernel = made.state.params["generator"]["decoder_in"]["kernel"]
    product = 2 * 8 * 64 * kernel.size
    assert found.total_flops == 2 * product / DEVICES  # forward, and to the weights
    assert found.wire["all-gather"] >= 4 * kernel.size * (DEVICES - 1) / DEVICES


def test_kept_activations(made):
    kept = scaling_cases.activation_bytes(made)["generator"]
    tokens, width = 64, 32
    assert kept > 10 * 4 * tokens * width  # at least a few arrays a layer
    assert kept % 4 == 0


def test_state_is_split_by_the_trainers_rules(made):
    mesh = sharding.make_mesh(1, DEVICES, 1)
    whole = scaling_cases.leaves_bytes(made.state)
    split = scaling_cases.leaves_bytes(made.state, sharding.shardings(made.state, mesh))
    assert whole / DEVICES < split < whole / 2


DEVICE = scaling_model.Device("toy", 1e12, 1e9, 1e9, 1e9, 2.0, {"f32": 2.0}, "")
ASSUMED = scaling_model.Assumptions(mfu=0.5, overlap=0.5)


def cost(flops=0.0, kind="bf16", moved=0.0, sent=0.0):
    return {
        "flops": {kind: flops},
        "bytes": moved,
        "scores": moved / 2,
        "wire": {"all-reduce": sent},
    }


def test_a_step_takes_as_long_as_its_longest_part():
    products = scaling_model.predict(cost(flops=1e12, moved=1e9), 0, DEVICE, ASSUMED)
    assert (products.step, products.bound) == (2.0, "products")
    slower = scaling_model.predict(cost(flops=1e12, kind="f32"), 0, DEVICE, ASSUMED)
    assert slower.step == 4.0
    moved = scaling_model.predict(cost(flops=1e12, moved=2e9), 1e9, DEVICE, ASSUMED)
    assert (moved.step, moved.bound) == (3.0, "memory")
    sent = scaling_model.predict(cost(flops=1e12, sent=2e9), 0, DEVICE, ASSUMED)
    assert sent.step == 2.0 + 1.0
    # what is hidden takes no longer than what hides it
    links = scaling_model.predict(cost(flops=5e11, sent=9e9), 0, DEVICE, ASSUMED)
    assert (links.step, links.bound) == (1.0 + 8.0, "links")


def test_efficiency_and_hours_count_examples():
    case = dict(stage="generator", batch=128, data=64)
    assert scaling_model.efficiency(case, step=2.0, alone=2.0) == 0.5
    assert scaling_model.hours(case, steps=3600, batch=64, step=2.0) == 1.0


def record(batch):
    return {
        "cost": cost(flops=1e10 * batch, moved=1e6 * batch) | {"collectives": 0},
        "parameters": 100, "gradient_wire_bytes": 200, "frozen_wire_bytes": 40,
        "state_bytes": 1600, "frozen_bytes": 80, "gradient_bytes": 400,
        "update_bytes": 3600, "activation_bytes": {"generator": 1e6},
    }  # fmt: skip


def test_what_was_not_compiled_follows_the_formula():
    many = scaling_model.analytic(dict(stage="generator", data=4, batch=8), record(8), 8)
    assert many["cost"]["flops"] == {"bf16": 2e10}
    assert many["cost"]["wire"] == {"all-reduce": 300.0}
    assert many["state_bytes"] == 1600
    split = scaling_model.analytic(dict(stage="generator", fsdp=4, batch=8), record(8), 8)
    assert split["state_bytes"] == 400
    assert sum(split["cost"]["wire"].values()) == 3 * 150 + 30
    # over two groups of four, a quarter of each gradient is left to be summed
    assert scaling_model.split_wire(200, 0, data=2, fsdp=4) == 3 * 150 + 50
    assert scaling_model.analytic(dict(stage="generator", tensor=2, batch=8), record(8), 8) is None


def test_room_in_memory():
    device = scaling_model.DEVICES["v5e"]
    held = record(1)
    free = 0.9 * 16e9 - 2080
    assert scaling_model.largest_batch(held, {"a": 1e9, "b": 2e9}, device) == int(free / 2e9)
    case = dict(stage="generator", data=2, batch=8)
    assert scaling_model.needed_bytes(case, held, {"a": 1e9, "b": 2e9}) == 2080 + 4 * 2e9


def test_cases_cover_the_published_batches():
    found = scaling.cases("base", ["tokenizer", "generator", "critic", "control"], [1, 8, 64, 256])
    shapes = {(c["stage"], scaling_model.devices_of(c), c["batch"]) for c in found}
    assert {("tokenizer", 1, 64), ("generator", 8, 64), ("control", 8, 8)} <= shapes
    for case in found:
        assert case["batch"] % (case.get("data", 1) * case.get("fsdp", 1)) == 0
    assert len({scaling_model.key(case) for case in found}) == len(found)


def test_the_report_marks_what_is_analytic():
    wanted = scaling.cases("base", ["generator"], [1, 8])
    single = record(64) | dict.fromkeys(
        ("cpu_flops", "cpu_bytes", "cpu_argument_bytes", "cpu_temp_bytes", "compile_seconds"), 1.0
    )
    records = {scaling_model.key(wanted[0]): single | {"outputs_moved": 0}}
    text = scaling_report.report(wanted, records, "base", scaling_model.Assumptions())
    assert "| generator | data 8 | 64 | 0.08 |" in text
    assert "analytic" in text
    assert "tensor 4" not in text.split("Not compiled")[0]
