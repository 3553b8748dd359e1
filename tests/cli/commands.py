"""The `maskgit-sr` command, run in this process."""

from typer.testing import CliRunner

from maskgit_sr import cli


def run(*args, code=0):
    """The result of a command with that exit code; a defect of the program is raised."""
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refuses(message, *args):
    """The result of a command that ends in one line for a mistake."""
    result = run(*args, code=2)
    assert result.stderr.startswith("maskgit-sr: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    return result
