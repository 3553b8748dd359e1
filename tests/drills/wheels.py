"""Which extras install on which systems: the table of docs/installing.md, as Markdown.

    pip install uv && python -m tests.drills.wheels [EXTRA ...]

uv resolves pyproject.toml for each system and Python as if it ran there, markers included, and
reads metadata alone: nothing is installed or downloaded whole. A cell is "yes" where every package
has a wheel, or names the packages that pip builds from source, or the first without either.
"""

import datetime
import itertools
import re
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
SYSTEMS = {  # Linux with glibc 2.31, as Debian 11 has it
    "Linux x86-64": "x86_64-manylinux_2_31",
    "Linux arm64": "aarch64-manylinux_2_31",
    "macOS arm64": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
}
PYTHONS = ("3.11", "3.12", "3.13")
OURS = {"test", "dev", "docs"}  # of those who work on the project


def check(extra: str, system: str, python: str) -> tuple[str, list[str]]:
    """Returns a package without wheel or source, "" if all have one, and those without a wheel."""
    words = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--format", "pylock.toml"]
    words += ["--python-platform", SYSTEMS[system], "--python-version", python, str(PROJECT)]
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "pylock.toml"
        words += ["--output-file", str(lock), *(["--extra", extra] if extra else [])]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            found = re.search(r"(?:Because|for) `?([\w.-]+)\S* (?:has no|\()", done.stderr)
            return found[1] if found else done.stderr.strip().splitlines()[-1], []
        packages = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]
    return "", [p["name"] for p in packages if "wheels" not in p and "sdist" in p]


def cell(found: dict[str, tuple[str, list[str]]]) -> str:
    """Returns the words of a cell from what was found for each Python."""
    missing = {python: name for python, (name, _) in found.items() if name}
    if missing:
        where = "no" if len(missing) == len(found) else f"not with {', '.join(missing)}"
        return f"{where}: {', '.join(sorted(set(missing.values())))}"
    built = sorted({name for _, names in found.values() for name in names})
    return f"yes; {', '.join(built)} from source" if built else "yes"


def main() -> None:
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    rows = sys.argv[1:] or ["", *(name for name in extras if name not in OURS)]
    print(f"{datetime.date.today():%d %B %Y}, Python {', '.join(PYTHONS)}:\n")
    print(f"| | {' | '.join(SYSTEMS)} |\n|---|{'---|' * len(SYSTEMS)}")
    with ThreadPoolExecutor(4) as pool:
        for extra in rows:
            cells = []
            for system in SYSTEMS:
                answers = pool.map(
                    check, itertools.repeat(extra), itertools.repeat(system), PYTHONS
                )
                cells.append(cell(dict(zip(PYTHONS, answers, strict=True))))
            name = f"`[{extra}]`" if extra else "no extra"
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
