"""Every config builds its training state without any array.

tests/drills/aot.py compiles the steps of base and compares their hours with the page; that takes
minutes.
"""

import jax
import pytest

from benchmarks import scaling
from benchmarks.steps import leaves_bytes
from configs import hardware, realsrt
from maskgit_sr.models.functional import count
from maskgit_sr.training import optimizers, sharding
from maskgit_sr.training.state import create
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


def shapes(tree):
    """Structure, shapes and dtypes."""
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)


TRAINED = {  # parameters, discriminators included
    "base": (22_756_292, 80_305_828, 63_247_696, 22_879_041),
    "nano": (1_363_760, 807_039, 477_994, 2_020_080),
}


@pytest.mark.parametrize("stage", realsrt.STAGES)
@pytest.mark.parametrize("size", realsrt.SIZES)
def test_the_state_of_every_size_and_stage(size, stage):
    """Parameters, two moments and the moving average of what is exported, in float32."""
    made = scaling.step(stage, size=size)
    state, wired = made.state, made.stage
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))
    assert set(state.params) == set(wired.trains) and set(state.stats) == set(wired.fresh_stats)
    exported = {path for path in state.params if path.partition("/")[0] in wired.exports}
    assert shapes(state.ema) == {path: shapes(state.params[path]) for path in exported}
    trained, averaged, kept = (count(tree) for tree in (state.params, state.ema, state.stats))
    assert trained == TRAINED[size][realsrt.STAGES.index(stage)]
    # what is left are counters: steps, those of the optimizers, and a key
    left = leaves_bytes(state) - 4 * (3 * trained + averaged + kept)
    assert 0 < left < 50


@pytest.mark.parametrize("machine", hardware.HARDWARE)
@pytest.mark.parametrize("stage", realsrt.STAGES)
@pytest.mark.parametrize("size", realsrt.SIZES)
def test_the_state_is_the_same_on_every_machine(size, stage, machine):
    """So that checkpoints move between them; and its mesh divides the batch and its parts."""
    config = realsrt.get_config(f"{size},hardware={machine}")
    settings, alone = config.stages[stage], scaling.step(stage, size=size)
    assert config.model == realsrt.get_config(size).model
    chosen = optimizers.for_groups(settings, alone.stage.trains)
    state = jax.eval_shape(
        lambda params, stats: create(alone.stage, params, stats, chosen, config.seed),
        alone.state.params,
        alone.state.stats,
    )
    assert shapes(state) == shapes(alone.state)
    mesh = jax.sharding.AbstractMesh(tuple(config.mesh.values()), tuple(config.mesh))
    part = (settings.batch // settings.accumulate, settings.crop)
    split = jax.sharding.NamedSharding(mesh, sharding.BATCH).shard_shape(part)
    assert split == (part[0] // hardware.HARDWARE[machine].devices, settings.crop)
    # no axis of these meshes splits a parameter
    layout = sharding.shardings(state, mesh)
    assert leaves_bytes(state, layout) == leaves_bytes(state)
