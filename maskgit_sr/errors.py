"""The exception for users' mistakes, and its report in one line by a command."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping


class UserError(ValueError):
    """A mistake in the request, not in the program.

    The message is one line that names the file or option, what was expected and what was found.
    The command line prints it without a traceback and exits with code 2.
    """


@contextlib.contextmanager
def one_line(
    command: str, codes: Mapping[type[BaseException], int] | None = None
) -> Iterator[None]:
    """Ends the process with the line ``COMMAND: message`` on stderr after a user's mistake.

    Args:
        command: the name that the line begins with.
        codes: exit codes of other exceptions that end the command in one line; the first class
            that fits decides. Exceptions not listed keep their traceback: they are defects.

    Raises:
        SystemExit: with code 2 for a `UserError`, else with that of `codes`.
    """
    known: dict[type[BaseException], int] = {UserError: 2, **(codes or {})}
    kinds = tuple(known)
    try:
        yield
    except kinds as error:
        # A KeyboardInterrupt has no message of its own.
        interrupted = isinstance(error, KeyboardInterrupt)
        print(f"{command}: {'interrupted' if interrupted else line(error)}", file=sys.stderr)
        code = next(code for kind, code in known.items() if isinstance(error, kind))
        raise SystemExit(code) from None


def line(error: BaseException) -> str:
    """Returns the message of an exception as one printable line."""
    # str(OSError) begins with "[Errno 2]"; a user needs the file and the reason.
    if isinstance(error, OSError) and error.filename and error.strerror:
        return printable(f"{error.filename}: {error.strerror}")
    return printable(str(error) or repr(error))


def printable(text: str) -> str:
    """Returns `text` with line breaks, escape sequences and the like replaced by question marks.

    File names may hold any of them.
    """
    return "".join(c if c.isprintable() else "?" for c in text)
