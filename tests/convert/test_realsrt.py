"""Names, layouts and refusals of the checkpoint conversion, on a network of tiny sizes."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest

from maskgit_sr import bundles
from maskgit_sr.convert import realsrt as conversion
from maskgit_sr.errors import UserError
from maskgit_sr.methods.base import TileSpec, from_mapping
from maskgit_sr.methods.realsrt import RealSRT, RealSRTConfig
from maskgit_sr.models.functional import flatten
from maskgit_sr.models.transformer import TransformerConfig
from maskgit_sr.models.vqgan import VQGANConfig

REFERENCE = Path(__file__).parents[1] / "methods" / "realsrt_reference.npz"
CODEBOOK = "vae.quantizer.codebooks.0.weight"


def tiny_config():
    width = dict(dim=32, heads=2, head_dim=16, encoder_depth=1, code_width=32, grid=(8, 8))
    return RealSRTConfig(
        tokenizer=VQGANConfig(channels=(32, 64), code_width=32, codes=24),
        generator=TransformerConfig(outputs=24, decoder_depth=2, **width),
        critic=TransformerConfig(outputs=1, masked=False, decoder_depth=1, **width),
        tile=TileSpec(sides=(4,), overlap=2),
    )


def listing(which):
    """Name and shape of every entry of the PyTorch network's state, as PyTorch lists them."""
    with np.load(REFERENCE) as file:
        return {name: tuple(shape) for name, shape in json.loads(file[which].tobytes())}


@pytest.fixture
def state():
    random = np.random.RandomState(0)
    arrays = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in listing("entries").items()
    }
    for group in ("generator", "critic"):
        arrays[f"{group}.token_emb.weight"][:-1] = arrays[CODEBOOK][:-1]
    return arrays | conversion.constants(tiny_config())


def test_published_network_is_covered_name_by_name():
    published = listing("published_entries")
    expected = conversion.expected_shapes(RealSRTConfig())
    training_only = {name for name in published if name.endswith("_ema")}
    assert {n: s for n, s in published.items() if n not in training_only} == expected
    assert training_only == set(conversion._TRAINING_ONLY)
    names = [entry.name for entry in conversion.entries(RealSRTConfig()).values()]
    assert len(names) == len(set(names))


def test_layouts(state):
    params = conversion.map_state(state, tiny_config())
    tokenizer, generator = params["tokenizer"], params["generator"]
    kernel = state["vae.encoder.model.4.block.2.weight"]  # [64, 32, 3, 3]
    found = tokenizer["encoder"]["layers"]["3"]["conv1"]["kernel"]
    assert found.shape == (3, 3, 32, 64)
    assert found[0, 2, 5, 7] == kernel[7, 5, 0, 2]
    kernel = state["generator.dec_blocks.1.1.to_kv.weight"]
    first, second = (generator["decoder"][i] for i in "01")
    for ours, theirs in (
        (second["cross_attention"]["key_value"]["kernel"], kernel.T),
        (first["attention"]["null"], state["generator.dec_blocks.0.0.null_kv"][:, :, 0]),
        (generator["mask_token"], state["generator.mask_token"][0, 0]),
        (params["codebook"]["embedding"], state[CODEBOOK][:-1]),
        (params["control"]["attention"]["out"]["bias"], state["fuse_attn.proj_out.bias"]),
        (tokenizer["decoder"]["norm_out"]["scale"], state["vae.decoder.model.8.gn.weight"]),
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert all(leaf.dtype == np.float32 for leaf in flatten(params).values())


def test_every_parameter_is_filled_with_its_own_array(state):
    params = flatten(conversion.map_state(state, tiny_config()))
    expected = flatten(RealSRT(tiny_config()).shapes())
    shapes = [{name: leaf.shape for name, leaf in tree.items()} for tree in (params, expected)]
    assert shapes[0] == shapes[1]
    total = sum(array.size for array in params.values())
    kept = {e.name for e in conversion.entries(tiny_config()).values()}
    assert total == sum(state[name].size for name in kept) - 32  # the codebook's padding row


def alter(state, name, index=None, value=0.0):
    """Adds to one number of an array; without an index the array is missing."""
    array = state.pop(name)
    if index is not None:
        state[name] = array.copy()
        state[name].flat[index] += value


def test_what_may_differ(state):
    for name in conversion._TRAINING_ONLY:
        alter(state, name)
    alter(state, "critic.token_emb.weight", -1, 100.0)  # the padding row
    # the rounding of a moving average
    state["generator.pos_emb"] = state["generator.pos_emb"] * np.float32(1 + 1.3e-5)
    conversion.map_state(state, tiny_config())


ABSENT = ("zero_out.bias", "generator.pos_emb", "critic.enc_norm.beta", "critic.token_emb.weight")
FIXED = ("generator.pos_emb", "critic.dec_blocks.0.2.3.beta")


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        *((name, None, 0, "missing: ") for name in ABSENT),
        *((name, 7, value, "found others: ") for name in FIXED for value in (0.01, np.nan)),
        ("critic.token_emb.weight", 100, 0.1, ""),  # no copy of the codebook
    ],
)
def test_what_is_refused_is_named(state, name, index, value, message):
    alter(state, name, index, value)
    with pytest.raises(UserError, match=f"file.pth: .*{message}{name}"):
        conversion.map_state(state, tiny_config(), "file.pth")


