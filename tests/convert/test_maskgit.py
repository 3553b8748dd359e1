"""Names, shapes and refusals of the conversion from MaskGIT's msgpack files."""

import dataclasses
import pickle
from typing import Any

import jax
import numpy as np
import pytest
from flax import serialization

from maskgit_sr import bundles
from maskgit_sr.convert import maskgit as conversion
from maskgit_sr.errors import UserError
from maskgit_sr.methods import registry
from maskgit_sr.models.functional import flatten
from tests.models.maskgit_oracle import TINY, golden

CONFIGS = (TINY.tokenizer, TINY.transformer)
METHOD = "sr_maskgit_correction"


@pytest.fixture(scope="module")
def states():
    return golden()[1]


@pytest.fixture
def files(tmp_path, states):
    """Both files as the public code writes them."""
    paths = []
    for name, state, config in zip(("tokenizer", "transformer"), states, CONFIGS, strict=True):
        paths.append(tmp_path / f"{name}.msgpack")
        official = conversion.to_official(conversion.from_official(state, config), config)
        paths[-1].write_bytes(serialization.to_bytes(official))
    return paths


def run(files, target, **options):
    return conversion.convert(*files, target, method=METHOD, sizes=TINY, **options)


@pytest.mark.parametrize("part", [0, 1])
def test_public_tree_is_covered_name_by_name(part):
    """Of the tiny network and of the published one, as Linen lists them."""
    stored, _ = golden()
    published = conversion.Sizes()
    for key, config in (
        ("entries", CONFIGS[part]),
        ("published_entries", (published.tokenizer, published.transformer)[part]),
    ):
        table = conversion.entries(config)
        assert len({entry.name for entry in table.values()}) == len(table)
        expected = {name: tuple(shape) for name, shape in stored[key][part]}
        assert {entry.name: entry.shape for entry in table.values()} == expected


def test_layouts(states):
    tokenizer, transformer = map(conversion.from_official, states, CONFIGS)
    vqgan, bert = states
    attention = "TransformerLayer_1/Attention_0/self_attention"
    for ours, theirs in (
        (tokenizer["encoder"]["blocks"]["2"]["shortcut"], "encoder/ResBlock_2/Conv_2"),
        (tokenizer["encoder"]["conv_out"], "encoder/Conv_1"),
        (tokenizer["decoder"]["ups"]["1"]["conv"], "decoder/Conv_2"),
        (tokenizer["decoder"]["conv_out"], "decoder/Conv_3"),
    ):
        np.testing.assert_array_equal(ours["kernel"], vqgan[f"{theirs}/kernel"])
    layer = transformer["layers"]["1"]["attention"]
    kernel = bert[f"{attention}/key/kernel"]  # [32, 2, 16]
    assert layer["key"]["kernel"][5, 16 + 3] == kernel[5, 1, 3]
    assert layer["out"]["kernel"][16 + 3, 7] == bert[f"{attention}/out/kernel"][1, 3, 7]
    np.testing.assert_array_equal(transformer["head"]["bias"], bert["MlmLayer_0/mlm_bias/bias"])


def test_round_trip_through_files_is_exact(tmp_path, files, states):
    """Our parameters → official tree → msgpack → bundle → ours, bit for bit."""
    target = tmp_path / "maskgit.safetensors"
    summary = run(files, target)
    params, metadata = bundles.read(
        target, registry.build(METHOD, dataclasses.asdict(TINY) | {"overlap": 2}).shapes()
    )
    for group, state, config in zip(params, states, CONFIGS, strict=True):
        ours = flatten(conversion.from_official(state, config))
        assert flatten(params[group]).keys() == ours.keys()
        for name, array in flatten(params[group]).items():
            np.testing.assert_array_equal(array, ours[name], err_msg=name)
            np.testing.assert_array_equal(
                array.reshape(-1), state[conversion.entries(config)[name].name].reshape(-1)
            )
    assert params["tokenizer"].keys() == {"encoder", "decoder", "codebook"}
    assert summary["parameters"] == sum(a.size for s in states for a in s.values())
    assert (metadata.method, metadata.scale) == (METHOD, 2)
    assert metadata.licence == "Apache-2.0"
    assert metadata.training["transformer"]["file"] == "transformer.msgpack"
    built = registry.build(metadata.method, metadata.config)
    assert (built.config.tokenizer, built.config.transformer) == CONFIGS
    # What the public correction does: windows of one grid, and no class in front.
    assert not built.config.class_token and built.tile.sides == (8,)


def test_target_is_kept(tmp_path, files):
    target = tmp_path / "maskgit.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(UserError, match="maskgit.safetensors: exists already"):
        run(files, target)
    assert target.read_bytes() == b"precious"
    run(files, target, overwrite=True)
    assert bundles.read_metadata(target).method == METHOD


GOOD = serialization.to_bytes({"params": {"a": np.ones((3, 4), np.float32)}})


