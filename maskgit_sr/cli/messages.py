"""Output of every command: one line for a mistake, tables, progress; and how options are read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from maskgit_sr import errors
from maskgit_sr.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

DEVICES = ("cpu", "gpu", "tpu")
DTYPES = ("float32", "bfloat16")
_errors = Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Turns a mistake of the user into one line and an exit code."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it warns of every private TIFF tag
    with errors.one_line("maskgit-sr", {KeyboardInterrupt: 130}):
        try:
            yield
        except OSError as error:
            if not error.filename:  # about no file of the user's: a defect
                raise
            raise UserError(errors.line(error)) from None


def show(table: Table) -> None:
    """Prints a table; a pipe gets whole lines instead of the 80 columns that are assumed of it."""
    console = Console(emoji=False, markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(emoji=False, markup=False, highlight=False, width=200)
    console.print(table)


def plain_table(*columns: str) -> Table:
    """Returns a table without rules, its first column aligned left, the others right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def say(line: str) -> None:
    _errors.print(f"maskgit-sr: {errors.printable(line)}", soft_wrap=True)


def check_choice(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise UserError(f"{option}: expected one of {', '.join(choices)}, found '{value}'")


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Returns a method's own options by name, from the texts NAME=VALUE of ``--option``.

    A value is read as JSON (``4``, ``0.5``, ``true``), or else as the string that it is. Whether
    the method has the option, and takes the value, is for `Method.options` to say.

    Raises:
        UserError: a text without a name or an equals sign, or a name given twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--option: expected NAME=VALUE, found '{text}'")
        if name in options:
            raise UserError(f"--option: expected {name} once, found it twice")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def progress() -> Progress:
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
