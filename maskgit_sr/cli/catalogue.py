"""`maskgit-sr models` and `maskgit-sr convert`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from maskgit_sr.cli.messages import plain_table, reporting, show
from maskgit_sr.errors import UserError

convert = typer.Typer(help="Turn published checkpoints into bundles.", no_args_is_help=True)


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Print the card of this model.")
    ] = None,
) -> None:
    """List the models that come with the package, or print the card of one."""
    with reporting():
        import maskgit_sr

        shipped = {info.name: info for info in maskgit_sr.list_models()}
        if name is None:
            _print_models(shipped.values())
        elif name in shipped:
            typer.echo(shipped[name].card.rstrip())
        else:
            names = ", ".join(shipped)
            raise UserError(f"models: expected one of {names}, found '{name}'")


@convert.command("realsrt")
def convert_realsrt(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Published checkpoint.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Bundle to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
) -> None:
    """Convert a RealSRT checkpoint."""
    with reporting():
        _check_paths(source, target, overwrite)
        from maskgit_sr.convert import realsrt

        _print_summary(realsrt.convert(source, target, overwrite=overwrite))


@convert.command("compact")
def convert_compact(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="FOLDER/NAME of NAME.param and NAME.bin.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Bundle to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
) -> None:
    """Convert a compact network of Real-ESRGAN, as ncnn files."""
    with reporting():
        _check_paths(Path(f"{source}.param"), target, overwrite)
        from maskgit_sr.convert import compact

        _print_summary(compact.convert(source, target, overwrite=overwrite))


@convert.command("sr3")
def convert_sr3(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Checkpoint, ..._gen.pth.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Bundle to write.")],
    config: Annotated[
        str, typer.Option(help="Configuration that it is of: 16_128 or 64_512.")
    ] = "16_128",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
) -> None:
    """Convert a checkpoint of SR3's public re-implementation."""
    with reporting():
        _check_paths(source, target, overwrite)
        from maskgit_sr.convert import sr3

        found = _published(sr3.PUBLISHED, config)
        _print_summary(sr3.convert(source, target, overwrite=overwrite, config=found))


@convert.command("srmap")
def convert_srmap(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Generator: ema_latest.pt or model_latest.pt.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Bundle to write.")],
    config: Annotated[str, typer.Option(help="Network that it is of: x4 or x2.")] = "x4",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
) -> None:
    """Convert a generator of SRMAP's public code."""
    with reporting():
        _check_paths(source, target, overwrite)
        from maskgit_sr.convert import srmap

        found = _published(srmap.PUBLISHED, config)
        _print_summary(srmap.convert(source, target, overwrite=overwrite, config=found))


@convert.command("maskgit")
def convert_maskgit(
    tokenizer: Annotated[
        Path, typer.Argument(metavar="TOKENIZER", help="Published tokenizer, msgpack.")
    ],
    transformer: Annotated[
        Path, typer.Argument(metavar="TRANSFORMER", help="Published transformer, msgpack.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Bundle to write.")],
    method: Annotated[str, typer.Option(help="Method of the bundle.")] = "sr_maskgit_inpainting",
    grid: Annotated[
        int, typer.Option(help="Side of the token grid: 32, or 16 for the 256x256 files.")
    ] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
) -> None:
    """Convert MaskGIT's checkpoints of tokenizer and transformer."""
    with reporting():
        for source in (tokenizer, transformer):
            _check_paths(source, target, overwrite)
        from maskgit_sr.convert import maskgit

        sizes = maskgit.published(grid)
        summary = maskgit.convert(
            tokenizer, transformer, target, method=method, sizes=sizes, overwrite=overwrite
        )
        _print_summary(summary)


@convert.command("iter")
def convert_iter(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Published ITER_x4.pth or ITER_x2.pth.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Bundle to write.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Published ITER_swinvqgan.pth, if SRC has no tokenizer.")
    ] = None,
    scale: Annotated[int, typer.Option(help="Scale of SRC: 4 or 2.")] = 4,
    window: Annotated[
        int | None, typer.Option(help="Largest window in LR pixels; 512 HR pixels by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.")] = False,
) -> None:
    """Convert ITER's checkpoints; the published weights are for non-commercial use only."""
    with reporting():
        for path in filter(None, (source, tokenizer)):
            _check_paths(path, target, overwrite)
        from maskgit_sr.convert import iter as converter

        summary = converter.convert(
            source, target, tokenizer=tokenizer, scale=scale, window=window, overwrite=overwrite
        )
        _print_summary(summary)


def _check_paths(source: Path, target: Path, overwrite: bool) -> None:
    # before the imports of the conversions, which bring JAX and take seconds
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists already; use --overwrite")


def _published(configs: Mapping[str, Any], name: str) -> Any:
    if name not in configs:
        raise UserError(f"--config: expected one of {', '.join(configs)}, found {name!r}")
    return configs[name]


def _print_summary(summary: dict[str, Any]) -> None:
    for key, value in summary.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {number}" for name, number in value.items())
        typer.echo(f"{key}: {value}")


def _print_models(shipped: Iterable[Any]) -> None:
    names = ("name", "method", "scale", "provides", "params", "size", "licence", "scores")
    table = plain_table(*names)
    for column in (1, 3, 6, 7):
        table.columns[column].justify = "left"
    for info in shipped:
        table.add_row(
            info.name,
            info.method,
            f"x{info.scale}",
            ", ".join(info.provides) or "–",
            f"{info.parameters / 1e6:.1f} M",
            f"{info.size_bytes / 1e6:.1f} MB",
            info.licence,
            "\n".join(f"{key} {value:.4g}" for key, value in info.scores.items()),
        )
    show(table)
