"""Every config builds its training state, and a step of base compiles, without any array.

tests/drills/aot.py compiles the steps of all stages of base; that takes minutes.
"""

import functools

import jax
import pytest

from benchmarks import scaling_cases
from configs import hardware, realsrt
from maskgit_sr.models.functional import count
from maskgit_sr.training import optimizers, sharding
from maskgit_sr.training.state import create
from tests.configs import ahead
from tests.perceptual import perceptual_nets


@pytest.fixture(autouse=True)
def nothing_allocated():
    """No array is left behind, on no device."""
    before = {id(array) for array in jax.live_arrays()}
    yield
    assert {id(array) for array in jax.live_arrays()} <= before


@pytest.fixture(scope="module", autouse=True)
def perceptual(tmp_path_factory):
    """Perceptual nets of the right shapes, whether or not the published ones are there."""
    folder = tmp_path_factory.mktemp("assets")
    perceptual_nets.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKGIT_SR_ASSETS", str(folder))
        yield


@functools.cache
def plan(size, stage):
    config = realsrt.get_config(f"{size},stage={stage}")
    return scaling_cases.plan(ahead.method(config), stage, config)


def shapes(tree):
    """Structure, shapes and dtypes."""
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)


TRAINED = {  # parameters, discriminators included
    "base": (22_756_292, 80_305_828, 63_247_696, 22_879_041),
    "small": (4_129_393, 807_039, 477_994, 7_663_793),
    "nano": (1_363_760, 807_039, 477_994, 2_020_080),
}


@pytest.mark.parametrize("stage", realsrt.STAGES)
@pytest.mark.parametrize("size", realsrt.SIZES)
def test_the_state_of_every_size_and_stage(size, stage):
    """Parameters, two moments and the moving average of what is exported, in float32."""
    made = plan(size, stage)
    state, wired = made.state, made.method.stages[stage]
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))
    assert set(state.params) == set(wired.trains) and set(state.stats) == set(wired.fresh_stats)
    assert shapes(state.ema) == {
        group: tree for group, tree in shapes(state.params).items() if group in wired.exports
    }
    trained, averaged, kept = (count(tree) for tree in (state.params, state.ema, state.stats))
    assert trained == TRAINED[size][realsrt.STAGES.index(stage)]
    # what is left are counters: steps, those of the optimizers, and a key
    left = scaling_cases.leaves_bytes(state) - 4 * (3 * trained + averaged + kept)
    assert 0 < left < 50


@pytest.mark.parametrize("machine", hardware.HARDWARE)
@pytest.mark.parametrize("stage", realsrt.STAGES)
@pytest.mark.parametrize("size", realsrt.SIZES)
def test_the_state_is_the_same_on_every_machine(size, stage, machine):
    """So that checkpoints move between them; and its mesh divides the batch and its parts."""
    config = realsrt.get_config(f"{size},stage={stage},hardware={machine}")
    method = ahead.method(config)
    wired, alone = method.stages[stage], plan(size, stage).state
    assert shapes(method.shapes()) == shapes(plan(size, stage).method.shapes())
    chosen = {g: optimizers.build(config.stage.optimizer, config.stage.steps) for g in wired.trains}
    state = jax.eval_shape(
        lambda params, stats: create(wired, params, stats, chosen, config.seed),
        alone.params,
        alone.stats,
    )
    assert shapes(state) == shapes(alone)
    mesh = jax.sharding.AbstractMesh(tuple(config.mesh.values()), tuple(config.mesh))
    part = (config.stage.batch // config.stage.accumulate, config.stage.crop)
    split = jax.sharding.NamedSharding(mesh, sharding.BATCH).shard_shape(part)
    assert split == (part[0] // hardware.HARDWARE[machine].devices, config.stage.crop)
    # no axis of these meshes splits a parameter
    layout = sharding.shardings(state, mesh)
    assert scaling_cases.leaves_bytes(state, layout) == scaling_cases.leaves_bytes(state)


def test_the_published_step_compiles():
    """The tokenizer's, with its GAN; a device's arguments to the byte."""
    report = ahead.compiled(realsrt.get_config("stage=tokenizer,hardware=h100x8"), (4, 2, 1))
    assert not report.faults()
    assert report.unread == ["2/lr"]
    whole = scaling_cases.leaves_bytes(plan("base", "tokenizer").state)
    assert whole / 2 < report.state < 0.51 * whole
