"""The `maskgit-sr` command: options and messages; the library does the work.

Exit codes: 0 all done; 1 some pictures of a batch failed; 2 a mistake in the request, told in one
line; 130 interrupted. Anything else is a defect of the program and keeps its traceback.

JAX, OpenCV and Pillow are imported by the commands that need them, so that --help is instant.
"""

import typer

from maskgit_sr.cli import catalogue, export, scores, upscale

app = typer.Typer(
    help="Restore and upscale photographs with masked-token models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a defect keeps Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(upscale.upscale)
app.command()(scores.score)
app.command()(scores.evaluate)
app.command()(export.export)
app.command()(catalogue.models)
app.add_typer(catalogue.convert, name="convert")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="maskgit-sr")
