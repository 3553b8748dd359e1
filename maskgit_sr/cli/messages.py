"""Terminal output of the commands: one line for a mistake, tables, progress bars."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from maskgit_sr import errors
from maskgit_sr.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

# No markup or emoji codes: file names may look like them. On stderr: stdout is for results.
_errors = Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Ends the command with one line and exit code 2 after a user's mistake, 130 after Ctrl-C."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it warns of every private TIFF tag
    with errors.one_line("maskgit-sr", {KeyboardInterrupt: 130}):
        try:
            yield
        except OSError as error:
            if not error.filename:  # about no file of the user's: a defect
                raise
            raise UserError(errors.line(error)) from None


@contextlib.contextmanager
def only_our_lines() -> Iterator[None]:
    """Drops what is written to stderr meanwhile: libtiff complains there about damaged files.

    Of the whole process, so for short calls only.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def show(table: Table) -> None:
    """Prints a table; a pipe, for which Rich assumes 80 columns, gets whole lines."""
    width = None if sys.stdout.isatty() else 200
    Console(emoji=False, markup=False, highlight=False, width=width).print(table)


def plain_table(*columns: str) -> Table:
    """Returns a table without rules, its first column aligned left, the others right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def say(line: str) -> None:
    # soft_wrap: a message stays one line on a narrow terminal
    _errors.print(f"maskgit-sr: {errors.printable(line)}", soft_wrap=True)


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


@contextlib.contextmanager
def bar(name: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar and yields its update function of (images done, images in all)."""
    with progress() as bars:
        task = bars.add_task(errors.printable(name)[:30], total=total, speed="")
        yield lambda done, _: bars.update(task, completed=done)
