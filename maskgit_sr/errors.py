"""The exception for users' mistakes, and its report in one line by a command."""

from __future__ import annotations

import codecs
import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping

LONGEST = 500
"""Most characters of a message: a name or value in it may have any number."""


class UserError(ValueError):
    """A mistake in the request, not in the program.

    The message is one line that names the file or option, what was expected and what was found.
    The command line prints it without a traceback and exits with code 2.
    """

    def __str__(self) -> str:
        """Returns the message as one printable line of at most `LONGEST` characters."""
        return short_line(super().__str__())


@contextlib.contextmanager
def one_line(
    command: str, codes: Mapping[type[BaseException], int] | None = None
) -> Iterator[None]:
    """Ends the process with the line ``COMMAND: message`` on stderr after a user's mistake.

    Args:
        command: the name that the line begins with.
        codes: exit codes of other exceptions that end the command in one line; the first class
            that fits decides. Exceptions not listed keep their traceback: they are defects.

    Whatever the command prints, in the block and after it, can be printed: see `any_text`.

    Raises:
        SystemExit: with code 2 for a `UserError`, else with that of `codes`.
    """
    any_text()
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
        return short_line(f"{error.filename}: {error.strerror}")
    return short_line(str(error) or repr(error))


def short_line(text: str) -> str:
    """Returns `text` as a printable line; the middle of a long one is left out."""
    if len(text) > LONGEST:
        # The beginning names the file, the end what was found.
        text = f"{text[: LONGEST * 3 // 5]} ... {text[5 - LONGEST * 2 // 5 :]}"
    return printable(text)


def failure(error: Exception, name: str) -> str:
    """Returns the line of a batch for the failure of one item, `name`, with which it goes on."""
    text = cause(error)
    # some messages begin with the item already, and an operating system's error names a file
    named = text.startswith(f"{printable(name)}: ") or (
        isinstance(error, OSError) and error.filename
    )
    return text if named else short_line(f"{name}: {text}")


def cause(error: Exception) -> str:
    """Returns the reason of a failure as one line, without the name of the item that failed.

    A mistake or an operating system's error has a message that a user understands. Anything else
    may be a defect of the program, so its type is told.
    """
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.filename):
        return line(error)
    kind, text = type(error).__name__, " ".join(str(error).split())
    text = f"{kind}: {text}" if text else kind
    return short_line(f"not enough memory ({text})" if out_of_memory(error) else text)


def out_of_memory(error: Exception) -> bool:
    """Returns True if memory was short, that of the host or of an accelerator."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)  # the latter XLA's


def printable(text: str) -> str:
    """Returns `text` with line breaks, escape sequences and the like replaced by question marks.

    File names may hold any of them.
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def any_text() -> None:
    """Lets stdout and stderr print any text: what their encoding lacks becomes plain characters.

    Windows gives cp1252 to output that goes to a file, which has no arrows, and UTF-8 has no place
    for a file name that is not UTF-8. A decoration or a name must not end a command.
    """
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # not of an object of the caller's
            reconfigure(errors=_PLAIN)


TRAIN = (
    *("absl", "array_record", "clu", "grain", "ml_collections", "orbax", "psutil"),
    *("tensorboardX", "tensorflow_datasets"),
)
"""Modules that the extra ``train`` brings."""


def require_training() -> None:
    """Raises ModuleNotFoundError, with what to install, if a package of ``train`` is missing."""
    for name in TRAIN:
        # array-record has no wheel for Windows, where shards alone need it
        if name != "array_record" and importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(_hint(name), name=name)


def name_the_extra() -> None:
    """Lets imports that fail for want of the extra ``train`` end the process in one line.

    For packages of commands: their modules import such packages before a command can begin.
    """
    others = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
    ) -> None:
        name = (getattr(error, "name", None) or "").partition(".")[0]
        if not isinstance(error, ModuleNotFoundError) or name not in TRAIN:
            return others(kind, error, trace)
        print(_hint(name), file=sys.stderr)
        raise SystemExit(2)

    sys.excepthook = hook


def _hint(name: str) -> str:
    return f"{name} is missing: pip install 'maskgit-sr[train]'"


_PLAIN = "maskgit_sr.plain"
_LIKE = {
    **{"↑": "^", "↓": "v", "→": "->", "–": "-", "—": "-", "−": "-", "×": "x", "±": "+-", "·": "-"},
    **{"…": "...", "’": "'", "“": '"', "”": '"', "≤": "<=", "≥": ">=", "²": "2", "§": "section "},
    **{"α": "alpha", "β": "beta", "γ": "gamma", "σ": "sigma"},
    # rules of Rich's tables, panels and bars
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **{"│": "|", "─": "-", "━": "-", "╸": "-", "╺": "-", "•": "*"},
}


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handles one character that cannot be encoded; a surrogate escape is its byte again."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if 0xDC80 <= ord(character) <= 0xDCFF:  # so that a name on stdout is still that of the file
        return bytes([ord(character) - 0xDC00]), after
    return _LIKE.get(character, "?"), after


codecs.register_error(_PLAIN, _plain)