def test_misshaped_entry_is_named_with_both_shapes(state):
    state["generator.to_logits.weight"] = np.zeros((25, 32), np.float32)
    message = r"mis-shaped: generator.to_logits.weight \(expected \(24, 32\), found \(25, 32\)\)"
    with pytest.raises(UserError, match=message):
        conversion.map_state(state, tiny_config())


def test_unknown_entries_are_named_and_counted(state):
    extra = {f"extra.{index}": np.zeros(1, np.float32) for index in range(5)}
    with pytest.raises(UserError, match="unknown: extra.0, extra.1, extra.2 and 2 more"):
        conversion.map_state(state | extra, tiny_config())
    with pytest.raises(UserError, match="missing: .*unknown|missing: .*mis-shaped"):
        conversion.map_state(state, RealSRTConfig())  # another size of network


def test_without_torch_the_message_says_what_to_install(monkeypatch, tmp_path):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r'pip install "maskgit_sr\[convert\]"'):
        conversion.read_state(tmp_path / "net.pth")


def test_convert_writes_a_bundle(monkeypatch, tmp_path, state):
    source, target = tmp_path / "net.pth", tmp_path / "net.safetensors"
    source.write_bytes(b"checkpoint")
    target.write_bytes(b"precious")
    monkeypatch.setattr(conversion, "read_state", lambda path: state)
    with pytest.raises(UserError, match="net.safetensors: exists already"):
        conversion.convert(source, target, config=tiny_config())
    assert target.read_bytes() == b"precious"
    summary = conversion.convert(source, target, config=tiny_config(), overwrite=True)
    method = RealSRT(tiny_config())
    params, metadata = bundles.read(target, method.shapes())
    assert (metadata.method, metadata.scale, metadata.licence) == ("realsrt", 4, "MIT")
    assert from_mapping(RealSRTConfig, metadata.config, "model") == tiny_config()
    assert metadata.training["file"] == "net.pth"
    assert len(metadata.training["sha256"]) == 64
    assert set(summary["groups"]) == set(method.groups)
    assert summary["parameters"] == sum(leaf.size for leaf in flatten(params).values())
    expected = flatten(conversion.map_state(state, tiny_config()))
    for name, array in flatten(params).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_reading_a_torch_file(tmp_path, state):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    source, target = tmp_path / "net.pth", tmp_path / "net.safetensors"
    torch.save({"params_ema": tensors}, source)
    conversion.convert(source, target, config=tiny_config())
    params, _ = bundles.read(target)
    np.testing.assert_array_equal(params["codebook"]["embedding"], state[CODEBOOK][:-1])

    for content, message in (
        ({"params": tensors}, "expected a checkpoint with params_ema, found params"),
        ({"params_ema": {"step": 3}}, "expected tensors only, found other values: step"),
    ):
        torch.save(content, source)
        with pytest.raises(UserError, match=message):
            conversion.read_state(source)
    source.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="net.pth: not a readable PyTorch file"):
        conversion.read_state(source)
    with pytest.raises(UserError, match="no such file"):
        conversion.read_state(tmp_path / "absent.pth")
