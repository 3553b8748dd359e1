"""`maskgit-sr assets`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from maskgit_sr.cli.messages import progress, reporting
from maskgit_sr.errors import UserError

assets = typer.Typer(
    help="List the weights of metrics, which are other people's, or download them.",
    invoke_without_command=True,
)


@assets.callback()
def listing(context: typer.Context) -> None:
    """List the weights of metrics, which are other people's, or download them (`get`)."""
    if context.invoked_subcommand is not None:
        return
    with reporting():
        from maskgit_sr import assets as library

        width = max(map(len, library.KNOWN))
        for name, asset in library.KNOWN.items():
            path = library.located(name)
            where = f"{_size(path):>8}  {path.parent}" if path else f"{'–':>8}  absent"
            typer.echo(f"{name:{width}}  {where}")
            typer.echo(f"    for {asset.use}; licence: {asset.licence}")
            for address in [source.url for source in asset.sources] or [asset.origin]:
                typer.echo(f"    {address}")
        typer.echo(f"'maskgit-sr assets get' downloads to {library.cache_dir()}")


@assets.command()
def get(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Files, or metrics or protocols whose files are meant, or 'all'. "
            "(default: LPIPS and NIQE)",
        ),
    ] = None,
) -> None:
    """Download weights of metrics from their publishers, check and convert them."""
    with reporting():
        from maskgit_sr import assets as library
        from maskgit_sr.convert import networks

        chosen = dict.fromkeys(file for name in names or library.DEFAULT for file in _files(name))
        for file in chosen:
            _check_converter(file)
        for file in chosen:
            with progress() as bars:
                bar = bars.add_task(file, total=None, speed="")

                def told(part: str, done: int, total: int, bars=bars, bar=bar) -> None:  # type: ignore[no-untyped-def]
                    speed = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
                    bars.update(bar, description=part, completed=done, total=total, speed=speed)

                path, made = library.get(file, networks.convert, told)
            typer.echo(f"{path} ({_size(path)}{'' if made else ', was there already'})")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _check_converter(file: str) -> None:
    """Raises UserError if a file is to be made by PyTorch, which is not there; asked at once."""
    from maskgit_sr import assets as library

    asset = library.KNOWN[file]
    lacking = importlib.util.find_spec("torch") is None and library.located(file) is None
    if lacking and any(source.name.endswith((".pth", ".pt")) for source in asset.sources):
        raise UserError(
            f"{file}: is made of the publisher's file by PyTorch: pip install 'maskgit-sr[convert]'"
        )


def _files(name: str) -> tuple[str, ...]:
    """Returns the files that a name of a file, metric or protocol stands for."""
    from maskgit_sr import assets as library

    found = [file for file in library.KNOWN if name in (file, file.partition(".")[0])]
    if name == "all":
        found = [file for file, asset in library.KNOWN.items() if asset.sources]
    if not found:
        from maskgit_sr.metrics.protocols import PROTOCOLS
        from maskgit_sr.metrics.spec import SPECS

        metrics = PROTOCOLS[name].metrics if name in PROTOCOLS else (name,)
        if not set(metrics) <= SPECS.keys():
            known = ", ".join(file.partition(".")[0] for file in library.KNOWN)
            raise UserError(
                f"assets: expected all, a metric, a protocol or one of {known}, found '{name}'"
            )
        found = [file for metric in metrics for file in SPECS[metric].weights]
    return tuple(found)
