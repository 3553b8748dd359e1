"""`maskgit-sr serve` and `maskgit-sr batch`: the server and the Beam engine, options and all."""

from __future__ import annotations

import typer

# their own parsers take every word, --help too: Beam's options are Beam's to know
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def serve(context: typer.Context) -> None:
    """Serve a model over HTTP (needs the extra serve)."""
    from maskgit_sr.serving import command

    raise typer.Exit(command.main(context.args, "maskgit-sr serve"))


def batch(context: typer.Context) -> None:
    """Restore folders and buckets with Apache Beam, on any engine (needs the extra beam)."""
    from maskgit_sr.batch import command

    raise typer.Exit(command.main(context.args, "maskgit-sr batch"))