class Bomb:
    """Ends the process where it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"params": Bomb()}), "not a whole msgpack file of Flax"),
        (pickle.dumps({"params": Bomb()}, 0), "not a whole msgpack file of Flax"),
        (b"", "not a whole msgpack file of Flax"),
        (b"not a checkpoint", "not a whole msgpack file of Flax"),
        (b"PK\x03\x04" + bytes(40), "not a whole msgpack file of Flax"),
        (GOOD[:-1], "not a whole msgpack file of Flax"),
        (GOOD[:20], "not a whole msgpack file of Flax"),
        (GOOD.replace(b"float32", b"floa(32"), "not a whole msgpack file of Flax"),
        (b"\x91" * 5000, "not a whole msgpack file of Flax"),
        (serialization.to_bytes({"target": {"a": np.ones(2)}}), "params alone, found target"),
        (serialization.to_bytes({"params": {}, "step": 3}), "params alone, found params, step"),
        (serialization.to_bytes([np.ones(2)]), "params alone, found 0"),
        (serialization.msgpack_serialize(7), "params alone, found int"),
        (serialization.to_bytes({"params": {"a": {"b": 3}}}), "found others: a/b"),
        (serialization.to_bytes({"params": {"a": np.ones(2, int)}}), "found others: a"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, files, content, message):
    files[0].write_bytes(content)
    target = tmp_path / "maskgit.safetensors"
    with pytest.raises(UserError, match=f"tokenizer.msgpack: .*{message}") as caught:
        run(files, target)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_absent_file(tmp_path, files):
    files[1].unlink()
    with pytest.raises(UserError, match="transformer.msgpack: no such file"):
        run(files, tmp_path / "maskgit.safetensors")


def test_missing_unknown_and_misshaped_entries_are_named(states):
    def refused(part, message, without=(), **changes):
        changed = {n: a for n, a in states[part].items() if n not in without} | changes
        with pytest.raises(UserError, match=message):
            conversion.from_official(changed, CONFIGS[part], "file")

    name = "decoder/ResBlock_3/Conv_1/kernel"
    refused(0, f"file: .*missing: {name}", without=(name,))
    refused(0, "unknown: extra/kernel", **{"extra/kernel": np.ones(1, np.float32)})
    refused(
        0,
        r"mis-shaped: quantizer/codebook \(expected \(24, 16\), found \(25, 16\)\)",
        **{"quantizer/codebook": np.ones((25, 16), np.float32)},
    )
    refused(1, "missing: MlmLayer_0/mlm_bias/bias", without=("MlmLayer_0/mlm_bias/bias",))
    table = "Embed_0/position_embeddings/embedding"
    refused(1, f"missing: {table}", without=(table,))
    refused(1, f"mis-shaped: {table}", **{table: np.ones((), np.float32)})
    # The two files in the wrong order.
    with pytest.raises(UserError, match="missing: .*unknown: "):
        conversion.from_official(states[1], CONFIGS[0], "file")


@pytest.mark.parametrize(("found", "grid"), [(257, 32), (1025, 16)])
def test_transformer_of_another_grid_is_refused(found, grid):
    sizes = conversion.published(grid)
    shapes = {e.name: e.shape for e in conversion.entries(sizes.transformer).values()}
    # Only the table of positions differs; the others are views of one number.
    shapes["Embed_0/position_embeddings/embedding"] = (found, 768)
    state = {n: np.broadcast_to(np.float32(0), shape) for n, shape in shapes.items()}
    message = (
        rf"file: expected a transformer of a {grid}x{grid} grid, {grid**2 + 1} positions,"
        rf" found one of a {48 - grid}x{48 - grid} grid, {found} positions$"
    )
    with pytest.raises(UserError, match=message):
        conversion.from_official(state, sizes.transformer, "file")


@pytest.mark.parametrize(("grid", "side"), [(32, 256), (16, 128)])
@pytest.mark.parametrize("name", [METHOD, "sr_maskgit_inpainting"])
def test_windows_follow_from_the_published_grid(grid, side, name):
    method = conversion._build(name, conversion.published(grid))
    assert method.tile.sides == (side,) and method.tile.overlap == side // 4
    assert method.exact == {"tokenizer"} and not method.describe()["class_token"]


def test_method_without_these_networks_is_refused(tmp_path, files):
    target = tmp_path / "maskgit.safetensors"
    for name, message in (
        ("sr_other", "convert: method: expected one of .*, found 'sr_other'"),
        ("subpixel", "convert: model: unknown field 'tokenizer'"),
    ):
        with pytest.raises(UserError, match=message):
            conversion.convert(*files, target, method=name, sizes=TINY)
    with pytest.raises(UserError, match="grid: expected 1 to 128, found 0"):
        conversion.published(0)
    assert not target.exists()


def test_half_precision_files_are_widened(tmp_path, states):
    half = {name: array.astype(np.float16) for name, array in states[0].items()}
    path = tmp_path / "half.msgpack"
    tree: dict[str, Any] = {"params": half}
    path.write_bytes(serialization.to_bytes(tree))
    found = conversion.read_state(path)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    name = "quantizer/codebook"
    np.testing.assert_array_equal(found[name], half[name].astype(np.float32))
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, states[0])
