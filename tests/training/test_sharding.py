"""training.sharding: the mesh and the table of rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from maskgit_sr.methods.realsrt import RealSRT, RealSRTConfig
from maskgit_sr.models.functional import flatten
from maskgit_sr.training import sharding


def test_mesh_covers_all_devices():
    assert dict(sharding.make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    for shape in ((1, 1, 1), (3, -1, 1), (16, 1, 1)):
        with pytest.raises(ValueError, match="mesh: .* does not cover 8 devices"):
            sharding.make_mesh(*shape)


def test_the_published_networks_are_split():
    mesh = sharding.make_mesh(2, 2, 2)
    shapes = RealSRT(RealSRTConfig()).shapes()
    specs = {k: s.spec for k, s in flatten(sharding.shardings(shapes, mesh)).items()}
    layer = "generator/decoder/3/cross_attention"
    assert (
        specs[f"{layer}/query/kernel"] == specs[f"{layer}/key_value/kernel"] == P("fsdp", "tensor")
    )
    assert specs[f"{layer}/out/kernel"] == P("tensor", "fsdp")
    assert specs["critic/encoder_in/kernel"] == P(None, "fsdp")
    # 2730 and 1365 are the widths inside GEGLU; what a mesh does not divide stays whole
    assert specs["generator/encoder/0/feed_forward/up/kernel"] == P("fsdp", "tensor")
    assert specs["generator/encoder/0/feed_forward/down/kernel"] == P(None, "fsdp")
    assert specs["tokenizer/decoder/conv_in/kernel"] == P(None, None, None, "fsdp")
    assert specs["tokenizer/decoder/conv_out/kernel"] == P(None, None, None, None)
    whole = ["codebook/embedding", f"{layer}/norm/scale", "generator/mask_token"]
    assert all(not any(specs[name]) for name in whole)
    # the bulk of the memory is spread: a device holds little more than a quarter
    sizes = {name: np.prod(shape.shape) for name, shape in flatten(shapes).items()}
    places = flatten(sharding.shardings(shapes, mesh))
    own = {
        name: np.prod(places[name].shard_shape(shape.shape))
        for name, shape in flatten(shapes).items()
    }
    transformer = [name for name in sizes if name.startswith(("generator/", "critic/"))]
    assert sum(own[n] for n in transformer) < 0.33 * sum(sizes[n] for n in transformer)


def test_a_batch_is_split_over_data_and_fsdp():
    mesh = sharding.make_mesh(2, 2, 2)
    batch = sharding.put_batch({"hr": np.arange(8.0).reshape(8, 1)}, mesh)["hr"]
    assert batch.sharding.shard_shape(batch.shape) == (2, 1)
    np.testing.assert_array_equal(batch, jnp.arange(8.0).reshape(8, 1))


def test_scalars_are_replicated():
    place = sharding.shardings({"step": jax.ShapeDtypeStruct((), jnp.int32)}, sharding.make_mesh())
    assert place["step"].spec == P()
