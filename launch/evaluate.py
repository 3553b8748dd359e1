"""Degrades photographs, restores them, and scores the result.

    python -m launch.evaluate --model realsrt-nano --hr PHOTOS --degrade realesrgan --seed 0

Every photograph is cropped to a multiple of the scale and degraded by a random draw that depends on
the seed and its place among the names alone. `maskgit-sr evaluate` scores sets that have LR images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from data import degradations
from data.validation import whole_multiple
from maskgit_sr import DEFAULT_MODEL, images
from maskgit_sr.cli import results
from maskgit_sr.errors import UserError, failure, one_line
from maskgit_sr.images import pairing
from maskgit_sr.images.pairing import Entry


def degrade(
    entries: list[Entry], folder: Path, preset: str, scale: int, seed: int
) -> tuple[list[Entry], list[str]]:
    """Writes the LR and the cropped HR image of every entry as PNG.

    Args:
        preset: see `data.degradations.named`.
        scale: HR side over LR side.

    Returns:
        Entries of the written files, and one line for each image that could not be degraded.

    Raises:
        UserError: unknown preset, or no image could be degraded.
    """
    try:
        settings = degradations.named(preset)
    except ValueError as error:
        raise UserError(f"--degrade: {error}") from None
    found, problems = [], []
    for index, entry in enumerate(entries):
        assert entry.hr is not None
        try:
            picture = images.read(entry.hr)
            if picture.color.dtype != np.uint8:
                raise UserError(f"{entry.hr}: expected 8-bit samples, found {picture.color.dtype}")
            hr = whole_multiple(picture.color, scale)
        except Exception as error:  # of one file, memory included: the others go on
            problems.append(failure(error, entry.name))
            continue
        # A generator of its own: an image that is skipped does not shift the draws of the others.
        rng = np.random.default_rng([seed, index])
        lr = degradations.draw(rng, settings, hr.shape[0], hr.shape[1], scale).apply(hr)
        paths = {kind: folder / kind / f"{entry.name}.png" for kind in ("lr", "hr")}
        for kind, array in (("lr", lr), ("hr", hr)):
            images.write(images.from_array(array), paths[kind])
        found.append(Entry(entry.name, hr=paths["hr"], lr=paths["lr"]))
    if not found:
        raise UserError(f"no image could be degraded: {problems[0]}")
    return found, problems


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code; a user's mistake is one line and code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name of a bundle, or its path")
    parser.add_argument("--hr", required=True, help="folder of photographs")
    parser.add_argument("--degrade", default="realesrgan", help="preset, see data/README.md")
    parser.add_argument("--seed", type=int, default=0, help="of the degradations and the decoding")
    parser.add_argument("--limit", type=int, help="only the first so many photographs")
    parser.add_argument("--protocol", default="realsrt")
    parser.add_argument("--metrics", help="other metrics than the protocol's: names with commas")
    parser.add_argument("--output", type=Path, help="JSON of all scores")
    parser.add_argument("--report", type=Path, help="folder of a page with scores and pictures")
    with one_line("launch.evaluate"):
        return _run(parser.parse_args(argv))


def _run(given: Any) -> int:
    import maskgit_sr

    if given.limit is not None and given.limit < 1:
        raise UserError(f"--limit: expected at least 1, found {given.limit}")
    if given.seed < 0:
        raise UserError(f"--seed: expected 0 or more, found {given.seed}")
    protocol = results.protocol(given.protocol, given.metrics, None, None)
    entries, _ = pairing.match(hr=given.hr)
    upscaler = maskgit_sr.load(given.model)
    with tempfile.TemporaryDirectory() as folder:
        pairs, problems = degrade(
            entries[: given.limit], Path(folder), given.degrade, upscaler.method.scale, given.seed
        )
        keep = Path(folder) / "sr" if given.report is not None else None
        source = {"hr": given.hr, "degrade": given.degrade}
        result = results.restore_and_score(
            upscaler,
            pairs,
            protocol,
            {"seed": given.seed},
            keep,
            system=Path(given.model).stem,
            source=source,
            problems=problems,
        )
        beside = results.score_references(upscaler, pairs, protocol, given.seed, source)
        return results.finish(result, pairs, given.output, given.report, keep, beside)


if __name__ == "__main__":
    sys.exit(main())
