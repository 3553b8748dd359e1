"""`maskgit-sr score` and `maskgit-sr evaluate`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskgit_sr import DEFAULT_MODEL
from maskgit_sr.cli import options, results
from maskgit_sr.cli.messages import bar, plain_table, reporting, say, show
from maskgit_sr.errors import UserError
from maskgit_sr.inference.options import check_consistent, parse, split

if TYPE_CHECKING:
    from maskgit_sr.images.pairing import Entry

_HR = typer.Option("--hr", help="Folder (or file) of references.")
_LR = typer.Option("--lr", help="Folder (or file) of the inputs.")
_PROTOCOL = typer.Option(
    metavar="realsrt|osediff|classical|sr3|ntire", help="What is measured, and how."
)
_METRICS = typer.Option(help="Other metrics than the protocol's: names with commas.")
_BORDER = typer.Option(help="Pixels that PSNR and SSIM cut from each side.")
_CROP = typer.Option(help="Score a square of this side from the centre; 0: all.")
_CROP_TO_MIN = typer.Option(
    "--crop-to-min", help="Where SR and HR differ in size, cut both at the right and bottom."
)
_OUTPUT = typer.Option("--output", "-o", metavar="JSON", help="Write all scores to this file.")
_REPORT = typer.Option(metavar="DIR", help="Write a page with scores and pictures.")


def score(
    sr: Annotated[
        list[str] | None,
        typer.Option(
            "--sr",
            help="Folder (or file) of outputs of any tool; repeated: several outputs an image.",
        ),
    ] = None,
    hr: Annotated[str | None, _HR] = None,
    lr: Annotated[str | None, _LR] = None,
    protocol: Annotated[str, _PROTOCOL] = "realsrt",
    metrics: Annotated[str | None, _METRICS] = None,
    border: Annotated[int | None, _BORDER] = None,
    crop: Annotated[int | None, _CROP] = None,
    crop_to_min: Annotated[bool, _CROP_TO_MIN] = False,
    output: Annotated[Path | None, _OUTPUT] = None,
    report: Annotated[Path | None, _REPORT] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", help="Compare two files of scores, pair by pair."),
    ] = None,
) -> None:
    """Score pictures that any tool has made, or compare two files of scores."""
    with reporting():
        if compare is not None:
            if sr or (hr, lr) != (None, None):
                raise UserError("--compare: takes two files of scores, and no --sr, --hr or --lr")
            _compare(*compare)
            return
        if not sr:
            raise UserError("--sr: expected a folder of outputs, found none")
        from maskgit_sr.evaluation import evaluator

        chosen = results.protocol(protocol, metrics, border, crop)
        entries, problems = _matched(sr, hr, lr)
        made = Path(sr[0]).resolve()  # resolved, as "." has no name
        result = results.score(
            entries,
            evaluator.from_files(entries),
            chosen,
            system=made.name if made.is_dir() else made.stem,
            source={"sr": ", ".join(sr), "hr": hr, "lr": lr}
            | ({"samples": len(sr)} if len(sr) > 1 else {}),
            samples=len(sr),
            problems=problems,
            crop_to_min=crop_to_min,
        )
        raise typer.Exit(results.finish(result, entries, output, report))


def evaluate(
    lr: Annotated[str, _LR],
    hr: Annotated[str | None, _HR] = None,
    model: options.Model = DEFAULT_MODEL,
    protocol: Annotated[str, _PROTOCOL] = "realsrt",
    metrics: Annotated[str | None, _METRICS] = None,
    border: Annotated[int | None, _BORDER] = None,
    crop: Annotated[int | None, _CROP] = None,
    output: Annotated[Path | None, _OUTPUT] = None,
    report: Annotated[Path | None, _REPORT] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the restored pictures.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Instead: measure what the confidence foretells."),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Instead: a study of the method; realsrt: parts or steps."
        ),
    ] = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    temperature: options.Temperature = None,
    consistent: options.Consistent = None,
    option: options.MethodOptions = None,
    samples: Annotated[
        int, typer.Option(help="Outputs for each picture, by seeds from --seed on.")
    ] = 1,
    limit: Annotated[int | None, typer.Option(help="Only the first so many pictures.")] = None,
    batch: options.Batch = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Restore pictures with a model and score them."""
    with reporting():
        options.check(steps, seed, temperature, batch, device, dtype)
        options.check_number("--limit", limit, 1)
        check_consistent(consistent)
        options.check_number("--samples", samples, 1)
        options.check_number("--seed", seed + samples - 1, 0, 2**32 - 1)
        given = split(option, steps=steps, temperature=temperature)
        if hr is None and (calibration or ablation):
            raise UserError("--hr: is needed for --calibration and --ablation")
        if consistent is not None and calibration is not None:
            raise UserError("--consistent: changes no token, so expected no --calibration")
        import maskgit_sr

        chosen = results.protocol(protocol, metrics, border, crop)
        entries, problems = _matched(None, hr, lr)
        entries = entries[:limit]
        # after the pairing, since it loads JAX and the weights: a wrong path is told at once
        upscaler = maskgit_sr.load(model, batch=batch, device=device, dtype=dtype)
        own = parse(given, upscaler)
        checked = upscaler.options(**own)  # before any image is decoded
        if samples > 1:
            upscaler.check_stochastic(checked)
        if samples > 1 and save is not None:
            raise UserError("--save: keeps one output for a picture, found --samples")
        if calibration is not None:
            _calibrate(upscaler, entries, calibration, {"seed": seed, **own})
            return

        source = {"lr": lr, "hr": hr, "model": model}

        def run(changed: Mapping[str, Any], system: str, keep: Path | None) -> dict[str, Any]:
            wanted = {"seed": seed, "consistent": consistent, **own, **changed}
            more: Any = {"system": system, "source": source, "problems": problems}
            more["samples"] = samples
            return results.restore_and_score(upscaler, entries, chosen, wanted, keep, **more)

        def references() -> list[dict[str, Any]]:
            return results.score_references(upscaler, entries, chosen, seed, source)

        if ablation is not None:
            from maskgit_sr.evaluation import restoring

            _ablate(run, restoring.study(upscaler.method, ablation), output, references)
            return
        # the page is made when all is scored: until then its images are on disk, not in memory
        with tempfile.TemporaryDirectory() as folder:
            keep = save or (Path(folder) if report is not None else None)
            result = run({}, Path(model).stem, keep)
            raise typer.Exit(results.finish(result, entries, output, report, keep, references()))


