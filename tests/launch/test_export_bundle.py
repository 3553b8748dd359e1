"""launch.export_bundle: one workdir, the bundles of two methods that share its first stages."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from launch import export_bundle
from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.methods import registry
from maskgit_sr.methods.sr_maskgit import Correction, Inpainting
from maskgit_sr.training.weights import stage_file
from tests.methods import small


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """All stages of the correction, as the trainer leaves them."""
    folder = tmp_path_factory.mktemp("work")
    config = small.maskgit(Correction.name)
    # 8×8 tokens, since inpainting's cells are of 4×4.
    transformer = dataclasses.replace(config.transformer, positions=65)
    method = Correction(dataclasses.replace(config, transformer=transformer))
    params = small.random_params(method)
    for number, stage in enumerate(method.stages):
        part = {group: params[group] for group in method.stages[stage].exports}
        shifted = jax.tree.map(lambda x, by=number: np.asarray(x) + by, part)
        metadata = bundles.Metadata(method.name, method.describe(), 2)
        bundles.write(stage_file(folder, stage), shifted, metadata)
    return folder


@pytest.mark.parametrize(("name", "stage"), [(None, "correction"), (Inpainting.name, "prior")])
def test_each_method_has_the_last_of_its_own_stages(workdir, tmp_path, name, stage):
    path = tmp_path / "m.safetensors"
    export_bundle.export(workdir, path, "float32", "none", {}, name=name)
    params, metadata = bundles.read(path)
    assert metadata.method == name or (name is None and metadata.method == Correction.name)
    trained, _ = bundles.read(stage_file(workdir, stage))
    np.testing.assert_array_equal(
        params["transformer"]["words"]["embedding"], trained["transformer"]["words"]["embedding"]
    )
    assert registry.build(metadata.method, metadata.config).tile.sides == (32,)


def test_a_method_of_other_networks_is_refused(workdir, tmp_path):
    with pytest.raises((UserError, ValueError), match="model"):
        export_bundle.export(workdir, tmp_path / "x", "float32", "none", {}, name="subpixel")
    assert not (tmp_path / "x").exists()


def test_groups_that_were_not_trained_here_come_from_init(workdir, tmp_path, monkeypatch, capsys):
    part = tmp_path / "part" / "correction" / "groups.safetensors"
    part.parent.mkdir(parents=True)
    shutil.copy(stage_file(workdir, "correction"), part)
    target, given = tmp_path / "m.safetensors", stage_file(workdir, "tokenizer")
    words = ["export_bundle", "--workdir", str(tmp_path / "part"), "--output", str(target)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        export_bundle.main()
    assert "needs trained tokenizer" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*words, "--init", str(given), "--dtype", "float32"])
    export_bundle.main()
    found, expected = bundles.read(target)[0], bundles.read(given)[0]
    np.testing.assert_array_equal(
        found["tokenizer"]["codebook"]["embedding"], expected["tokenizer"]["codebook"]["embedding"]
    )
