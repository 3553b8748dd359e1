"""The `maskgit-sr` command: options and messages; the library does the work.

Exit codes: 0 all done; 1 some pictures of a batch failed; 2 a mistake in the request, told in one
line; 130 interrupted. Anything else is a defect of the program and keeps its traceback.

JAX, OpenCV and Pillow are imported by the commands that need them, so that --help is instant.
"""

import atexit
import gc
from typing import Annotated

import typer

from maskgit_sr import __version__, errors
from maskgit_sr.cli import (
    assets,
    catalogue,
    classify,
    engines,
    export,
    library,
    scores,
    study,
    upscale,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a defect keeps Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(upscale.upscale)
app.command()(scores.score)
app.command()(scores.evaluate)
app.command()(classify.classify)
app.command()(study.study)
app.command("fool-rate")(study.fool_rate)
app.command()(export.export)
app.command(context_settings=engines.PASS_ON)(engines.serve)
app.command(context_settings=engines.PASS_ON)(engines.batch)
app.add_typer(library.models, name="models")
app.add_typer(catalogue.convert, name="convert")
app.add_typer(assets.assets, name="assets")


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"maskgit-sr {__version__}")
        raise typer.Exit()


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Restore and upscale photographs with masked-token models."""


def main() -> None:
    """Entry point of the console script."""
    errors.any_text()  # here too, as the commands' own begins after --help and usage errors
    # Imports make 140,000 objects that live to the end. The collector would walk them again and
    # again, and all once more at exit: an eighth of a small picture's time.
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
    app(prog_name="maskgit-sr")
