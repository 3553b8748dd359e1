"""The one exception type that a caller is expected to show to a person."""


class UserError(ValueError):
    """A mistake in what was asked for, not in the program.

    The message is one line that names the file or option, what was expected and what was found.
    The command line prints it without a traceback and exits with code 2.
    """
