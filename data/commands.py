"""Helpers of the data commands: degradation options, one-line errors and a progress bar."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data import degradations
from maskgit_sr.errors import UserError, one_line

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """Argument parser that reports a mistake in one line and exits with code 2."""

    def __init__(self, name: str, text: str):
        super().__init__(
            prog=f"python -m {name}",
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.name = name

    def add_degradation_options(self) -> None:
        """Adds --preset, --seed and --scale."""
        what = f"what is drawn: {', '.join(degradations.PRESETS)}, or several, 'web*0.7;lens*0.3'"
        self.add_argument("--preset", type=preset, default="realesrgan", help=what)
        self.add_argument("--seed", type=seed, default=0)
        self.add_argument("--scale", type=int, default=4, choices=(2, 3, 4))

    def error(self, message: str) -> NoReturn:
        # argparse's own message has a line of usage before it.
        with one_line(self.name):
            raise UserError(message)


def preset(text: str) -> str:
    """Returns the preset that an option gives, as it is.

    Raises:
      ArgumentTypeError: see `degradations.named`.
    """
    try:
        degradations.named(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def seed(text: str) -> int:
    """Returns the seed that an option gives.

    Raises:
      ValueError: not a number; argparse then puts this function's name into its message.
      ArgumentTypeError: a negative number.
    """
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, found {number}")
    return number


def run(name: str, command: Callable[[list[str] | None], int]) -> NoReturn:
    """Runs a command; bad input (ValueError, OSError) is one line and exit code 2."""
    # 130 is what a shell reports of a process that SIGINT has ended.
    with one_line(name, {ValueError: 2, OSError: 2, KeyboardInterrupt: 130}):
        sys.exit(command(None))


def progress(items: Iterable[T], total: int, what: str, done: int = 0) -> Iterator[T]:
    """Yields `items` as they come, with a progress bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)
