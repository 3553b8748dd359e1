"""`maskgit-sr classify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maskgit_sr.cli import options
from maskgit_sr.cli.messages import bar, plain_table, reporting, say, show
from maskgit_sr.errors import UserError
from maskgit_sr.inference.options import parse, split, table


def classify(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Photographs with labels.")],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="File name and class index, a line a photograph."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(metavar="TXT", help="Names of the sub-folders, in the order of classes."),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Converted ResNet-50. (default: as other assets)"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Also shrink the crops and restore them."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many pictures.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="JSON", help="Write all ranks.")
    ] = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    temperature: options.Temperature = None,
    option: options.MethodOptions = None,
    batch: options.Batch = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Tell the errors of a classifier on photographs, and on what a model makes of them."""
    with reporting():
        options.check(steps, seed, temperature, batch, device, dtype)
        options.check_number("--limit", limit, 1)
        given = split(option, steps=steps, temperature=temperature)
        if given and model is None:
            raise UserError(f"{next(iter(given))}: an option of --model, which is not given")
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder")
        # after the checks, since it imports JAX: a mistake is told at once
        from maskgit_sr.evaluation import classification
        from maskgit_sr.evaluation.labels import labelled
        from maskgit_sr.images.inputs import PassedOver

        network = classification.load(classifier)
        passed = PassedOver()
        entries, problems = labelled(
            folder, network.classes, labels=labels, names=classes, passed=passed
        )
        for line in passed.lines():
            say(line)
        entries = entries[:limit]
        upscaler, own, name = None, {}, ""
        if model is not None:
            import maskgit_sr

            upscaler = maskgit_sr.load(model, batch=batch, device=device, dtype=dtype)
            own, name = parse(given, upscaler), Path(model).stem
        compared = classification.systems(upscaler, name, seed, **own)
        source: dict[str, Any] = {"folder": folder}
        if upscaler is not None:  # as resolved, defaults included, so that it tells what was run
            source |= {"model": model, "seed": seed, **table(upscaler.options(**own))}
        with bar("classify", len(entries)) as move:
            result = classification.measure(
                entries, compared, network, source=source, problems=problems, progress=move
            )
        for line in result["problems"]:
            say(line)
        if output is not None:
            classification.write(result, output)
        _show(result)
        counts = result["counts"]
        done = counts["classified"]
        raise typer.Exit(0 if done == counts["of"] else 1 if done else 2)


def _show(result: dict[str, Any]) -> None:
    shown = plain_table("", "top-1 error ↓", "95 % interval", "top-5 error ↓", "95 % interval")
    for name, found in result["summary"].items():
        cells = []
        for error in found.values():
            rate, low, high = (error[key] for key in ("rate", "low", "high"))
            cells += ["–", ""] if rate is None else [f"{rate:.3f}", f"{low:.3f} – {high:.3f}"]
        shown.add_row(name, *cells)
    show(shown)
    counts = result["counts"]
    typer.echo(f"{counts['classified']} of {counts['of']} pictures classified")
    typer.echo(f"  {result['protocol']}")
    typer.echo("  intervals: Wilson's, of the pictures")
