"""benchmarks.iter on networks that were not trained, and its measures."""

import numpy as np
import pytest

from benchmarks import iter as study
from maskgit_sr import bundles, images
from maskgit_sr.methods.iter_variants import ITERConv, ITERConvConfig
from tests.benchmarks.test_tokens import numbers
from tests.methods import small


def test_tables(tmp_path, capsys, tiny):
    config = small.iter_config(ITERConvConfig, tokenizer=tiny.tokenizer, alpha=0.5)
    method = ITERConv(config)
    bundle, panel = tmp_path / "iter.safetensors", tmp_path / "panel.png"
    metadata = bundles.Metadata(method.name, method.describe(), method.scale)
    bundles.write(bundle, small.random_params(method), metadata)
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 256, (70, 132, 3)).astype(np.uint8)
    images.write(images.from_array(hr), tmp_path / "val" / "hr" / "0.png")
    arguments = ["--bundle", str(bundle), "--val", str(tmp_path / "val")]
    assert study.main([*arguments, "--windows", "2", "--panel", str(panel)]) == 0
    assert images.read(panel).color.shape == (2 * 64, 6 * 64, 3)
    printed = capsys.readouterr().out
    found = numbers(printed)
    assert "2 windows of 64x64" in printed
    assert float(found["50%"][0]) > 0 and 0 <= float(found["50%"][1]) <= np.log(16)
    assert [float(found[str(alpha)][1]) for alpha in study.ALPHAS] == sorted(
        float(found[str(alpha)][1]) for alpha in study.ALPHAS
    )
    assert all(float(found[rule][0]) >= 1 for rule in study.RULES)


def test_measures():
    scores = np.array([0.1, 0.4, 0.35, 0.8, 0.4])
    good = np.array([False, False, True, True, True])
    assert study.auc(scores, good) == pytest.approx(4.5 / 6)
    assert np.isnan(study.auc(scores, good | True))
    masks = [np.ones((1, 4, 4), bool) for _ in range(3)]
    masks[1][0, 0, 0] = masks[2][0, 0, 0] = masks[2][0, 3, 0] = masks[2][0, 0, 1] = False
    assert study.spread(masks) == pytest.approx(2.0)  # 3 and 1 from the first
    image = np.zeros((1, 5, 5, 3))
    assert study.detail(image + 0.3) == pytest.approx(0)
    image[0, 2, 2] = 1
    assert study.detail(image) == pytest.approx((64 / 81 + 8 / 81) / 9)