def _matched(
    sr: Sequence[str] | None, hr: str | None, lr: str | None
) -> tuple[list[Entry], list[str]]:
    """Returns `pairing.match` of the folders and says what it passed over."""
    from maskgit_sr.images import files, pairing

    passed = files.PassedOver()
    if sr:
        entries, problems = pairing.match_samples(sr, hr, lr, passed)
    else:
        entries, problems = pairing.match(None, hr, lr, passed)
    for told in passed.lines():
        say(told)
    return entries, problems


def _compare(first: Path, second: Path) -> None:
    from maskgit_sr.evaluation import evaluator, statistics

    loaded = [evaluator.load(path) for path in (first, second)]
    found = statistics.compare(*loaded)
    names = [result["system"] for result in loaded]
    if names[0] == names[1]:
        names = [str(first), str(second)]  # two runs of one system differ by their files
    table = plain_table("", *names, "difference [95 %]", "second better on", "p", "better")
    for metric, row in found.items():
        interval = "" if row["low"] is None else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
        table.add_row(
            metric,
            f"{row['first']:.4f}",
            f"{row['second']:.4f}",
            f"{row['difference']:+.4f}{interval}",
            f"{row['wins']} of {row['n']}",
            "–" if row["p"] is None else f"{row['p']:.3g}",
            {"first": names[0], "second": names[1], "neither": "neither"}[row["better"]],
        )
    show(table)
    typer.echo("p: two-sided Wilcoxon signed-rank test over pictures; better: p < 0.05")


def _calibrate(
    upscaler: Any, entries: Sequence[Entry], folder: Path, options: Mapping[str, Any]
) -> None:
    from maskgit_sr.evaluation import calibration

    with bar("calibration", len(entries)) as move:
        found, problems = calibration.measure(upscaler, entries, options, progress=move)
    for line in problems:
        say(line)
    typer.echo("\n".join(map(str, [*calibration.lines(found), *calibration.write(found, folder)])))


def _ablate(
    run: Callable[[Mapping[str, Any], str, Path | None], dict[str, Any]],
    study: Sequence[tuple[str, Mapping[str, Any]]],
    output: Path | None,
    references: Callable[[], list[dict[str, Any]]],
) -> None:
    from maskgit_sr.evaluation import evaluator

    found = [run(changed, name, None) for name, changed in study]
    for line in found[0]["problems"]:
        say(line)
    results.table(found, references())
    if output is not None:
        for result in found:
            slug = re.sub(r"[^a-z0-9]+", "-", result["system"].lower()).strip("-")
            name = f"{output.stem}-{slug}.json"
            evaluator.write(result, output.with_name(name))
        if all("steps" in changed for _, changed in study):
            from maskgit_sr.evaluation import plots

            # a line of the plot is named by what its runs share, which is all but the steps
            rest = [{k: v for k, v in changed.items() if k != "steps"} for _, changed in study]
            lines = [", ".join(map(str, options.values())) for options in rest]
            typer.echo(plots.steps(found, lines, output.with_suffix(".png")))
