"""Intervals of a mean over images and of a share, and the paired comparison of two systems."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from maskgit_sr.errors import UserError

RESAMPLES = 9999


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """Returns {mean, low, high, n}: the mean and its 95 % percentile bootstrap interval.

    The interval tells how far the mean would move with other images of the same kind; it is None
    for fewer than two values. The same values always give the same interval.
    """
    if not len(values):
        return {"mean": None, "low": None, "high": None, "n": 0}
    low, high = _interval(np.asarray(values, float))
    return {"mean": float(np.mean(values)), "low": low, "high": high, "n": len(values)}


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1000,  # bounds memory: all resamples at once take RESAMPLES × n numbers
        method="percentile",
        rng=np.random.default_rng(0),  # fixed, so that the same scores give the same interval
    ).confidence_interval
    return float(found.low), float(found.high)


def proportion(count: int, of: int) -> dict[str, float | int | None]:
    """Returns {rate, low, high, n}: a share and its 95 % interval, Wilson's (1927) score interval.

    The interval supposes independent trials. All but `n` are None where `of` is 0.
    """
    if not of:
        return {"rate": None, "low": None, "high": None, "n": 0}
    found = stats.binomtest(count, of).proportion_ci(method="wilson")
    return {"rate": count / of, "low": float(found.low), "high": float(found.high), "n": of}


def check_alike(results: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError unless crops agree and shared metrics were measured in the same way."""
    texts: dict[str, str] = {}
    crop = results[0]["protocol"]["crop"]
    for result in results:
        protocol = result["protocol"]
        if protocol["crop"] != crop:
            raise UserError(
                f"'{results[0]['system']}' was scored with crop {crop}, "
                f"'{result['system']}' with crop {protocol['crop']}"
            )
        for name, metric in protocol["metrics"].items():
            if texts.setdefault(name, metric["text"]) != metric["text"]:
                raise UserError(
                    f"{name} was measured in two ways: {texts[name]}; and {metric['text']}"
                )


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Returns paired differences, second − first, of two results of `evaluator.evaluate`.

    Only images that both results have scored count. `p` is that of the two-sided Wilcoxon
    signed-rank test, whose null hypothesis is that differences are symmetric about 0; `better` is
    "first", "second" or, unless p < 0.05, "neither".

    Returns:
        {metric: {first, second, difference, low, high, n, wins, p, better}}; `wins` is the number
        of images on which the second is better.

    Raises:
        UserError: no metric, image or score in common, or a metric measured in two ways.
    """
    specs = [result["protocol"]["metrics"] for result in (first, second)]
    common = [name for name in specs[0] if name in specs[1]]
    if not common:
        raise UserError(
            f"--compare: no metric in common: {', '.join(specs[0])} and {', '.join(specs[1])}"
        )
    check_alike((first, second))
    # in one form: a Mac writes accented letters otherwise than anybody else
    rows = [
        {unicodedata.normalize("NFC", row["name"]): row["scores"] for row in result["images"]}
        for result in (first, second)
    ]
    names = [name for name in rows[0] if name in rows[1]]
    if not names:
        raise UserError("--compare: no picture in common; names are compared as they stand")
    found = {}
    for metric in common:
        pairs = [(rows[0][name].get(metric), rows[1][name].get(metric)) for name in names]
        kept = np.array([pair for pair in pairs if None not in pair], float)
        if len(kept):
            found[metric] = _paired(kept, specs[0][metric]["better"] == "higher")
    if not found:
        raise UserError("--compare: no score that both have for the same picture")
    return found


def _paired(pairs: np.ndarray, higher: bool) -> dict[str, Any]:
    difference = pairs[:, 1] - pairs[:, 0]
    low, high = _interval(difference)
    if len(pairs) < 2:
        p = None
    else:
        # without any difference there is nothing to rank, and the test is undefined
        p = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
    gains = difference if higher else -difference
    better = "neither"
    if p is not None and p < 0.05:
        better = "second" if gains.mean() > 0 else "first"
    return {
        "first": float(pairs[:, 0].mean()),
        "second": float(pairs[:, 1].mean()),
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "n": len(pairs),
        "wins": int((gains > 0).sum()),
        "p": p,
        "better": better,
    }
