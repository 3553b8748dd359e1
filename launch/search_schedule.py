"""Searches the noise schedule that a diffusion model samples best from, by a metric of a folder.

    python -m launch.search_schedule --model sr3-nano --lr SET/lr --hr SET/hr \
        --option sampler=dpm --option steps=20 --output schedule.json

As SR3's authors did by FID. Candidates are the respaced training schedule, and every kind with
ends on WaveGrad's grid: a digit times a power of ten. Those whose last step is no noise are left
out. Each candidate's score is written at once; a second run goes on where the first one stopped.
The last line says which options were best.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgit_sr import paths
from maskgit_sr.cli import results
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.evaluation import evaluator, restoring
from maskgit_sr.images import pairing
from maskgit_sr.inference import options as method_options
from maskgit_sr.inference.upscaler import Upscaler
from maskgit_sr.ops.diffusion import ENDLESS

STARTS = (1e-6, 1e-5, 1e-4, 1e-3)
DIGITS = (1, 2, 3, 5, 7)
POWERS = (-2, -1)


def candidates(
    upscaler: Upscaler, kinds: Sequence[str], given: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yields the options of every schedule that can be sampled from, the respaced one first.

    Raises:
        UserError: options of another method, or a kind that there is not.
    """
    upscaler.options(schedule="respaced", **given)
    yield {"schedule": "respaced"}
    for kind in kinds:
        if kind in ENDLESS:
            upscaler.options(schedule=kind, **given)
            yield {"schedule": kind}
            continue
        ends = [float(f"{digit}e{power}") for power in POWERS for digit in DIGITS]
        # The kind itself, whatever its ends: 0 is the one that always fits.
        upscaler.options(schedule=kind, beta_end=0.0, **given)
        for start, end in itertools.product(STARTS, (0.0, *ends)):
            found: dict[str, Any] = {"schedule": kind, "beta_start": start, "beta_end": end}
            try:
                upscaler.options(**found, **given)
            except UserError:  # no noise at its end
                continue
            yield found


def search(
    upscaler: Upscaler,
    entries: Sequence[pairing.Entry],
    metric: str,
    kinds: Sequence[str],
    given: Mapping[str, Any],
    seed: int,
    output: Path,
) -> dict[str, Any]:
    """Scores all candidates that `output` has no score of, and returns the best one's row.

    Args:
        metric: a name of `maskgit_sr.metrics.SPECS`, of images or of the set.
        given: options that all candidates share.

    Raises:
        UserError: `output` is of another search or cannot be read; no image could be scored.
    """
    what = {
        "model": upscaler.metadata.digest,
        "images": [entry.name for entry in entries],
        "metric": metric,
        "options": dict(given),
        "seed": seed,
    }
    what = json.loads(json.dumps(what))  # as it is read again: lists for tuples
    rows = _known(output, what)
    protocol = results.protocol("realsrt", metric, None, None)
    for options in candidates(upscaler, kinds, given):
        if any(row["options"] == options for row in rows):
            continue
        read = restoring.from_model(upscaler, entries, {**given, **options, "seed": seed})
        names = [entry.name for entry in entries]
        found = evaluator.evaluate(names, read, protocol, system="search", source={})
        score = found["summary"][metric]["mean"]
        if score is None:
            raise UserError(f"search: nothing could be scored: {found['problems'][0]}")
        better = found["protocol"]["metrics"][metric]["better"]
        rows.append({"options": options, "score": score, "better": better})
        paths.write(output, json.dumps({"search": what, "rows": rows}, indent=1) + "\n")
        print(_line(metric, rows[-1]), flush=True)
    sign = 1 if rows[0]["better"] == "lower" else -1
    best: dict[str, Any] = min(rows, key=lambda row: sign * row["score"])
    return best


def _known(output: Path, what: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not output.exists():
        return []
    try:
        stored = json.loads(output.read_text(encoding="utf-8"))
        search, rows = stored["search"], list(stored["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{output}: not the scores of a search: {error}") from None
    other = [name for name in what if search.get(name) != what[name]]
    if other:
        raise UserError(f"{output}: of a search with other {', '.join(other)}; choose another name")
    return rows


def _line(metric: str, row: Mapping[str, Any]) -> str:
    words = " ".join(f"--option {name}={value}" for name, value in row["options"].items())
    return f"{metric} {row['score']:.4f} {words}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code; a user's mistake is one line and code 2."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--model", required=True, help="name of a bundle, or its path")
    parser.add_argument("--lr", required=True, help="folder of LR images")
    parser.add_argument("--hr", required=True, help="folder of HR images")
    parser.add_argument("--metric", default="lpips_alex", help="what is searched by, or fid")
    parser.add_argument("--kinds", default="linear,quad,cosine", help="of schedules, with commas")
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="of the sampling")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, type=Path, help="JSON of all scores")
    with one_line("launch.search_schedule"):
        return _run(parser.parse_args(argv))


def _run(given: argparse.Namespace) -> int:
    import maskgit_sr

    if given.limit is not None and given.limit < 1:
        raise UserError(f"--limit: expected at least 1, found {given.limit}")
    entries, _ = pairing.match(lr=given.lr, hr=given.hr)
    upscaler = maskgit_sr.load(given.model)
    options = method_options.parse(method_options.split(given.option), upscaler)
    kinds, entries = given.kinds.split(","), entries[: given.limit]
    best = search(upscaler, entries, given.metric, kinds, options, given.seed, given.output)
    print("best:", _line(given.metric, best))
    return 0


if __name__ == "__main__":
    sys.exit(main())
