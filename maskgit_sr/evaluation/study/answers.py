"""Fool rates from the answers to a study: how often an output was taken for the photograph.

Saharia et al. 2023, section 4.2.2: the share of trials in which a subject chooses the output over
the photograph; at 50 % the two cannot be told apart.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.evaluation import statistics

FORMAT = 1
KIND = "maskgit_sr fool rates"
COLUMNS = (
    *("study", "subject", "trial", "task", "seconds", "image", "system"),
    *("reference_side", "answer"),
)
"""Those of a page's table of answers that the rates need."""
_SIDES = ("left", "right")

Answer = Mapping[str, str]


def read(files: Sequence[Path]) -> list[Answer]:
    """Returns the answers in the files that a study's page saved.

    Raises:
        UserError: a file cannot be read or is no such table, or holds answers of another file.
    """
    found: dict[tuple[str, ...], Path] = {}
    answers: list[Answer] = []
    for path in files:
        for line, row in _rows(path):
            for column, allowed in (
                ("task", ("1", "2")),
                ("reference_side", _SIDES),
                ("answer", _SIDES),
            ):
                if row[column] not in allowed:
                    expected = " or ".join(allowed)
                    raise UserError(
                        f"{path}: line {line}: {column}: expected {expected}, found {row[column]!r}"
                    )
            key = row["study"], row["subject"], row["trial"]
            if key in found:
                raise UserError(
                    f"{path}: line {line}: subject {row['subject']!r} has answered trial "
                    f"{row['trial']} in {found[key]} already; two subjects need two names"
                )
            found[key] = path
            answers.append(row)
    if not answers:
        raise UserError(f"{', '.join(map(str, files))}: no answers")
    return answers


def _rows(path: Path) -> Iterable[tuple[int, Answer]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8: {error.reason}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise UserError(
                f"{path}: expected the answers of a study, found no column {missing[0]}"
            )
        for row in reader:
            if None in row or None in row.values():
                count = len(reader.fieldnames or ())
                raise UserError(f"{path}: line {reader.line_num}: expected {count} values")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: not a table: {error}") from None


def fooled(answer: Answer) -> bool:
    """Returns True if the output was chosen."""
    return answer["answer"] != answer["reference_side"]


def rates(answers: Sequence[Answer]) -> dict[str, Any]:
    """Returns the fool rate of each task, time and system, as plain JSON values.

    Each has its rate with a 95 % interval (`statistics.proportion`) over all answers, the number of
    subjects, the mean of the subjects' own rates, the share of answers that named the left picture,
    and the counts of each image, [fooled, answers].
    """
    groups: dict[tuple[str, ...], list[Answer]] = {}
    for answer in answers:
        key = tuple(answer[name] for name in ("task", "seconds", "system"))
        groups.setdefault(key, []).append(answer)
    listed = []
    for (task, seconds, system), own in sorted(groups.items()):
        subjects = _shares(own, "subject")
        listed.append(
            {
                "task": int(task),
                "seconds": seconds,
                "system": system,
                **statistics.proportion(sum(map(fooled, own)), len(own)),
                "subjects": len(subjects),
                "subject_mean": sum(k / n for k, n in subjects.values()) / len(subjects),
                "left": sum(answer["answer"] == "left" for answer in own) / len(own),
                "images": dict(sorted(_shares(own, "image").items())),
            }
        )
    studies = sorted({answer["study"] for answer in answers})
    return {"format": FORMAT, "kind": KIND, "studies": studies, "rates": listed}


def _shares(answers: Sequence[Answer], by: str) -> dict[str, list[int]]:
    """Returns [fooled, answers] of each value of a column; subjects of two studies are two."""
    found: dict[str, list[int]] = {}
    for answer in answers:
        name = answer[by] if by != "subject" else f"{answer['study']} {answer[by]}"
        counts = found.setdefault(name, [0, 0])
        counts[0] += fooled(answer)
        counts[1] += 1
    return found


def write(result: Mapping[str, Any], path: Path) -> None:
    """Writes the rates as JSON, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    paths.write(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
