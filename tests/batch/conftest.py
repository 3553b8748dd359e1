"""launch.beam_upscale in this process."""

import logging

import pytest

from maskgit_sr.inference import load as loading
from tests.batch.folders import BATCH
from tests.serving.models import Watched


@pytest.fixture(scope="module")
def upscaler():
    """Repeats pixels, or makes noise of the seed and a tile's place; compiles at once."""
    return Watched(BATCH)


@pytest.fixture
def run_with(capsys, monkeypatch):
    """launch.beam_upscale with a model: (model, arguments) → exit code, stdout, stderr's lines."""

    def run_with(upscaler, *words):
        def load(name, **options):
            loading.resolve(name)
            loading.pick_device(options["device"])
            assert options["batch"] == BATCH
            return upscaler

        from maskgit_sr.batch import command  # which needs the extra

        monkeypatch.setattr(loading, "load", load)
        logs = logging.getLogger()
        before = logs.level, logs.handlers[:]
        try:
            code = command.main(["--batch", str(BATCH), *map(str, words)])
        except SystemExit as end:
            code = end.code
        assert (logs.level, logs.handlers) == before  # of the caller, as it was
        told = capsys.readouterr()
        return code, told.out, told.err.splitlines()

    return run_with


@pytest.fixture
def run(run_with, upscaler):
    """The same with the model above."""
    return lambda *words: run_with(upscaler, *words)
