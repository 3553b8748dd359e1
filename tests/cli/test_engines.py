"""`maskgit-sr serve` and `maskgit-sr batch` hand every word to the server and the Beam engine."""

import importlib
import sys

import pytest

from maskgit_sr import serving
from maskgit_sr.batch import command as beam
from maskgit_sr.serving import command as server
from tests.cli.commands import run


@pytest.fixture
def called(monkeypatch):
    """What the engines' own commands were called with; they end with code 3."""
    calls = []
    for engine in (server, beam):
        monkeypatch.setattr(engine, "main", lambda *given: calls.append(given) or 3)
    return calls


@pytest.mark.parametrize("command", ["serve", "batch"])
@pytest.mark.parametrize(
    "words", ["", "--port 0 --option a=1 --option b=2", "--input a b --runner X -h", "--model=m x"]
)
def test_every_word_and_the_exit_code_pass(called, command, words):
    run(command, *words.split(), code=3)
    assert called == [(words.split(), f"maskgit-sr {command}")]


@pytest.mark.parametrize(("command", "option"), [("serve", "--max_batch"), ("batch", "--runner")])
def test_help_is_the_engines_own(command, option):
    said = run(command, "--help").output
    assert said.startswith(f"usage: maskgit-sr {command} ") and option in said
    assert f"    maskgit-sr {command} --" in said.partition("\n\n")[2]


def test_a_mistake_is_told_under_the_commands_name():
    said = run("serve", "--port", "-1", code=2).stderr
    assert said == "maskgit-sr serve: --port: expected at least 0, found -1\n"
    said = run("batch", "--input", "a", "--output", "b", "--seed", "-1", code=2).stderr
    assert said == "maskgit-sr batch: --seed: expected 0 to 4294967295, found -1\n"


def forget(monkeypatch, *names):
    """Lets modules of the server be imported anew, whoever had imported them."""
    for name in names:
        monkeypatch.delitem(sys.modules, f"maskgit_sr.serving.{name}", raising=False)
        monkeypatch.delattr(serving, name, raising=False)


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        # no such model, so that no server starts if the import succeeds
        (["serve", "--model", "none.safetensors"], "maskgit_sr.serving.app", "serve"),
        (["batch", "--input", "a", "--output", "b"], "apache_beam.io.filesystems", "beam"),
    ],
)
def test_a_missing_extra_is_one_line(monkeypatch, words, module, extra):
    forget(monkeypatch, "app")
    monkeypatch.setitem(sys.modules, module, None)
    said = run(*words, code=2).stderr
    assert said.startswith(f"maskgit-sr {words[0]}: ") and said.count("\n") == 1
    assert f"pip install 'maskgit-sr[{extra}]'" in said


def test_windows_is_told_where_the_server_runs(monkeypatch):
    forget(monkeypatch, "app", "codec", "codecs", "server", "service")
    monkeypatch.setitem(sys.modules, "resource", None)
    # no such model, so that no server starts if the import succeeds
    said = run("serve", "--model", "none.safetensors", code=2).stderr
    line = "maskgit-sr serve: the server needs Linux or macOS; on Windows start it in WSL"
    assert said == f"{line}\n"


@pytest.mark.parametrize("name", ["serve", "beam_upscale"])
def test_the_entries_of_launch_are_the_same_commands(name):
    module = importlib.import_module(f"launch.{name}")
    assert module.main in (server.main, beam.main)
