"""`maskgit-sr upscale`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskgit_sr import DEFAULT_MODEL
from maskgit_sr.cli import options
from maskgit_sr.cli.messages import only_our_lines, progress, reporting, say
from maskgit_sr.errors import UserError, failure, line, out_of_memory, printable
from maskgit_sr.inference.options import check_consistent, parse, split

if TYPE_CHECKING:
    from rich.progress import Progress

    from maskgit_sr.images import Picture
    from maskgit_sr.images.files import Job
    from maskgit_sr.inference.results import Restoration

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
        typer.Option(metavar="png|jpg|webp|tif", help="Format of outputs in a folder: png."),
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(help="Appended to names. (default: none, _x4 beside the input)"),
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
            options.check_lossless(files.outputs(job.target)[0] for job in todo)
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
        restored, failed = 0, len(passed.problems)
        with progress() as bars:
            bar = bars.add_task("", total=len(todo), speed="")
            for number, job in enumerate(todo):
                name = printable(job.source.name)[:30]
                bars.update(bar, description=name, completed=number)
                try:
                    meter = _meter(bars, bar, number)
                    _restore(upscaler, job, chosen, meter, samples or 0, skip_existing)
                except Exception as error:  # whatever it is, the other images can do without it
                    told = failure(error, f"{job.source}")
                    if len(jobs) == 1:  # a defect keeps its traceback
                        raise UserError(told) if out_of_memory(error) else error from None
                    # a mistake names its file, which may be the output
                    say(line(error) if isinstance(error, UserError) else told)
                    failed += 1
                else:
                    restored += 1
            bars.update(bar, completed=len(todo))
        if len(jobs) > 1:
            skipped = len(jobs) - len(todo)
            counts = f"{restored} restored, {failed} failed"
            typer.echo(counts + (f", {skipped} skipped" if skipped else ""))
        else:
            for path in files.outputs(jobs[0].target, samples or 0):
                typer.echo(f"{path}" if todo else f"{path}: exists, skipped")
        if failed:
            raise typer.Exit(1)


def _restore(
    upscaler: Any,
    job: Job,
    chosen: dict[str, Any],
    tiles: Callable[[int, int], None],
    samples: int,
    skip_existing: bool,
) -> None:
    """Writes the outputs of an image, but none that exists where `skip_existing`."""
    from maskgit_sr import images, paths
    from maskgit_sr.images import colormaps, files
    from maskgit_sr.inference.deviation import StandardDeviation

    with only_our_lines():
        picture = images.read(job.source)
    for note in picture.notes:
        say(f"{job.source}: {note}")
    # before the restoration, which may take minutes
    images.check_target(picture, job.target, scale=upscaler.scale(chosen["scale"]))
    targets = files.outputs(job.target, samples)
    restored = targets[:samples] or targets
    maps = [files.confidence_path(path) for path in restored] if chosen["confidence"] else []
    for target in (*targets, *maps):
        with paths.naming(target), contextlib.suppress(FileNotFoundError):
            os.lstat(target)  # fails for a name that is too long, or a file in place of a folder
    # some of the samples alone give no map, so that all are made again
    kept = {path for path in targets if samples and skip_existing and os.path.lexists(path)}
    spread = StandardDeviation()
    draws = _draws(upscaler, job.source, picture, samples, {"progress": tiles, **chosen})
    for path, restoration in zip(restored, draws, strict=True):
        if samples:
            spread.add(restoration.picture.color)
        if path not in kept:
            _write(restoration, path)
    if samples and targets[-1] not in kept:
        images.write(images.from_array(colormaps.deviation(spread.map())), targets[-1])


def _draws(
    upscaler: Any, source: Path, picture: Picture, samples: int, given: dict[str, Any]
) -> Iterator[Restoration]:
    """Yields the restorations of an image; a mistake is told with its name."""
    try:
        if samples:
            yield from upscaler.draws(picture, samples, **given)
        else:
            yield upscaler.restore(picture, **given)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _write(restoration: Restoration, path: Path) -> None:
    """Writes a result and its confidence map, and tells what is to be told of it."""
    from maskgit_sr import images
    from maskgit_sr.images import files

    reached = restoration.consistency
    for note in (*images.write(restoration.picture, path), *(reached.notes if reached else ())):
        say(f"{path}: {note}")
    if restoration.confidence is not None:
        height, width = restoration.picture.color.shape[:2]
        grey = images.from_confidence(restoration.confidence, height, width)
        images.write(grey, files.confidence_path(path))


def _meter(bars: Progress, bar: Any, number: int) -> Callable[[int, int], None]:
    """Returns the progress callback of an image, which counts by its share of restored tiles."""
    begin = time.monotonic()

    def tiles(done: int, total: int) -> None:
        speed = done / max(time.monotonic() - begin, 1e-3)
        # short of one, as the image is still to be written
        completed = number + min(done / max(total, 1), 0.99)
        bars.update(bar, completed=completed, speed=f"{speed:.1f} tiles/s")

    return tiles
