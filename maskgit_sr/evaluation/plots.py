"""Plots of measurements, as PNG files; needs matplotlib (the `plots` extra)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgit_sr import paths
from maskgit_sr.errors import UserError

_SIZE = 3.4  # inches a panel


def calibration(summary: Mapping[str, Any], path: Path) -> Path:
    """Draws reliability, counts and risk–coverage curves of a summary; returns `path`."""
    figure, axes = _figure(3)
    confidence, share, count = zip(*summary["reliability"], strict=True)
    axes[0].plot([0, 1], [0, 1], color="0.7", linestyle="--", label="perfect")
    axes[0].plot(confidence, share, marker="o", label="measured")
    axes[0].set(xlabel="confidence", ylabel="share of right tokens", xlim=(0, 1), ylim=(0, 1))
    axes[0].legend(frameon=False)
    bins = summary["bins"]
    # `reliability` leaves empty bins out, so a bin is found by its mean confidence
    centres = [(min(int(c * bins), bins - 1) + 0.5) / bins for c in confidence]
    axes[1].bar(centres, count, width=0.8 / bins)
    axes[1].set(xlabel="confidence", ylabel="tokens", xlim=(0, 1))
    risk = summary["risk"]
    axes[2].plot(risk["coverage"], risk["lpips"], marker=".", label="by confidence")
    axes[2].plot(risk["coverage"], risk["best_lpips"], color="0.6", label="best order")
    # at coverage 1 the order does not matter
    axes[2].axhline(risk["lpips"][-1], color="0.7", linestyle="--", label="by chance")
    axes[2].set(xlabel="coverage: most confident share", ylabel="mean local LPIPS", xlim=(0, 1))
    axes[2].legend(frameon=False)
    return _save(figure, path)


def steps(results: Sequence[Mapping[str, Any]], lines: Sequence[str], path: Path) -> Path:
    """Draws every metric over the number of decoding steps; returns `path`.

    Args:
        results: of `evaluator.evaluate`; each has ``steps`` in its ``source``.
        lines: for each result, the name of its line in the plot.
    """
    names = [n for n, s in results[0]["summary"].items() if s["mean"] is not None]
    figure, axes = _figure(len(names))
    for axis, name in zip(axes, names, strict=True):
        for line in dict.fromkeys(lines):
            rows = [r for r, own in zip(results, lines, strict=True) if own == line]
            axis.plot(
                [r["source"]["steps"] for r in rows],
                [r["summary"][name]["mean"] for r in rows],
                marker="o",
                label=line,
            )
        spec = results[0]["protocol"]["metrics"][name]
        axis.set(xlabel="steps T", ylabel=name, title=f"{spec['better']} is better")
        axis.set_xticks(sorted({result["source"]["steps"] for result in results}))
    axes[0].legend(frameon=False)
    return _save(figure, path)


def _figure(count: int) -> tuple[Any, Any]:
    try:
        # not pyplot, which keeps figures in global state and picks a backend for the screen
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need matplotlib: pip install 'maskgit-sr[plots]'") from error
    figure = Figure(figsize=(_SIZE * count * 1.15, _SIZE), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()  # paths.write then writes the file whole or not at all
    figure.savefig(buffer, dpi=150)
    paths.write(path, buffer.getvalue())
    return path
