"""Calibration: how well a method's confidence predicts the quality of its output.

Every token of every window that lies wholly inside an image counts: its confidence, whether it
equals the reference's token, and the local error of the restored image (the LPIPS map averaged
over the token's pixels).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskgit_sr import errors, images, paths
from maskgit_sr.arrays import Params
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import plots
from maskgit_sr.evaluation.restoring import check_pair
from maskgit_sr.images.pairing import Entry
from maskgit_sr.images.samples import unit
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.perceptual import distances as perceptual

BINS = 10
# arange excludes its end, and coverage 1, which is all tokens, is one of the points
COVERAGES = np.arange(0.05, 1.001, 0.05)


def measure(
    upscaler: Upscaler,
    entries: Sequence[Entry],
    options: Mapping[str, Any],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Returns the summary of all images together, and a line for each that could not be used.

    Args:
        options: ``seed``, and options of the method.

    Returns:
        The values of `summarise`, and lines of text.

    Raises:
        UserError: the method provides no confidence or no tokens, or lacks an option; the LPIPS
            weights are absent; or no image is as large as a window.
    """
    method = upscaler.method
    if missing := sorted({"confidence", "tokens"} - method.provides):
        raise UserError(f"--calibration: {method.name} provides no {' and no '.join(missing)}")
    own = {name: value for name, value in options.items() if name != "seed"}
    run = _compiled(upscaler, own)
    key = jax.random.key(int(options["seed"]))
    side = method.tile.sides[0]  # the smallest, so that smaller images can be used
    rows, problems = [], []
    for index, entry in enumerate(entries):
        try:
            assert entry.lr is not None and entry.hr is not None
            lr, hr = (images.read(path).color for path in (entry.lr, entry.hr))
            lr, hr = cut_pair(lr, hr, side, method.scale)
        except Exception as error:  # of one pair, memory included: the others can do without it
            problems.append(errors.failure(error, entry.name))
        else:
            # by place in the list, so that an unusable image does not change the others' samples
            image_key = jax.random.fold_in(key, index)
            for start in range(0, len(lr), upscaler.batch):
                # A short last batch is filled up, to compile only once.
                take = np.minimum(np.arange(start, start + upscaler.batch), len(lr) - 1)
                values = jax.device_get(run(lr[take], hr[take], take.astype(np.uint32), image_key))
                # without the repeated windows, which would count twice
                rows.append([part[: len(lr) - start].ravel() for part in values])
        if progress is not None:
            progress(index + 1, len(entries))
    if not rows:
        raise UserError(f"--calibration: no image could be used: {problems[0]}")
    confidence, correct, distance = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return summarise(confidence, correct, distance), problems


