"""metrics.inception_score against the definition; the network is tested in test_networks."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import softmax

from maskgit_sr.errors import UserError
from maskgit_sr.metrics import inception_score
from maskgit_sr.metrics.inception_score import PARTS, InceptionScore
from maskgit_sr.metrics.networks import inception


def score(logits, batch=7):
    """Of images that are their own logits, [n,classes]."""
    made = InceptionScore(lambda x: x)
    for start in range(0, len(logits), batch):
        made.add(logits[start : start + batch])
    return made


def definition(logits):
    """exp E KL(p(y|x) || p(y)), as in the paper."""
    p = softmax(logits, axis=1)
    return np.exp((p * np.log(p / p.mean(0))).sum(1).mean())


@pytest.mark.parametrize("count", [10, 33, 100])
def test_is_the_definition_part_by_part(count):
    logits = np.random.default_rng(count).normal(0, 2, (count, 12))
    made = score(logits)
    expected = [definition(logits[part::PARTS]) for part in range(PARTS)]
    np.testing.assert_allclose(made.parts(), expected, rtol=1e-10)
    np.testing.assert_allclose(made.value(), np.mean(expected), rtol=1e-10)
    np.testing.assert_allclose(score(logits, batch=1).value(), made.value(), rtol=1e-12)


def test_bounds():
    """1 for images that are all alike, the number of classes for sure ones of every class."""
    np.testing.assert_allclose(score(np.ones((20, 5))).value(), 1, rtol=1e-12)
    # sorted by class, with certainties that underflow
    sure = np.repeat(2000.0 * np.eye(4), PARTS, axis=0)
    np.testing.assert_allclose(score(sure).value(), 4, rtol=1e-12)


def test_too_few_and_broken_images():
    made = score(np.ones((9, 3)))
    with pytest.raises(ValueError, match="at least 10 images, found 9"):
        made.value()
    made.add(np.full((1, 3), np.nan))
    assert np.isnan(made.value())
    made.clear()
    made.add(np.ones((10, 2)))  # also of another network
    assert made.value() == 1


def test_a_file_without_the_classifier_is_told(assets, tmp_path):
    tensors = load_file(assets / "inception_fid.safetensors")
    params = inception.read(assets / "inception_fid.safetensors")
    assert params["fc"]["weight"].shape == (4, 128)
    file = tmp_path / "inception_fid.safetensors"
    save_file({name: value for name, value in tensors.items() if name[:3] != "fc."}, file)
    with pytest.raises(UserError, match=r"no classifier fc\.weight"):
        inception_score.load(file)


def test_logits_leave_the_bias_out(assets, monkeypatch):
    params = inception.read(assets / "inception_fid.safetensors")
    monkeypatch.setattr(inception, "features", lambda params, x: x)
    features = np.random.default_rng(0).random((3, 128), np.float32)
    expected = features.astype(np.float64) @ params["fc"]["weight"].T
    np.testing.assert_allclose(inception.logits(params, features), expected, atol=1e-5)
