"""convert.sr3: names and shapes of the public checkpoints, and what is refused."""

import jax
import numpy as np
import pytest

from maskgit_sr import bundles
from maskgit_sr.convert import sr3
from maskgit_sr.errors import UserError
from maskgit_sr.methods.sr3 import SR3
from maskgit_sr.methods.sr3_base import SR3Config
from maskgit_sr.models.functional import flatten
from tests.cli.commands import refuses
from tests.models.sr3_oracle import TINY, golden, state

CONFIG = SR3Config(scale=2, unet=TINY)


@pytest.fixture
def arrays():
    return state(golden()["entries"])


@pytest.mark.parametrize("name", list(sr3.PUBLISHED))
def test_names_and_shapes_of_the_published_networks(name):
    expected = {entry: tuple(shape) for entry, shape in golden()["published"][name]}
    found = sr3.entries(sr3.PUBLISHED[name].unet)
    assert {entry.name: entry.shape for entry in found.values()} == expected
    assert len(found) == len(expected) and (len(expected) == 362 or name != "16_128")
    assert sr3.PUBLISHED[name].schedule.steps == 2000


def test_no_number_is_lost(arrays):
    params = sr3.map_state(arrays, CONFIG)
    shapes = flatten(SR3(CONFIG).shapes())
    found = flatten(params)
    assert {n: a.shape for n, a in found.items()} == {n: s.shape for n, s in shapes.items()}
    total = sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays.values())
    ours = sum(float(np.square(a, dtype=np.float64).sum()) for a in found.values())
    assert ours == pytest.approx(total, rel=1e-9)


def test_a_file_becomes_a_bundle(arrays, tmp_path):
    torch = pytest.importorskip("torch")
    gammas = CONFIG.schedule.gammas[1:].astype(np.float32)
    whole = arrays | {"alphas_cumprod": gammas, "betas": gammas}
    source, target = tmp_path / "I1_E1_gen.pth", tmp_path / "sr3.safetensors"
    torch.save({name: torch.from_numpy(array) for name, array in whole.items()}, source)
    summary = sr3.convert(source, target, config=CONFIG)
    assert summary["parameters"] == sum(array.size for array in arrays.values())
    params, metadata = bundles.read(target)
    assert metadata.method == "sr3" and metadata.licence == "Apache-2.0"
    assert metadata.training["file"] == "I1_E1_gen.pth"
    expected = sr3.map_state(arrays, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, dict(params), expected)
    with pytest.raises(UserError, match="exists already"):
        sr3.convert(source, target, config=CONFIG)
    # Of another size, and no checkpoint: one line each, and nothing is written.
    other = tmp_path / "other.safetensors"
    refuses("missing", "convert", "sr3", source, other)
    named = "--config: expected one of 16_128, 64_512, found '8_64'"
    refuses(named, "convert", "sr3", source, other, "--config", "8_64")
    assert not other.exists()


def test_what_is_refused(arrays, tmp_path):
    name = next(iter(arrays))
    with pytest.raises(UserError, match="missing"):
        sr3.map_state({n: a for n, a in arrays.items() if n != name}, CONFIG)
    with pytest.raises(UserError, match="denoise_fn.more"):
        sr3.map_state(arrays | {"denoise_fn.more": np.zeros(1, np.float32)}, CONFIG)
    with pytest.raises(UserError, match="expected the schedule of 2000 steps .*, found 100 steps"):
        sr3.map_state(arrays | {"alphas_cumprod": np.ones(100, np.float32)}, CONFIG)
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3}, tmp_path / "opt.pth")
    with pytest.raises(UserError, match="expected tensors only, found other values: epoch"):
        sr3.read_state(tmp_path / "opt.pth")
