"""`maskgit-sr upscale`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskgit_sr import DEFAULT_MODEL
from maskgit_sr.cli import options
from maskgit_sr.cli.messages import reporting, say
from maskgit_sr.cli.restoring import Wanted, restore_all, tell_outputs
from maskgit_sr.errors import UserError
from maskgit_sr.inference.options import check_consistent, parse, split

if TYPE_CHECKING:
    from maskgit_sr.images.files import Job

MAX_SCALE = 16
COLOR_FIXES = ("adain", "wavelet", "none")


def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Pictures, folders, or patterns such as 'in/**'."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File or folder. (default: beside a single input, NAME_x4.png by scale)",
        ),
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    scale: Annotated[
        float | None,
        typer.Option(
            help=f"Output size over input size, up to {MAX_SCALE}. (default: the model's)"
        ),
    ] = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    temperature: options.Temperature = None,
    strength: options.Strength = None,
    confidence: Annotated[
        bool,
        typer.Option("--confidence", help="Also write NAME_confidence.png, bright where sure."),
    ] = False,
    consistent: options.Consistent = None,
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Write N results, NAME_1 and so on, of seeds --seed and up, and NAME_std.png, "
            "a map of their standard deviation.",
        ),
    ] = None,
    color_fix: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(COLOR_FIXES),
            help="How colours are matched to the input. (default: the method's)",
        ),
    ] = None,
    option: options.MethodOptions = None,
    format: Annotated[
        str | None,
        typer.Option(metavar="png|jpg|webp|avif|tif", help="Format of outputs in a folder: png."),
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(help="Appended to names. (default: none, _x4 beside the input)"),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(help="Of JPEG, WebP and AVIF outputs, 1 to 100. (default: 95)"),
    ] = None,
    batch: options.Batch = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave outputs that exist.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that exist.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also write a page with a slider between before and after: NAME_compare.html, "
            "or compare.html in the folder.",
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell the sizes and times of every picture.")
    ] = False,
) -> None:
    """Restore pictures, a single one or whole folders."""
    with reporting():
        if scale is not None and not 0 < scale <= MAX_SCALE:  # false for NaN too
            raise UserError(
                f"--scale: expected more than 0 and at most {MAX_SCALE}, found {scale:g}"
            )
        options.check(steps, seed, temperature, batch, device, dtype, strength)
        options.check_choice("--color-fix", color_fix, COLOR_FIXES)
        check_consistent(consistent, scale)
        # as many as `inference.deviation` can sum, and with seeds that can be asked for one by one
        options.check_number("--quality", quality, 1, 100)
        options.check_number("--samples", samples, 2, min(256, 2**32 - seed))
        given = split(
            option, steps=steps, temperature=temperature, strength=strength, color_fix=color_fix
        )

        from maskgit_sr.images import files

        # a function, as a bundle is only read if an output needs the scale for its name
        def final_scale() -> float:
            if scale is not None:
                return scale
            from maskgit_sr.inference import load

            return load.read_metadata(model).scale

        passed = files.PassedOver()
        jobs = files.plan(
            inputs,
            output,
            scale=final_scale,
            format=format,
            suffix=suffix,
            skip_existing=skip_existing,
            overwrite=overwrite,
            confidence=confidence,
            samples=samples or 0,
            passed=passed,
        )
        for told in passed.lines():
            say(told)
        todo = [job for job in jobs if not job.skipped]
        if consistent is not None:
            options.check_lossless(job.target for job in todo)
        page = _page(jobs, output) if compare else None
        if page is not None and page.exists() and not (overwrite or skip_existing):
            raise UserError(f"{page}: exists already; use --overwrite or --skip-existing")
        if quality is not None and todo:
            options.check_lossy(job.target for job in todo)
        if todo:
            import maskgit_sr

            upscaler = maskgit_sr.load(model, batch=batch, device=device, dtype=dtype)
            chosen = {"confidence": confidence, **parse(given, upscaler)}
            checked = upscaler.options(**chosen)  # before any image is decoded
            if samples is not None:
                upscaler.check_stochastic(checked)
            chosen |= {"scale": scale, "seed": seed}
            if consistent is not None:
                chosen |= {"consistent": consistent}
            wanted = Wanted(chosen, samples or 0, quality, skip_existing, verbose)
        restored, failed = 0, len(passed.problems)
        for job in jobs:
            if job.skipped:
                tell_outputs(job, samples or 0, terminal=len(jobs) == 1)
        if todo:
            restored, more = restore_all(upscaler, todo, wanted)
            failed += more
        if page is not None:
            _write_page(page, jobs, samples or 0, Path(model).stem)
        skipped = len(jobs) - len(todo)
        if len(jobs) > 1 or skipped:
            counts = f"{restored} restored, {failed} failed"
            say(counts + (f", {skipped} skipped" if skipped else ""))
        if failed:
            raise typer.Exit(1)


def _page(jobs: Sequence[Job], output: str | None) -> Path:
    """Returns the path of the page of --compare."""
    first = jobs[0].target
    if len(jobs) == 1:
        return first.with_name(f"{first.stem}_compare.html")
    assert output is not None  # several inputs have a folder
    return Path(output) / "compare.html"


def _write_page(path: Path, jobs: Sequence[Job], samples: int, model: str) -> None:
    """Writes the page of those images that were restored, now or before, if there are any."""
    from maskgit_sr.evaluation.report import compare
    from maskgit_sr.images import files

    scenes = []
    for job in jobs:
        targets = files.outputs(job.target, samples)
        numbered = [f"result {number + 1}" for number in range(samples)]
        labels = [*numbered, "deviation"] if samples else ["restored"]
        shown = dict(zip(labels, targets, strict=True))
        outputs = {label: file for label, file in shown.items() if file.exists()}
        confidence = files.confidence_path(targets[0])
        maps = {"confidence": confidence} if confidence.exists() else {}
        if outputs:
            scenes.append(compare.Scene(job.source, outputs, maps))
    if scenes:
        compare.write(path, scenes, model)
        say(f"{path}: before and after")
