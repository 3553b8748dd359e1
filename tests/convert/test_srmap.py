"""convert.srmap: every entry is used once, by its value; what does not fit is named."""

import numpy as np
import pytest

from maskgit_sr.convert.srmap import constants, map_state
from maskgit_sr.errors import UserError
from maskgit_sr.models.functional import flatten
from tests.models import srmap_oracle as public
from tests.models.srmap_oracle import TINY


@pytest.fixture(scope="module")
def state():
    return public.state(public.golden()["generator/entries"]) | constants(TINY)


def test_every_value_arrives_once(state):
    """The moving average has a prefix, as its wrapper saves it."""
    params = map_state({f"model.{name}": array for name, array in state.items()}, TINY)
    trained = [array for name, array in state.items() if name not in constants(TINY)]
    found = np.concatenate([np.ravel(leaf) for leaf in flatten(params).values()])
    expected = np.concatenate([np.ravel(array) for array in trained])
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))
    scale = state["Main.Stages.0.MainBlocks.1.NoiseLayer2.Scale"]
    np.testing.assert_array_equal(params["noise"]["stages"]["0"][1, 2:], scale)


def test_the_l1_net_has_no_noise(state):
    silent = {name: array for name, array in state.items() if not name.endswith(".Scale")}
    params = map_state(silent, TINY)
    assert not any(np.any(leaf) for leaf in flatten(params["noise"]).values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Main.Other": np.zeros(3, np.float32)}, "Main.Other"),
        ({"Main.ToRGB.0.weight": np.zeros((3, 3, 1, 1), np.float32)}, "Main.ToRGB.0.weight"),
        ({"Main.FeatureNoiseLayer.Scale": None}, "Main.FeatureNoiseLayer.Scale"),
        ({"add_mean.bias": np.zeros(3, np.float32)}, "add_mean.bias: expected a fixed value"),
    ],
)
def test_what_does_not_fit(state, change, message):
    changed = {name: array for name, array in (state | change).items() if array is not None}
    with pytest.raises(UserError, match=message):
        map_state(changed, TINY, "file")
