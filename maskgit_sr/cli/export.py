"""`maskgit-sr export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskgit_sr import DEFAULT_MODEL
from maskgit_sr.cli import options
from maskgit_sr.cli.messages import progress, reporting
from maskgit_sr.inference.options import split

FORMATS = ("savedmodel", "stablehlo", "onnx")


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    format: Annotated[
        str,
        typer.Option(
            metavar="|".join(FORMATS), help="For TensorFlow, for JAX, or for ONNX runtimes."
        ),
    ] = "savedmodel",
    model: options.Model = DEFAULT_MODEL,
    steps: options.Steps = None,
    option: options.MethodOptions = None,
    dtype: Annotated[
        str, typer.Option(metavar="|".join(options.DTYPES), help="Precision of the network.")
    ] = "float32",
    max_batch: Annotated[int, typer.Option(help="Most tiles in one call of the network.")] = 8,
    max_pixels: Annotated[
        int, typer.Option(help="Pixels of the largest image that a SavedModel accepts.")
    ] = 16_000_000,
    webp: Annotated[
        bool,
        typer.Option(help="Decode WebP in the SavedModel, which then needs TensorFlow 2.20."),
    ] = True,
) -> None:
    """Write a model as an artifact that needs nothing of this package, and check it."""
    with reporting():
        options.check_choice("--format", format, FORMATS)
        options.check_choice("--dtype", dtype, options.DTYPES)
        options.check_number("--max-batch", max_batch, 1)
        options.check_number("--max-pixels", max_pixels, 1)
        options.check_number("--steps", steps, 1)
        given = split(option, steps=steps)
        # after the checks, since it imports JAX: a mistake is told at once
        from maskgit_sr.export.artifact import export as write

        with progress() as bars:
            bar = bars.add_task("", total=3, speed="")
            stages = iter(range(3))  # a stage is told when it begins, so the count lags by one
            info = write(
                model,
                format,
                output,
                options=given,
                dtype=dtype,
                max_batch=max_batch,
                max_pixels=max_pixels,
                webp=webp,
                progress=lambda stage: bars.update(bar, description=stage, completed=next(stages)),
            )
        for size, found in info["checked"].items():
            line = f"{size}: {found['within_1']:.3%} of samples within 1/255 of the upscaler's"
            if "tokens" in found:
                line += f", {found['tokens']:.3%} of tokens equal"
            if "largest" in found:
                line += f", at most {found['largest']:.1e} apart"
            typer.echo(line)
        size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        typer.echo(f"{output} ({size / 1e6:.1f} MB)")
