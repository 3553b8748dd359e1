"""Names and refusals of ITER's checkpoint conversion; its numbers: tests/models/test_iter.py."""

import numpy as np
import pytest

from maskgit_sr import bundles
from maskgit_sr.cli import catalogue
from maskgit_sr.convert import iter as conversion
from maskgit_sr.errors import UserError
from maskgit_sr.models.functional import flatten
from tests.models import iter_oracle as public

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def state():
    return public.golden()[1]


@pytest.fixture
def write(tmp_path, state):
    """Writes arrays as a PyTorch checkpoint, the tokenizer's aside, and returns the paths."""

    def write(networks=None, tokenizer=None, key="params"):
        numbers = {n: a for n, a in state.items() if not n.startswith("vqgan.")}
        own = {n.removeprefix("vqgan."): a for n, a in state.items() if n.startswith("vqgan.")}
        own |= {n.replace("decoder.", "generator."): a for n, a in own.items() if "decoder." in n}
        files = {"ITER_x4.pth": numbers | (networks or {}), "vqgan.pth": own | (tokenizer or {})}
        for name, arrays in files.items():
            tensors = {n: torch.from_numpy(a) for n, a in arrays.items() if a is not None}
            torch.save({key: tensors}, tmp_path / name)
        return [tmp_path / name for name in files]

    return write


def convert(tmp_path, networks, tokenizer=None, **options):
    return conversion.convert(
        networks, tmp_path / "out.safetensors", tokenizer=tokenizer, config=public.TINY, **options
    )


def test_two_files_or_one_give_the_same_bundle(tmp_path, state, write):
    computed = np.zeros((64, 64), np.float32)
    networks, tokenizer = write({"lq_encoder.model.3.swin_blks.0.attn_mask": computed})
    summary = convert(tmp_path, networks, tokenizer)
    params, metadata = bundles.read(tmp_path / "out.safetensors")
    assert metadata.method == "iter" and "non-commercial" in metadata.licence
    assert summary["parameters"] == sum(array.size for array in state.values())
    expected = flatten(conversion.map_state(state, public.TINY))
    assert flatten(params).keys() == expected.keys()
    for name, array in flatten(params).items():
        np.testing.assert_array_equal(array, expected[name])
    whole = {n: a for n, a in state.items() if n.startswith("vqgan.")}
    networks, _ = write(whole)
    assert convert(tmp_path, networks, overwrite=True) == summary
    with pytest.raises(UserError, match="exists already"):
        convert(tmp_path, networks)


def test_mistakes_are_one_line(tmp_path, state, write, capsys):
    networks, tokenizer = write()
    bias = "lq_encoder.model.4.bias"
    cases = [
        ((tokenizer,), "expected the token networks, as in ITER_x4.pth, found a tokenizer"),
        ((networks, networks), "expected a tokenizer, as in ITER_swinvqgan.pth, found none"),
        ((networks,), "has no tokenizer; give ITER_swinvqgan.pth by --tokenizer"),
    ]
    for paths, message in cases:
        with pytest.raises(UserError, match=message):
            convert(tmp_path, *paths)
    for changes, message in (
        ({bias: None}, f"missing: {bias}"),
        ({bias: np.zeros(3, np.float32)}, r"mis-shaped: .*found \(3,\)"),
        ({"more": np.zeros(3, np.float32)}, "unknown: more"),
        ({"lq_encoder.model.5.bias": np.zeros(3, np.float32)}, "scale 4, found those of scale 2"),
        ({"vqgan.encoder.blocks.0.bias": np.ones(32, np.float32)}, "expected the numbers of"),
    ):
        with pytest.raises(UserError, match=message) as error:
            convert(tmp_path, *write(changes))
        assert "\n" not in str(error.value)
    other = {"generator.blocks.0.bias": np.ones(64, np.float32)}
    with pytest.raises(UserError, match="expected a copy of decoder.blocks.0.bias"):
        convert(tmp_path, *write(tokenizer=other))
    with pytest.raises(UserError, match="expected a checkpoint with params, found weights"):
        convert(tmp_path, *write(key="weights"))
    with pytest.raises(UserError, match="scale: expected 2 or 4, found 3"):
        conversion.convert(networks, tmp_path / "out.safetensors", scale=3)
    for window in (24, 0):
        with pytest.raises(UserError, match="window: expected"):
            conversion.widened(public.TINY, window)
    assert conversion.widened(public.TINY, 48).tile.sides == (16, 32, 48)
    assert conversion.widened(conversion.published(2), 128).tile.sides == (128,)
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(SystemExit):
        catalogue.convert_iter(write()[1], tmp_path / "out.safetensors")
    assert "expected the token networks" in capsys.readouterr().err
