"""The library behind the commands."""

import pytest

import maskgit_sr
from tests.cli.commands import FakeUpscaler


@pytest.fixture
def fake(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    upscaler = FakeUpscaler(method)
    monkeypatch.setattr(maskgit_sr, "load", upscaler.load, raising=False)
    return upscaler
