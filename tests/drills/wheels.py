"""Which extras install on which systems: the table of docs/installing.md, as Markdown.

    pip install uv && python -m tests.drills.wheels

uv resolves pyproject.toml for each system and Python as if it ran there, markers included, and
reads metadata alone: nothing is installed or downloaded whole. A cell is "yes" where every package
has a wheel, or names the packages that pip builds from source, or the first without either.
"""

import datetime
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


def check(extra: str, system: str, python: str) -> str:
    """Returns a cell for one extra ("" for none) on one system and Python."""
    words = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--format", "pylock.toml"]
    words += ["--python-platform", SYSTEMS[system], "--python-version", python, str(PROJECT)]
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "pylock.toml"
        words += ["--output-file", str(lock), *(["--extra", extra] if extra else [])]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            found = re.search(r"(?:Because|for) `?([\w.-]+)\S* (?:has no|\()", done.stderr)
            return f"no: {found[1]}" if found else f"no: {done.stderr.strip().splitlines()[-1]}"
        packages = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]
    built = [p["name"] for p in packages if "wheels" not in p and "sdist" in p]
    return f"yes; {', '.join(built)} from source" if built else "yes"


def main() -> None:
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    rows = ["", *(name for name in extras if name not in OURS)]
    print(f"{datetime.date.today():%d %B %Y}, Python {', '.join(PYTHONS)}:\n")
    print(f"| | {' | '.join(SYSTEMS)} |\n|---|{'---|' * len(SYSTEMS)}")
    with ThreadPoolExecutor(4) as pool:
        for extra in rows:
            cells = []
            for system in SYSTEMS:
                found = list(pool.map(lambda p: check(extra, system, p), PYTHONS))  # noqa: B023
                each = [": ".join(pair) for pair in zip(PYTHONS, found, strict=True)]
                cells.append(found[0] if len(set(found)) == 1 else "; ".join(each))
            name = f"`[{extra}]`" if extra else "no extra"
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
