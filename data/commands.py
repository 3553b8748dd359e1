"""What the data commands share: one-line errors, whole files, a progress bar."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
        print(f"{self.name}: {message}", file=sys.stderr)
        sys.exit(2)


def run(name: str, command: Callable[[list[str] | None], int]) -> NoReturn:
    """Runs a command; bad input (ValueError, OSError) is one line and exit code 2."""
    try:
        sys.exit(command(None))
    except (ValueError, OSError) as error:
        line = str(error).splitlines()[0] if str(error) else repr(error)
        print(f"{name}: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def write_whole(path: Path, data: bytes | str) -> None:
    """Writes a file that gets its name when it is whole; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        # File names may hold bytes that are no UTF-8.
        whole = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        partial.write_bytes(whole)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def progress(items: Iterable[T], total: int, what: str, done: int = 0) -> Iterator[T]:
    """Passes `items` on behind a bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)
