"""models.functional: modules as (parameters, apply)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from maskgit_sr.models.functional import Network, count, flatten, unflatten
from maskgit_sr.models.layers import ResidualBlock

BRANCHES = st.recursive(
    st.integers(), lambda leaf: st.dictionaries(st.sampled_from("xy12"), leaf, min_size=1)
)
TREES = st.dictionaries(st.sampled_from("abcd"), BRANCHES)


@given(TREES)
def test_flatten_there_and_back(tree):
    flat = flatten(tree)
    assert list(flat) == sorted(flat, key=lambda path: path.split("/"))
    assert unflatten(flat) == tree


@pytest.fixture(scope="module")
def network():
    return Network(lambda rngs: ResidualBlock(32, 64, dtype=jnp.float32, rngs=rngs))


def test_init_has_the_announced_shapes_and_is_a_function_of_the_key(network):
    init = jax.jit(network.init)
    params = init(jax.random.key(0))
    found, announced = (
        jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (params, network.shapes)
    )
    assert found == announced
    assert count(params) == count(network.shapes) == sum(x.size for x in jax.tree.leaves(params))
    assert all(isinstance(name, str) for name in flatten(params))
    again, other = init(jax.random.key(0)), init(jax.random.key(1))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, again))
    assert (params["conv1"]["kernel"] != other["conv1"]["kernel"]).any()


def test_apply_is_the_module(network):
    params = network.init(jax.random.key(0))
    params["shortcut"]["bias"] = params["shortcut"]["bias"] + 3.0
    module = ResidualBlock(32, 64, dtype=jnp.float32, rngs=nnx.Rngs(jax.random.key(0)))
    module.shortcut.bias[...] = module.shortcut.bias[...] + 3.0
    x = jax.random.normal(jax.random.key(2), (1, 4, 4, 32))
    np.testing.assert_array_equal(network.apply(params, lambda m: m(x)), module(x))


def test_a_missing_parameter_is_named(network):
    params = network.init(jax.random.key(0))
    del params["norm2"]["scale"]
    with pytest.raises(KeyError, match="scale"):
        network.bind(params)