def summarise(confidence: np.ndarray, correct: np.ndarray, distance: np.ndarray) -> dict[str, Any]:
    """Summarises confidences in [0, 1], right tokens (0 or 1) and local LPIPS, each [n].

    Returns:
        tokens, accuracy; ``auroc`` of the confidence for right tokens, and for tokens whose local
        LPIPS is below the median; ``spearman`` with the local LPIPS; ``expected_calibration_error``
        over ``bins`` equal bins; ``reliability``: [mean confidence, share right, count] of each of
        them that is not empty; ``risk``: for each coverage (the most confident share) the share of
        wrong tokens and the mean local LPIPS among them; ``best_risk``: the same if tokens came in
        the order of their local LPIPS.
    """
    from scipy import stats

    correct = correct.astype(bool)
    # a confidence of 1 belongs to the last bin
    bins = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    reliability = [
        [float(confidence[at].mean()), float(correct[at].mean()), int(at.sum())]
        for b in range(BINS)
        if (at := bins == b).any()
    ]
    error = sum(abs(c - share) * n for c, share, n in reliability) / len(confidence)
    # stable, so that tokens of equal confidence always come in the same order
    order, ideal = np.argsort(-confidence, kind="stable"), np.sort(distance)
    risk: dict[str, list[float]] = {"coverage": [], "wrong": [], "lpips": [], "best_lpips": []}
    for coverage in COVERAGES:
        count = max(1, round(coverage * len(order)))
        kept = order[:count]
        risk["coverage"].append(float(coverage))
        risk["wrong"].append(float(1 - correct[kept].mean()))
        risk["lpips"].append(float(distance[kept].mean()))
        risk["best_lpips"].append(float(ideal[:count].mean()))
    # the rank correlation with a constant is NaN, which JSON does not have
    varied = np.ptp(confidence) > 0 and np.ptp(distance) > 0
    return {
        "tokens": len(confidence),
        "accuracy": float(correct.mean()),
        "mean_confidence": float(confidence.mean()),
        "auroc_correct": auroc(confidence, correct),
        "auroc_lpips": auroc(confidence, distance < np.median(distance)),
        "spearman_lpips": float(stats.spearmanr(confidence, distance).statistic)
        if varied
        else None,
        "expected_calibration_error": float(error),
        "bins": BINS,
        "reliability": reliability,
        "risk": risk,
    }


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Returns the area under the ROC curve, None with only positives or only negatives.

    It is the probability that a positive scores above a negative; ties count half.
    """
    from scipy import stats

    ups = int(positive.sum())
    downs = len(positive) - ups
    if not ups or not downs:
        return None
    # only the statistic is used, so the cheapest p-value will do
    found = stats.mannwhitneyu(score[positive], score[~positive], method="asymptotic")
    return float(found.statistic / (ups * downs))


def lines(summary: Mapping[str, Any]) -> list[str]:
    """Returns a summary as lines of text."""

    def say(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    return [
        f"{summary['tokens']:,} tokens, {summary['accuracy']:.1%} right, mean confidence "
        f"{summary['mean_confidence']:.3f}",
        f"AUROC of the confidence: {say(summary['auroc_correct'])} for right tokens, "
        f"{say(summary['auroc_lpips'])} for local LPIPS below the median (0.5: says nothing)",
        f"rank correlation with local LPIPS: {say(summary['spearman_lpips'])} (-1 would be best)",
        f"expected calibration error: {summary['expected_calibration_error']:.3f}",
    ]


def write(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes calibration.json and calibration.png to `folder` and returns their paths.

    Raises:
        UserError: a file cannot be written, or matplotlib is not installed.
    """
    path = folder / "calibration.json"
    paths.write(path, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return [path, plots.calibration(summary, folder / "calibration.png")]


def _compiled(upscaler: Upscaler, options: Mapping[str, Any]) -> Callable[..., Any]:
    method: Any = upscaler.method  # one that provides tokens has `tokenize`
    choice = upscaler.options(confidence=True, **options)
    lpips = perceptual.load_lpips("alex")

    @jax.jit
    def run(
        params: Params, weights: Params, lr: jax.Array, hr: jax.Array, indices: jax.Array, key: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
        restored = method.restore(params, lr, keys, choice)
        wanted = method.tokenize(params, hr)
        # methods do not clip, and LPIPS is defined on [0, 1]
        image = jnp.clip(restored.image, 0, 1)
        local = perceptual.lpips_map(perceptual.alex_features, weights, image, hr)
        many, rows, columns = wanted.shape
        height, width = local.shape[1] // rows, local.shape[2] // columns
        local = local.reshape(many, rows, height, columns, width).mean((2, 4))
        assert restored.confidence is not None
        return restored.confidence, restored.tokens == wanted, local

    # Arguments, since captured arrays would become constants of the compiled program.
    return functools.partial(run, upscaler.params, lpips.params)


def cut_pair(
    lr: np.ndarray, hr: np.ndarray, size: int, scale: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a pair into adjacent windows that lie wholly in the image.

    Returns:
        LR [n, size, size, 3] and HR [n, scale·size, scale·size, 3], float32 in [0, 1].

    Raises:
        UserError: HR and LR do not belong together, or LR is smaller than a window.
    """
    rows, columns = (side // size for side in check_pair(lr, hr, scale))
    if not rows or not columns:
        raise UserError(f"LR {lr.shape[1]}x{lr.shape[0]} is smaller than a window of {size}")

    # neither overlapping nor padded, so that every token counts once
    def cut(image: np.ndarray, side: int) -> np.ndarray:
        image = image[: rows * side, : columns * side]
        tiles = image.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
        return unit(tiles.reshape(-1, side, side, 3))

    return cut(lr, size), cut(hr, size * scale)
