"""A process that exports and, where it checks what it made, answers our questions as well."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskgit_sr.export import check

ROOT = Path(__file__).resolve().parents[2]
CODE = f"""
from maskgit_sr import cli, inference
from maskgit_sr.export import artifact, check
check.LOADER = check.Path({str(Path(__file__).with_name("saved_model.py"))!r})
"""


@pytest.fixture(scope="session")
def ask():
    """Runs code with arguments in a folder, where saved_model.py has its questions; stdout."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs tensorflow")

    def ask(folder, code, *arguments):
        names = {"PYTHONPATH": str(ROOT), "LOADER": str(check.LOADER), "TESTED": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", CODE + code, *arguments],
            cwd=folder,
            env={**os.environ, **names},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return ask
