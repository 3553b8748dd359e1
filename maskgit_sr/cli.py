"""The `maskgit-sr` command: options and messages; the library does the work.

Exit codes: 0 all done; 1 some pictures of a batch failed; 2 a mistake in the request, told in one
line; 130 interrupted. Anything else is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from maskgit_sr.errors import UserError

# JAX, OpenCV and Pillow are imported by the commands that need them, so that --help is instant.
if TYPE_CHECKING:
    from rich.progress import Progress

    from maskgit_sr.inference.files import Job

DEFAULT_MODEL = "realsrt-nano"
MAX_SCALE = 16
COLOR_FIXES = ("adain", "wavelet", "none")
DEVICES = ("cpu", "gpu", "tpu")
DTYPES = ("float32", "bfloat16")

app = typer.Typer(
    help="Restore and upscale photographs with masked-token models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
convert = typer.Typer(help="Turn published checkpoints into bundles.", no_args_is_help=True)
app.add_typer(convert, name="convert")
_errors = Console(stderr=True, highlight=False, markup=False, emoji=False)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="maskgit-sr")


@app.command()
def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Pictures, folders, or patterns such as 'in/**'."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="File or folder. (default: NAME_x4.png beside a single input)"
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name of a bundle, see 'models', or its path.")
    ] = DEFAULT_MODEL,
    scale: Annotated[
        float, typer.Option(help=f"Output size over input size, up to {MAX_SCALE}.")
    ] = 4.0,
    steps: Annotated[
        int | None, typer.Option(help="Decoding steps. (default: the model's)")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same output.")] = 0,
    temperature: Annotated[float, typer.Option(help="Randomness of the tokens, 0 for none.")] = 0.0,
    confidence: Annotated[
        bool,
        typer.Option("--confidence", help="Also write NAME_confidence.png, bright where sure."),
    ] = False,
    color_fix: Annotated[
        str,
        typer.Option(metavar="|".join(COLOR_FIXES), help="How colours are matched to the input."),
    ] = "adain",
    format: Annotated[
        str | None,
        typer.Option(metavar="png|jpg|webp|tif", help="Format of outputs in a folder: png."),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="Appended to names. (default: none, _x4 beside the input)")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Tiles per device call. (default: by device)")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="|".join(DEVICES), help="Where to run. (default: the best there is)"),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="|".join(DTYPES), help="Precision. (default: by device)"),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave outputs that exist.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that exist.")
    ] = False,
) -> None:
    """Restore pictures, a single one or whole folders."""
    with _reporting():
        _check_options(scale, steps, seed, temperature, batch)
        _check_choice("--color-fix", color_fix, COLOR_FIXES)
        _check_choice("--device", device, DEVICES)
        _check_choice("--dtype", dtype, DTYPES)

        from maskgit_sr.inference import files

        jobs = files.plan(
            inputs,
            output,
            format=format,
            suffix=suffix,
            scale=scale,
            skip_existing=skip_existing,
            overwrite=overwrite,
            confidence=confidence,
        )
        todo = [job for job in jobs if not job.skipped]
        if todo:
            import maskgit_sr

            upscaler = maskgit_sr.load(model, batch=batch, device=device, dtype=dtype)
        options = {
            "scale": scale,
            "steps": steps,
            "seed": seed,
            "temperature": temperature,
            "color_fix": color_fix,
            "confidence": confidence,
        }
        failed = 0
        with _progress() as progress:
            bar = progress.add_task("", total=len(todo), speed="")
            meter = _Meter(progress, bar)
            for done, job in enumerate(todo):
                meter.start(done, job.source.name)
                try:
                    _restore(upscaler, job, options, meter)
                except (UserError, OSError) as error:
                    if len(jobs) == 1 or (isinstance(error, OSError) and not error.filename):
                        raise
                    _say(_one_line(error))
                    failed += 1
            progress.update(bar, completed=len(todo))
        if len(jobs) > 1:
            skipped = len(jobs) - len(todo)
            counts = f"{len(todo) - failed} restored, {failed} failed"
            typer.echo(counts + (f", {skipped} skipped" if skipped else ""))
        else:
            typer.echo(f"{jobs[0].target}" if todo else f"{jobs[0].target}: exists, skipped")
        if failed:
            raise typer.Exit(1)


@app.command()
def models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Print the card of this model.")
    ] = None,
) -> None:
    """List the models that come with the package, or print the card of one."""
    with _reporting():
        import maskgit_sr

        known = maskgit_sr.list_models()
        if name is None:
            _print_models(known)
            return
        for info in known:
            if info.name == name:
                typer.echo(info.card.rstrip())
                return
        names = ", ".join(info.name for info in known) or "none"
        raise UserError(f"models: expected one of {names}, found '{name}'")


@convert.command("realsrt")
def convert_realsrt(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Published checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Bundle to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
) -> None:
    """Convert a RealSRT checkpoint."""
    with _reporting():
        if not source.exists():
            raise UserError(f"{source}: no such file or folder")
        if target.exists() and not overwrite:
            raise UserError(f"{target}: exists already; use --overwrite")
        from maskgit_sr.convert import realsrt

        summary = realsrt.convert(source, target, overwrite=overwrite)
        for key, value in dict(summary).items():
            if isinstance(value, dict):
                value = ", ".join(f"{name} {number}" for name, number in value.items())
            typer.echo(f"{key}: {value}")


# ---------------------------------------------------------------- upscale


def _restore(upscaler: Any, job: Job, options: dict[str, Any], meter: _Meter) -> None:
    import numpy as np

    from maskgit_sr.inference import files, images

    picture = images.read(job.source)
    for note in picture.notes:
        _say(f"{job.source}: {note}")
    images.check_target(picture, job.target, scale=options["scale"])
    try:
        restoration = upscaler.restore(picture, progress=meter.tiles, **options)
    except UserError as error:
        raise UserError(f"{job.source}: {error}") from None
    for note in images.write(restoration.picture, job.target):
        _say(f"{job.target}: {note}")
    if restoration.confidence is not None:
        height, width = restoration.picture.color.shape[:2]
        large = images.resize(restoration.confidence.astype(np.float32), height, width)
        grey = np.rint(large * 255).astype(np.uint8)
        images.write(images.from_array(grey), files.confidence_path(job.target))


def _check_options(
    scale: float, steps: int | None, seed: int, temperature: float, batch: int | None
) -> None:
    if not 0 < scale <= MAX_SCALE:  # false for NaN too
        raise UserError(f"--scale: expected more than 0 and at most {MAX_SCALE}, found {scale:g}")
    if steps is not None and steps < 1:
        raise UserError(f"--steps: expected at least 1, found {steps}")
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed: expected 0 to 4294967295, found {seed}")
    if not 0 <= temperature < math.inf:
        raise UserError(f"--temperature: expected a number from 0 up, found {temperature:g}")
    if batch is not None and batch < 1:
        raise UserError(f"--batch: expected at least 1, found {batch}")


def _check_choice(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise UserError(f"{option}: expected one of {', '.join(choices)}, found '{value}'")


def _progress() -> Progress:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TimeRemainingColumn(),
        console=_errors,
        transient=True,
        disable=not _errors.is_terminal,
    )


class _Meter:
    """Feeds the progress bar: a picture counts by the share of its tiles that are done."""

    def __init__(self, progress: Progress, bar: Any) -> None:
        self._progress, self._bar = progress, bar
        self._begin = time.monotonic()
        self._pictures = self._tiles_before = self._tiles_here = 0

    def start(self, pictures: int, name: str) -> None:
        self._pictures = pictures
        self._tiles_before += self._tiles_here
        self._tiles_here = 0
        self._progress.update(self._bar, description=_printable(name)[:30], completed=pictures)

    def tiles(self, done: int, total: int) -> None:
        self._tiles_here = done
        seconds = max(time.monotonic() - self._begin, 1e-3)
        speed = (self._tiles_before + done) / seconds
        # Short of one: the picture is still to be written.
        completed = self._pictures + min(done / max(total, 1), 0.99)
        self._progress.update(self._bar, completed=completed, speed=f"{speed:.1f} tiles/s")


# ---------------------------------------------------------------- messages


@contextlib.contextmanager
def _reporting() -> Iterator[None]:
    """Turns a mistake of the user into one line and an exit code."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it warns of every private TIFF tag
    try:
        yield
    except UserError as error:
        _say(_one_line(error))
        raise typer.Exit(2) from None
    except OSError as error:
        if not error.filename:
            raise
        _say(_one_line(error))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        _say("interrupted")
        raise typer.Exit(130) from None


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _say(line: str) -> None:
    _errors.print(f"maskgit-sr: {_printable(line)}", soft_wrap=True)


def _printable(text: str) -> str:
    """One line, whatever line breaks and escape sequences a file name holds."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _print_models(known: list[Any]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("name", "method"):
        table.add_column(column, no_wrap=True)
    for column in ("scale", "params", "size"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("licence")
    table.add_column("scores")
    for info in known:
        table.add_row(
            info.name,
            info.method,
            f"x{info.scale}",
            f"{info.parameters / 1e6:.1f} M",
            f"{info.size_bytes / 1e6:.1f} MB",
            info.licence,
            "\n".join(f"{key} {value:.4g}" for key, value in info.scores.items()),
        )
    console = Console(emoji=False, markup=False, highlight=False)
    # What reads a pipe wants whole lines, not the 80 columns that are assumed of it.
    console.print(table, width=None if console.is_terminal else 200)


if __name__ == "__main__":
    main()
