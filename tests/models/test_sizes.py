"""Full-size networks by shape alone: published parameter counts and the restored tile."""

import jax
import jax.numpy as jnp
import pytest

from configs import realsrt as config
from maskgit_sr.methods import registry
from maskgit_sr.models.functional import count


def build(size):
    found = config.get_config(size)
    return registry.build(found.method, found.model.to_dict())


def test_published_counts():
    shapes = build("base").shapes()
    assert {group: count(tree) for group, tree in shapes.items()} == {
        "tokenizer": 19_990_659,
        "codebook": 512 * 256,
        "generator": 80_305_828,
        "critic": 63_247_696,
        "control": 20_113_408,
    }


def test_the_small_one_is_small():
    assert count(build("nano").shapes()) <= 4e6


@pytest.mark.parametrize("size", config.SIZES)
def test_restore_at_full_size(size):
    method = build(size)
    options = method.options(confidence=True)
    tiles = jax.ShapeDtypeStruct((3, 64, 64, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    found = jax.eval_shape(
        lambda *args: method.restore(*args, options), method.shapes(), tiles, keys
    )
    assert found.image.shape == (3, 256, 256, 3) and found.image.dtype == jnp.float32
    assert found.confidence.shape == (3, 32, 32) and found.tokens.shape == (3, 32, 32)
    assert method.tile.sides == (64,) and method.factor == 8
