"""inference.statistics: intervals that cover, comparisons that know chance from difference."""

import copy

import numpy as np
import pytest

from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import statistics


def result(scores, text="RGB", better="higher", crop=0):
    return {
        "system": f"{crop}",
        "protocol": {"crop": crop, "metrics": {"psnr_rgb": {"text": text, "better": better}}},
        "images": [
            {"name": f"{i}", "scores": {"psnr_rgb": score}} for i, score in enumerate(scores)
        ],
    }


def test_summary():
    found = statistics.summary([1.0, 2.0, 3.0, 6.0])
    assert found["mean"] == 3.0 and found["n"] == 4
    assert 1.0 < found["low"] < 3.0 < found["high"] < 6.0
    assert found == statistics.summary([1.0, 2.0, 3.0, 6.0])
    assert statistics.summary([2.0]) == {"mean": 2.0, "low": None, "high": None, "n": 1}
    assert statistics.summary([]) == {"mean": None, "low": None, "high": None, "n": 0}
    same = statistics.summary([2.0, 2.0, 2.0])
    assert (same["low"], same["high"]) == (2.0, 2.0)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [statistics.summary(rng.normal(5, 2, 40)) for _ in range(100)]
    held = sum(s["low"] < 5 < s["high"] for s in found)
    assert 87 <= held <= 99  # 95 in 100, a little less for a percentile interval of 40


def test_a_small_steady_gain_is_seen_and_chance_is_not():
    rng = np.random.default_rng(1)
    first = rng.normal(25, 3, 30)
    gain = statistics.compare(result(first), result(first + rng.normal(0.2, 0.1, 30)))["psnr_rgb"]
    assert gain["better"] == "second" and gain["p"] < 1e-4 and gain["wins"] >= 27
    assert 0.1 < gain["low"] < gain["difference"] < gain["high"] < 0.3
    worse = statistics.compare(result(first, better="lower"), result(first + 0.2, better="lower"))[
        "psnr_rgb"
    ]
    assert worse["better"] == "first" and worse["wins"] == 0
    noise = statistics.compare(result(first), result(rng.permuted(first)))["psnr_rgb"]
    assert noise["better"] == "neither" and noise["p"] > 0.05
    equal = statistics.compare(result(first), result(first))["psnr_rgb"]
    assert equal["p"] == 1.0 and equal["difference"] == 0.0 and equal["better"] == "neither"


def test_only_common_scores_count():
    first, second = result([1.0, 2.0, 3.0]), result([2.0, None, 5.0, 9.0])
    found = statistics.compare(first, second)["psnr_rgb"]
    assert (found["n"], found["first"], found["second"]) == (2, 2.0, 3.5)


def test_what_cannot_be_compared():
    one = result([1.0, 2.0])
    with pytest.raises(UserError, match="measured in two ways: RGB; and Y"):
        statistics.compare(one, result([1.0, 2.0], text="Y"))
    with pytest.raises(UserError, match="'0' was scored with crop 0, '512' with crop 512"):
        statistics.compare(one, result([1.0, 2.0], crop=512))
    other = copy.deepcopy(one)
    for row in other["images"]:
        row["name"] += "x"
    with pytest.raises(UserError, match="no picture in common"):
        statistics.compare(one, other)
    other = copy.deepcopy(one)
    other["protocol"]["metrics"] = {"niqe": {"text": "", "better": "lower"}}
    with pytest.raises(UserError, match="no metric in common: psnr_rgb and niqe"):
        statistics.compare(one, other)
    with pytest.raises(UserError, match="no score that both have"):
        statistics.compare(result([None]), result([1.0]))
