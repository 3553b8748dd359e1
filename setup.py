"""The readme of wheel and sdist: README.md, its links and pictures absolute, as PyPI needs them.

Everything else is in pyproject.toml, the address of the project too.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def absolute(text: str, repository: str) -> str:
    """Returns Markdown with its relative links made absolute, of the repository's newest state."""
    link = re.compile(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)")
    kind = {"": "blob", "!": "raw"}  # a page about the file, or the picture itself
    return link.sub(lambda m: f"{m[1]}{m[2]}({repository}/{kind[m[1]]}/HEAD/{m[3]})", text)


if __name__ == "__main__":  # as a build runs it; tests import it
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=absolute(readme, project["urls"]["Repository"]),
        long_description_content_type="text/markdown",
    )
