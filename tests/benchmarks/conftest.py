"""The sizes of the configs as tiny networks."""

import dataclasses

import ml_collections
import pytest

from configs import realsrt


@pytest.fixture
def run(monkeypatch):
    """Runs a benchmark with so many words behind its name."""

    def call(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *arguments])
        return module.main()

    return call


@pytest.fixture
def tiny_sizes(monkeypatch, method):
    """Every size of `configs.realsrt` is the method of `tiny`, its GAN late; steps are of 2."""
    get = realsrt.get_config

    def tiny_config(argument):
        config = get(argument)
        config.method = method.name
        config.model = ml_collections.ConfigDict(method.describe())
        config.losses = ml_collections.ConfigDict(dataclasses.asdict(method.losses))
        config.losses.adversarial_start = 1000
        for stage in config.stages.values():
            stage.update(crop=64, batch=2)
        config.data.margin = 0
        return config

    monkeypatch.setattr(realsrt, "get_config", tiny_config)
