"""Scoring shared by the commands: making, printing, writing and reporting results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from maskgit_sr.cli.messages import bar, plain_table, say, show
from maskgit_sr.cli.options import check_number
from maskgit_sr.errors import UserError
from maskgit_sr.inference.options import table as table_of

if TYPE_CHECKING:
    from maskgit_sr.evaluation.evaluator import Reader
    from maskgit_sr.images.pairing import Entry
    from maskgit_sr.inference.upscaler import Upscaler
    from maskgit_sr.metrics.protocols import Protocol

SHOWN = 10  # notes told one by one


def protocol(name: str, metrics: str | None, border: int | None, crop: int | None) -> Protocol:
    """Returns the preset protocol with the changes that the options ask for.

    Raises:
        UserError: unknown preset, a negative number, or no metric.
    """
    from maskgit_sr.metrics import protocols

    check_number("--border", border, 0)
    check_number("--crop", crop, 0)
    names = None if metrics is None else tuple(n.strip() for n in metrics.split(",") if n.strip())
    if names == ():
        raise UserError("--metrics: expected names with commas, found none")
    return protocols.find(name).changed(names, border, crop)


def score(
    entries: Sequence[Entry], read: Reader, protocol: Protocol, *, samples: int = 1, **more: Any
) -> dict[str, Any]:
    """Scores all entries by `evaluator.evaluate`, which also gets ``more``, and shows a bar.

    Args:
        samples: outputs for each input.
    """
    from maskgit_sr.evaluation import evaluator

    given = [kind for kind in ("hr", "lr") if all(getattr(e, kind) is not None for e in entries)]
    if samples > 1:
        given.append("more")
    names = [entry.name for entry in entries]
    with bar(more["system"], len(names)) as move:
        return evaluator.evaluate(names, read, protocol, given=given, progress=move, **more)


def restore_and_score(
    upscaler: Upscaler,
    entries: Sequence[Entry],
    protocol: Protocol,
    options: Mapping[str, Any],
    keep: Path | None = None,
    *,
    source: Mapping[str, Any],
    samples: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """Restores every LR image, scores the results and returns the scores.

    Args:
        options: ``seed``, maybe ``consistent``, and options of the method.
        keep: folder for the restored images.
        source: origin of the images; seed and all options are stored with it.
        samples: outputs for each input.
        **more: passed to `evaluator.evaluate`.
    """
    from maskgit_sr.evaluation import restoring

    general = {name: options[name] for name in ("seed", "consistent") if name in options}
    own = {name: value for name, value in options.items() if name not in general}
    # as resolved, defaults included, so that the scores tell what was run
    source = {**source, **general, **table_of(upscaler.options(**own))}
    if samples > 1:
        source["samples"] = samples
    read = restoring.from_model(upscaler, entries, options, keep, samples)
    return score(entries, read, protocol, source=source, samples=samples, **more)


def score_references(
    upscaler: Upscaler,
    entries: Sequence[Entry],
    protocol: Protocol,
    seed: int,
    source: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Returns the scores of the method's references (`Method.references`), in their order.

    A reference whose images are not given is left out; one that is given HR has no metrics of LR.
    """
    from maskgit_sr import metrics
    from maskgit_sr.inference.upscaler import Upscaler

    found = []
    for name, method, kind in upscaler.method.references:
        if any(getattr(entry, kind) is None for entry in entries):
            continue
        specs = [metrics.SPECS[name] for name in protocol.metrics]
        chosen = [
            spec.name
            for spec in specs
            if (kind == "lr" or "lr" not in spec.images) and not spec.of_samples
        ]
        if not any(metrics.available(name, None) is None for name in chosen):
            continue
        given = [dataclasses.replace(entry, lr=getattr(entry, kind)) for entry in entries]
        settings: Any = {"batch": upscaler.batch, "device": upscaler.device}
        run = Upscaler(method, upscaler.params, upscaler.metadata, **settings)
        wanted = protocol.changed(tuple(chosen), None, None)
        more: Any = {"system": name, "source": source}
        found.append(restore_and_score(run, given, wanted, {"seed": seed}, **more))
    return found


def finish(
    result: Mapping[str, Any],
    entries: Sequence[Entry],
    output: Path | None,
    report: Path | None,
    keep: Path | None = None,
    references: Sequence[Mapping[str, Any]] = (),
) -> int:
    """Prints a result, writes its files and returns the exit code.

    The code is 0 if every image was scored, 1 if some were, 2 if none was.

    Args:
        output: JSON file for all scores.
        report: folder for the page.
        keep: folder of the images that `restore_and_score` kept; None: the entries' own outputs.
        references: scores of the references, printed below and stored by name.
    """
    from maskgit_sr.evaluation import evaluator

    if references:
        result = {**result, "references": {r["system"]: r["summary"] for r in references}}
    for line in result["problems"]:
        say(line)
    notes = [f"{row['name']}: {note}" for row in result["images"] for note in row["notes"]]
    for line in notes[:SHOWN]:
        say(line)
    if len(notes) > SHOWN:
        say(f"{len(notes) - SHOWN} more notes; --output has all")
    # first, so that a page that cannot be written does not cost the scores
    if output is not None:
        evaluator.write(result, output)
    if report is not None and result["images"]:
        from maskgit_sr.evaluation import restoring
        from maskgit_sr.evaluation.report import page

        by_name = {entry.name: entry for entry in entries}
        crop = result["protocol"]["crop"]
        path = page.write(
            report,
            [result],
            lambda name: restoring.views(by_name[name], result["system"], keep, crop),
        )
        say(f"report: {path}")
    table([result], references)
    counts = result["counts"]
    return 0 if counts["scored"] == counts["of"] else 1 if counts["scored"] else 2


def table(
    results: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Prints the means: of one system with intervals, of several systems one row each.

    The means of ``references`` follow, and a line on what each metric measures.
    """
    specs = {k: spec for result in results for k, spec in result["protocol"]["metrics"].items()}
    heads = {name: f"{name} {'↑' if s['better'] == 'higher' else '↓'}" for name, s in specs.items()}
    if len(results) == 1:
        shown = plain_table(results[0]["system"], "mean", "95 % interval", "pictures")
        for name, spec in specs.items():
            found = results[0]["summary"][name]
            unit = f" {spec['unit']}" if spec["unit"] else ""
            interval = "" if found["low"] is None else f"{found['low']:.4f} – {found['high']:.4f}"
            shown.add_row(heads[name], f"{_number(found)}{unit}", interval, str(found["n"]))
        show(shown)
    rows = [*(results if len(results) > 1 else ()), *references]
    if rows:
        shown = plain_table("", *heads.values(), "pictures")
        for result in rows:
            cells = [_number(result["summary"].get(name)) for name in specs]
            counts = result["counts"]
            shown.add_row(result["system"], *cells, f"{counts['scored']} of {counts['of']}")
        show(shown)
    protocol, counts = results[0]["protocol"], results[0]["counts"]
    samples = results[0]["source"].get("samples", 1)
    part = f"centre {protocol['crop']}x{protocol['crop']}" if protocol["crop"] else "whole pictures"
    typer.echo(
        f"{counts['scored']} of {counts['of']} pictures scored; protocol {protocol['name']}: {part}"
        + (f", means over {samples} outputs each" if samples > 1 else "")
    )
    for name, spec in specs.items():
        typer.echo(f"  {name}: {spec['text']}")


def _number(found: Mapping[str, Any] | None) -> str:
    return "–" if found is None or found["mean"] is None else f"{found['mean']:.4f}"
