"""`maskgit-sr models`: the list, a model's card, and published weights for the user's library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from maskgit_sr.cli import catalogue
from maskgit_sr.cli.messages import reporting


class _Models(TyperGroup):
    """`models` alone and `models NAME` are the hidden command `show`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in ("get", "-h", "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


models = typer.Typer(
    cls=_Models,
    help="List the models, print the card of one ('models NAME'), or get published weights.",
)
models.command("show", hidden=True)(catalogue.models)


@models.command()
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Model, such as realsrt-base.")],
    source: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The file that its page offers.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the kept model.")] = False,
) -> None:
    """Tell where a model's published weights are, or convert and keep the downloaded file."""
    with reporting():
        from maskgit_sr.inference import library

        known = library.published(name)
        if source is None:
            typer.echo(
                f"{name}: download {known.file} (licence: {known.licence}) from {known.page}"
            )
            typer.echo(f"then: maskgit-sr models get {name} {known.file}")
            return
        from maskgit_sr.convert import realsrt

        convert = {"realsrt-base": realsrt.convert}[name]
        path, summary = library.keep(name, source, convert, overwrite=overwrite)
        typer.echo(f"{path} ({summary['parameters']:,} parameters); use it by -m {name}")
