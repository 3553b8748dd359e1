"""inference.statistics: intervals that cover, comparisons that know chance from difference."""

import numpy as np
import pytest

from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import statistics


def result(scores, text="RGB", better="higher", crop=0, metric="psnr_rgb", first=0):
    rows = [{"name": f"{i}", "scores": {metric: score}} for i, score in enumerate(scores, first)]
    protocol = {"crop": crop, "metrics": {metric: {"text": text, "better": better}}}
    return {"system": f"crop {crop}", "protocol": protocol, "images": rows}


def compared(first, second):
    return statistics.compare(first, second)["psnr_rgb"]


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
    gain = compared(result(first), result(first + rng.normal(0.2, 0.1, 30)))
    assert gain["better"] == "second" and gain["p"] < 1e-4 and gain["wins"] >= 27
    assert 0.1 < gain["low"] < gain["difference"] < gain["high"] < 0.3
    worse = compared(result(first, better="lower"), result(first + 0.2, better="lower"))
    assert worse["better"] == "first" and worse["wins"] == 0
    noise = compared(result(first), result(rng.permuted(first)))
    assert noise["better"] == "neither" and noise["p"] > 0.05
    equal = compared(result(first), result(first))
    assert equal["p"] == 1.0 and equal["difference"] == 0.0 and equal["better"] == "neither"


def test_only_common_scores_count():
    found = compared(result([1.0, 2.0, 3.0]), result([2.0, None, 5.0, 9.0]))
    assert (found["n"], found["first"], found["second"]) == (2, 2.0, 3.5)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (result([1.0]), result([1.0], text="Y"), "measured in two ways: RGB; and Y"),
        (result([1.0]), result([1.0], crop=512), "'crop 0' was scored with crop 0, .* crop 512"),
        (result([1.0]), result([1.0], first=7), "no picture in common"),
        (result([1.0]), result([1.0], metric="niqe"), "no metric in common: psnr_rgb and niqe"),
        (result([None]), result([1.0]), "no score that both have"),
    ],
)
def test_what_cannot_be_compared(first, second, message):
    with pytest.raises(UserError, match=message):
        statistics.compare(first, second)
