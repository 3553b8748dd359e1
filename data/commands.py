"""What the data commands share: one-line errors and a progress bar."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskgit_sr.errors import UserError, one_line

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, name: str, text: str):
        super().__init__(
            prog=f"python -m {name}",
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.name = name

    def error(self, message: str) -> NoReturn:
        with one_line(self.name):
            raise UserError(message)


def run(name: str, command: Callable[[list[str] | None], int]) -> NoReturn:
    """Runs a command; bad input (ValueError, OSError) is one line and exit code 2."""
    with one_line(name, {ValueError: 2, OSError: 2, KeyboardInterrupt: 130}):
        sys.exit(command(None))


def progress(items: Iterable[T], total: int, what: str, done: int = 0) -> Iterator[T]:
    """Passes `items` on behind a bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)
